package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// published is a place at which a message was published. The partition is -1 where only the
// message itself is to say: reading large events for that alone takes long.
type published struct {
	position  int64
	messageID string
	partition int
	offset    int64
}

// nextPublished reads where the next messages were published, in the order of the log, and
// how far it looked. That is bounded too: a queue may be quiet where its tenant's others
// are not.
func (w *worker) nextPublished(ctx context.Context) (list []published, upTo int64, more bool, err error) {
	rows, err := w.jobs.cfg.Pool.Query(ctx, `
WITH seen AS MATERIALIZED (
    SELECT h.position, CASE WHEN h.topic_id = $5 AND h.kind IN ('message.published', 'message.released') THEN h.message_id END AS message_id,
        CASE WHEN h.topic_id = $5 AND (h.kind = 'message.released' OR (h.kind = 'message.published' AND $6)) THEN h.data END AS data
    FROM event_history h
    WHERE h.scope = 'message' AND h.tenant_id = $1 AND h.shard = $2 AND h.position > $3 AND h.position <= $4
    ORDER BY h.position LIMIT `+strconv.Itoa(scanMax)+`
), found AS MATERIALIZED (SELECT * FROM seen WHERE message_id IS NOT NULL ORDER BY position LIMIT `+strconv.Itoa(partMax)+`
), ends AS (SELECT count(*) AS n, coalesce(max(position), 0) AS up_to FROM seen)
SELECT f.position, f.message_id, coalesce((f.data->>'partition')::int, -1), coalesce((f.data->>'offset')::bigint, -1), ends.n, ends.up_to
FROM ends LEFT JOIN found f ON true ORDER BY f.position`, w.ownerID, w.shard, w.job.state.Cursor, w.job.state.UpTo, w.topicID,
		w.job.Kind == KindSeek)
	if err != nil {
		return nil, 0, false, fmt.Errorf("read history: %w", err)
	}
	var position *int64
	var messageID *string
	var partition int
	var offset, looked, end int64
	_, err = pgx.ForEachRow(rows, []any{&position, &messageID, &partition, &offset, &looked, &end}, func() error {
		if messageID != nil {
			list = append(list, published{position: *position, messageID: *messageID, partition: partition, offset: offset})
		}
		return nil
	})
	if err != nil {
		return nil, 0, false, fmt.Errorf("read history: %w", err)
	}
	if len(list) == partMax {
		return list, list[partMax-1].position, true, nil
	}
	return list, max(end, w.job.state.Cursor), looked == scanMax, nil
}

// isWanted reports whether a seek owes a message: what Redis still held it did not.
func (w *worker) isWanted(p published) bool {
	spec := w.job.Spec
	if w.job.Kind != KindSeek {
		return true
	}
	return p.offset >= spec.FromOffset && p.partition < len(spec.Before) && p.offset < spec.Before[p.partition]
}

// replayPart replays the next messages.
func (w *worker) replayPart(ctx context.Context) (more bool, err error) {
	query, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	list, upTo, more, err := w.nextPublished(query)
	if err != nil {
		return false, err
	}
	var wanted []published
	var ids []string
	for _, p := range list {
		if w.isWanted(p) {
			wanted, ids = append(wanted, p), append(ids, p.messageID)
		}
	}
	found, err := w.payloads(query, ids)
	if err != nil {
		return false, err
	}
	var batch []original
	there := 0
	for i, p := range wanted {
		o, ok := found[p.messageID]
		if !ok && i > 0 && there > 0 && there == len(found) {
			// It did not fit, or nothing behind it is there: it is looked for again.
			return true, w.replay(ctx, batch, wanted[i-1].position)
		}
		if ok {
			there++
		}
		if p.partition >= 0 {
			o.partition, o.offset = p.partition, p.offset
		}
		o.position, o.isMissing = events.Position(p.position), !ok || o.isErased()
		batch = append(batch, o)
	}
	return more, w.replay(ctx, batch, upTo)
}

// replay hands messages on, each when its time comes. Progress is noted with each step, as
// the job may have to wait between.
func (w *worker) replay(ctx context.Context, batch []original, cursor int64) error {
	for len(batch) > 0 {
		if batch[0].isMissing {
			w.passed(0, 1, batch[0])
			batch = batch[1:]
			continue
		}
		n := len(batch)
		if w.job.Spec.Speed > 0 {
			var err error
			if n, err = w.pace(ctx, batch); err != nil {
				return err
			}
		}
		n = min(n, w.handOnMax())
		for i := range batch[:n] {
			if batch[i].isMissing {
				n = i
				break
			}
		}
		if err := w.handOn(ctx, batch[:n]); err != nil {
			return err
		}
		batch = batch[n:]
	}
	w.job.state.Cursor = cursor
	return nil
}

// passed notes that the job is through with messages, the last of which is this one.
func (w *worker) passed(done, failed int64, last original) {
	w.job.Done += done
	w.job.Failed += failed
	w.job.state.Cursor = int64(last.position)
}

