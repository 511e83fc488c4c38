package jobs

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// positionBits is how far a position's time is shifted; see events.MakePosition.
const positionBits = 20

// folded waits until history has what the log has now, and returns how far history goes: a
// job is about what there was when it was asked for.
func (w *worker) folded(ctx context.Context) (upTo int64, err error) {
	end, err := w.jobs.cfg.LogEnd(ctx, w.shard)
	if err != nil {
		return 0, fmt.Errorf("where the log ends: %w", err)
	}
	for pause := backoffMin; ; pause = min(2*pause, backoffMax) {
		err := w.jobs.cfg.Pool.QueryRow(ctx, `SELECT coalesce(max(position), 0) FROM projection_checkpoints WHERE projection = 'read' AND shard = $1`, w.shard).Scan(&upTo)
		if err != nil {
			return 0, fmt.Errorf("where history ends: %w", err)
		}
		if upTo >= end {
			return upTo, nil
		}
		if err := w.wait(ctx, pause); err != nil {
			return 0, err
		}
	}
}

// bound notes where the job's history begins and ends, and how many messages that are.
func (w *worker) bound(ctx context.Context) error {
	upTo, err := w.folded(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	spec, s := w.job.Spec, &w.job.state
	s.UpTo = upTo
	var total int64
	if w.job.Kind == KindRedrive {
		err := w.jobs.cfg.Pool.QueryRow(ctx, `SELECT count(DISTINCT message_id) FROM dead_letters d WHERE `+deadWhere, w.deadArgs(0)...).Scan(&total)
		if err != nil {
			return fmt.Errorf("count dead letters: %w", err)
		}
		w.job.Total = &total
		return nil
	}
	if spec.From != nil {
		s.Cursor = max(spec.From.UnixMilli(), 0)<<positionBits - 1
	}
	if spec.To != nil {
		s.UpTo = min(s.UpTo, spec.To.UnixMilli()<<positionBits-1)
	}
	return nil
}

// original is a message as history has it.
type original struct {
	events.MessagePublished

	tenantID  string
	partition int
	offset    int64
	position  events.Position
	// isMissing says that history has where it was published and not what it was.
	isMissing bool
}

// isErased reports whether only the skeleton of the message is left.
func (o original) isErased() bool { return o.ErasedSHA256 != "" }

func (o original) meta() events.DeliveryMeta {
	m := o.MessagePublished
	return events.DeliveryMeta{
		TenantID: o.tenantID, Key: m.Key, ContentType: m.ContentType, CorrelationID: m.CorrelationID, TraceParent: m.TraceParent, Sealed: m.Sealed,
		Headers: m.Headers, MaxRetryAttempts: m.MaxRetryAttempts, RetryDelayMs: m.RetryDelayMs,
	}
}

// redriven is the message for a group that gets it once more. It does not expire: somebody
// asked for it.
func (o original) redriven() commands.Redriven {
	return commands.Redriven{
		MessageID: o.MessageID, Meta: o.meta(), Payload: o.Payload, Partition: o.partition, Offset: o.offset, Position: o.position,
	}
}

// payloads reads the events that gave the log messages' payloads, no more than fit:
// messages that are not returned are to be asked for again, unless none is.
func (w *worker) payloads(ctx context.Context, messageIDs []string) (map[string]original, error) {
	rows, err := w.jobs.cfg.Pool.Query(ctx, `
SELECT kind, data, tenant_id, position FROM (
    SELECT h.kind, h.data::text AS data, h.tenant_id::text AS tenant_id, h.position,
        sum(octet_length(h.data::text)) OVER (ORDER BY array_position($1::text[], h.message_id::text) ROWS UNBOUNDED PRECEDING) - octet_length(h.data::text) AS before
    FROM event_history h WHERE h.scope = 'message' AND h.message_id = ANY ($1::text[]) AND h.kind IN ('message.published', 'message.scheduled')) w
WHERE before < $2`, messageIDs, partBytesMax)
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	found := map[string]original{}
	var kind, data, tenantID string
	var position int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &data, &tenantID, &position}, func() error {
		e, err := events.Decode(events.Kind(kind), []byte(data))
		if err != nil {
			return fmt.Errorf("message: %w", err)
		}
		o := original{tenantID: tenantID, position: events.Position(position)}
		if published, ok := e.(events.MessagePublished); ok {
			o.MessagePublished = published
		}
		if scheduled, ok := e.(events.MessageScheduled); ok {
			o.MessagePublished = scheduled.MessagePublished
		}
		o.partition, o.offset = o.Partition, o.Offset
		found[o.MessageID] = o
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	return found, nil
}

const deadWhere = `d.topic_id = $1 AND d.consumer_group = $2 AND d.position > $3 AND d.position <= $4
    AND ($5::text[] IS NULL OR d.message_id = ANY ($5)) AND ($6 = '' OR d.reason = $6)
    AND ($7::timestamptz IS NULL OR d.dead_at >= $7) AND ($8::timestamptz IS NULL OR d.dead_at < $8)`

func (w *worker) deadArgs(after int64) []any {
	spec := w.job.Spec
	return []any{w.topicID, w.sub.Group(), after, w.job.state.UpTo, spec.MessageIDs, spec.Reason, spec.From, spec.To}
}

// redrivePart redrives the next dead letters.
func (w *worker) redrivePart(ctx context.Context) (more bool, err error) {
	query, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	type letter struct {
		Position, Offset int64
		MessageID        string
		Partition        int
		Letters          int64
	}
	rows, err := w.jobs.cfg.Pool.Query(query, `
SELECT d.position, d.offset_value, d.message_id, d.partition_id,
    (SELECT count(*) FROM dead_letters x WHERE x.topic_id = d.topic_id AND x.consumer_group = d.consumer_group AND x.message_id = d.message_id)
FROM dead_letters d WHERE `+deadWhere+` ORDER BY d.position LIMIT `+strconv.Itoa(partMax), w.deadArgs(w.job.state.Cursor)...)
	if err != nil {
		return false, fmt.Errorf("read dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, pgx.RowToStructByPos[letter])
	if err != nil {
		return false, fmt.Errorf("read dead letters: %w", err)
	}
	ids := make([]string, len(letters))
	for i, l := range letters {
		ids[i] = l.MessageID
	}
	found, err := w.payloads(query, ids)
	if err != nil {
		return false, err
	}
	cmd := commands.Redrive{SubscriptionID: w.job.Spec.SubscriptionID, JobID: w.job.ID, Attempt: w.job.state.Attempt}
	taken := map[string]bool{}
	cursor, missing := w.job.state.Cursor, int64(0)
	for _, l := range letters {
		o, ok := found[l.MessageID]
		switch {
		case taken[l.MessageID]:
		case ok && o.isErased():
			taken[l.MessageID] = true
			missing++
		case ok:
			m := o.redriven()
			m.Partition, m.Offset, m.DeadLetters = l.Partition, l.Offset, l.Letters
			cmd.Messages, taken[l.MessageID] = append(cmd.Messages, m), true
		case len(found) > 0 && len(taken) < len(found):
			missing++ // retention took it
		case len(found) == 0:
			missing++
		default:
			// It did not fit: the next part begins with it.
			return true, w.redrive(ctx, cmd, cursor, missing)
		}
		cursor = l.Position
	}
	return len(letters) == partMax, w.redrive(ctx, cmd, cursor, missing)
}

func (w *worker) redrive(ctx context.Context, cmd commands.Redrive, cursor, missing int64) error {
	done, failed, err := w.redriven(ctx, cmd)
	if err != nil {
		return fmt.Errorf("redrive: %w", err)
	}
	w.job.Done += done
	w.job.Failed += failed + missing
	w.job.state.Cursor = cursor
	return nil
}

// redriven brings messages to the group, and returns how many came and how many did not,
// as they were erased since they were read.
func (w *worker) redriven(ctx context.Context, cmd commands.Redrive) (done, failed int64, err error) {
	if len(cmd.Messages) == 0 {
		return 0, 0, nil
	}
	err = w.patiently(ctx, func(ctx context.Context) error {
		n, err := w.jobs.cfg.Commands.Redrive(ctx, cmd)
		done = int64(n)
		return err //nolint:wrapcheck // says what it does
	})
	return done, int64(len(cmd.Messages)) - done, err
}
