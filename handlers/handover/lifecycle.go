package handover

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/handlers/cloudevents"
)

// lifecycle hands on the events of all tenants.
type lifecycle struct {
	f    *Forwarder
	link *link
}

// run hands on a shard's events until ctx ends or the checkpoint is not ours to move.
func (l *lifecycle) run(ctx context.Context, s *session, shard int) error {
	at, err := s.checkpoint(ctx, EventsName, shard)
	if err != nil {
		return err
	}
	r := &runner{lifecycle: l, session: s, shard: shard, at: at, limit: BatchEventsMax, backoff: l.f.backoff(), trouble: l.link.trouble()}
	defer r.trouble.over()
	for ctx.Err() == nil {
		changed := l.f.cfg.Changed()
		batch, err := l.read(ctx, shard, r.at, r.limit)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.trouble.say(err)
			pause(ctx, r.backoff.next(0))
		case len(batch) == 0:
			r.isFine()
			await(ctx, changed, l.f.pace.recheck)
			pause(ctx, gap)
		default:
			if err := r.offer(ctx, batch); err != nil {
				return err
			}
		}
	}
	return errStopped
}

// runner is a shard's events on their way.
type runner struct {
	*lifecycle

	session *session
	shard   int
	// at is the last position that was handed on.
	at int64
	// limit is how many events are read at most: fewer after refusals, and not many more
	// than fitted into the last batch.
	limit, refusals int
	backoff         *backoff
	trouble         *trouble
}

// offer offers a batch once and notes what came of it.
func (r *runner) offer(ctx context.Context, batch []cloudevents.Lifecycle) error {
	r.link.health.inHand(len(batch))
	defer r.link.health.inHand(-len(batch))
	a := answer{}
	body, err := r.render(ctx, batch)
	if err != nil {
		a.err = err
	} else {
		a = r.link.post(ctx, http.Header{"Content-Type": {mimeBatch}}, body)
	}
	if a.isTaken() {
		last := batch[len(batch)-1].Position
		// Also where ctx ends meanwhile, so that a shutdown repeats little.
		if err := r.session.advance(context.WithoutCancel(ctx), EventsName, r.shard, r.at, last); err != nil {
			return err
		}
		r.at, r.limit = last, min(2*len(batch), BatchEventsMax)
		r.link.health.handedOn(len(batch))
		r.isFine()
		return nil
	}
	if ctx.Err() != nil {
		return nil
	}
	if a.isRefused() {
		r.refusals++
	}
	if r.refusals >= RefusalsMax || a.status == http.StatusRequestEntityTooLarge {
		r.limit = max(1, len(batch)/2)
	}
	r.trouble.say(a.problem(), "shard", r.shard, "firstEventId", batch[0].ID, "events", len(batch))
	pause(ctx, r.backoff.next(a.retryAfter))
	return nil
}

func (r *runner) isFine() {
	r.refusals = 0
	r.backoff.reset()
	r.trouble.over()
}

// await returns when something changed, after a while, or when ctx ends.
func await(ctx context.Context, changed <-chan struct{}, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
}

// read returns what stands behind a position in a shard, in order. There are no gaps: a
// projector commits a shard's events in the order of its log.
func (l *lifecycle) read(ctx context.Context, shard int, after int64, limit int) ([]cloudevents.Lifecycle, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, err := l.f.cfg.DB.Query(ctx, `
SELECT shard, position, event_id::text, kind, tenant_id::text, topic_id::text, subscription_id::text, message_id, occurred_at,
    coalesce(metadata->>'actor', ''), coalesce(metadata->>'traceparent', ''), data::text
FROM (
    SELECT *, sum(octet_length(data::text)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes, row_number() OVER (ORDER BY position) AS n
    FROM (SELECT * FROM event_history WHERE shard = $1 AND position > $2 ORDER BY position LIMIT $3) h
) w WHERE bytes <= $4 OR n = 1 ORDER BY position`, shard, after, limit, BatchBytesMax)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	batch, err := pgx.CollectRows(rows, pgx.RowToStructByPos[cloudevents.Lifecycle])
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return batch, nil
}