// handOnMax is how many messages are handed on at once. Those for a queue go in all or none,
// so that one that waits for room is not overtaken.
func (w *worker) handOnMax() int {
	if w.job.Spec.TargetQueue != "" {
		return atomicMax
	}
	return partMax
}

// pace waits until the first of the batch is due and returns how many are.
func (w *worker) pace(ctx context.Context, batch []original) (int, error) {
	s := &w.job.state
	if s.StartMs == 0 {
		s.StartMs, s.FirstMs = time.Now().UnixMilli(), batch[0].position.Ms()
	}
	dueAt := func(o original) time.Time {
		ms := min(float64(o.position.Ms()-s.FirstMs)/w.job.Spec.Speed, paceMsMax)
		return time.UnixMilli(s.StartMs + int64(ms))
	}
	if err := w.wait(ctx, time.Until(dueAt(batch[0]))); err != nil {
		return 0, err
	}
	n := 1
	for n < len(batch) && !dueAt(batch[n]).After(time.Now()) {
		n++
	}
	return n, nil
}

// headerReplayOf names the message that a replayed one is a copy of.
const headerReplayOf = "replay-of-message-id"

func (w *worker) handOn(ctx context.Context, batch []original) error {
	if w.job.Spec.TargetQueue == "" {
		cmd := commands.Redrive{SubscriptionID: w.job.Spec.SubscriptionID, JobID: w.job.ID, Attempt: w.job.state.Attempt}
		for _, o := range batch {
			cmd.Messages = append(cmd.Messages, o.redriven())
		}
		done, failed, err := w.redriven(ctx, cmd)
		if err == nil {
			w.passed(done, failed, batch[len(batch)-1])
		}
		return err
	}
	todo := make([]commands.Publish, len(batch))
	for i, o := range batch {
		var err error
		todo[i], err = w.copyOf(ctx, o)
		switch {
		case err == nil:
		case errors.Is(err, commands.ErrUnreadable) && i == 0:
			w.passed(0, 1, o)
			return w.rest(ctx, batch[1:])
		case errors.Is(err, commands.ErrUnreadable):
			if err := w.publish(ctx, batch[:i], todo[:i]); err != nil {
				return err
			}
			return w.rest(ctx, batch[i:])
		default:
			return err
		}
	}
	return w.publish(ctx, batch, todo)
}

// rest is handOn, of none too.
func (w *worker) rest(ctx context.Context, batch []original) error {
	if len(batch) == 0 {
		return nil
	}
	return w.handOn(ctx, batch)
}

// copyOf is what is published of a message to the target queue.
func (w *worker) copyOf(ctx context.Context, o original) (commands.Publish, error) {
	payload := []byte(o.Payload)
	if o.Sealed {
		var err error
		if payload, err = w.jobs.cfg.Open(ctx, o.tenantID, o.TopicID, o.MessageID, payload); err != nil {
			return commands.Publish{}, fmt.Errorf("decrypt a payload: %w", err)
		}
	}
	headers := map[string]string{headerReplayOf: o.MessageID}
	maps.Copy(headers, o.Headers)
	return commands.Publish{
		ID: w.jobs.cfg.NewID(), Queue: w.job.Spec.TargetQueue, Payload: payload, Key: o.Key, Headers: headers, CorrelationID: o.CorrelationID,
		ContentType: o.ContentType, TraceParent: o.TraceParent, EventKey: fmt.Sprintf("replay %s %s", w.job.ID, o.MessageID),
		MaxRetryAttempts: o.MaxRetryAttempts, RetryDelayMs: o.RetryDelayMs,
	}, nil
}

// publish publishes copies of messages, together or else one by one: where the queue has not
// room for all of them, and where one can never be published, which does not end the job.
func (w *worker) publish(ctx context.Context, batch []original, todo []commands.Publish) error {
	together := func(ctx context.Context) error { return w.publishOnce(ctx, todo) }
	if len(todo) == 1 {
		err := w.patiently(ctx, together)
		refusal, refused := errors.AsType[*commands.Refusal](err)
		switch {
		case refused && (refusal.Code == commands.CodeValidationFailed || refusal.Code == commands.CodePayloadTooLarge):
			w.passed(0, 1, batch[0])
			return nil
		case err == nil:
			w.passed(1, 0, batch[0])
		}
		return err
	}
	err := together(ctx)
	if err == nil {
		w.passed(int64(len(batch)), 0, batch[len(batch)-1])
		return nil
	}
	if _, refused := errors.AsType[*commands.Refusal](err); !refused && !commands.IsUnavailable(err) {
		return err
	}
	for i := range todo {
		if err := w.publish(ctx, batch[i:i+1], todo[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// publishOnce publishes all or none, and returns why none.
func (w *worker) publishOnce(ctx context.Context, todo []commands.Publish) error {
	caller := commands.Owner{Subject: w.job.CreatedBy, Platform: w.job.state.Platform}.Caller(w.job.TenantID)
	out, err := w.jobs.cfg.Commands.Publish(ctx, caller, todo, true)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	for _, o := range out {
		if o.Err == nil {
			continue
		}
		if err = o.Err; !commands.IsAborted(err) {
			break // it is why the others were not published
		}
	}
	return err
}
