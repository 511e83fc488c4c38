package handover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/commands"
)

// Group is the consumer group, and the consumer, as which queues are read.
const Group = "handover"

// queue hands on one queue's messages.
type queue struct {
	f    *Forwarder
	name string
	link *link
}

// run hands on until ctx ends.
func (q *queue) run(ctx context.Context, s *session) {
	b, t := q.f.backoff(), q.link.trouble()
	defer t.over()
	for ctx.Err() == nil {
		began := time.Now()
		err := q.follow(ctx, s, t)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*q.f.pace.backoffMax {
			b.reset()
		}
		t.say(err)
		pause(ctx, b.next(0))
	}
}

// follow hands on window after window. Before it takes new messages, it goes on with
// what is leased already: by a predecessor, or by one that does not know yet that it
// is over with it.
func (q *queue) follow(ctx context.Context, s *session, t *trouble) error {
	id, err := q.subscription(ctx)
	if err != nil {
		return err
	}
	for {
		pulled, err := q.f.cfg.Commands.Resume(ctx, q.caller(), id)
		if err == nil && len(pulled) == 0 {
			t.over()
			pulled, err = q.f.cfg.Commands.Pull(ctx, q.caller(), commands.Pull{SubscriptionID: id, WaitMs: commands.PullWaitMsMax})
		}
		if err != nil {
			return fmt.Errorf("take messages of %s: %w", q.name, err)
		}
		// However long it took: another one may have the lock by now.
		if err := s.check(ctx); err != nil {
			return err
		}
		t.over()
		if err := q.handOn(ctx, id, pulled); err != nil {
			return err
		}
	}
}

func (q *queue) caller() commands.Caller {
	return commands.Caller{TenantID: q.f.cfg.PlatformTenant, Subject: Group, Platform: true, Async: true}
}

// subscription returns the queue's subscription, and makes it where it is missing. It
// is found by its names, which are unique.
func (q *queue) subscription(ctx context.Context) (string, error) {
	id, err := q.find(ctx)
	if err != nil || id != "" {
		return id, err
	}
	window, lease, retries, delay := WindowMax, LeaseMs, retriesMax, 0
	// What a service refuses becomes a dead letter whatever is left of the retries. With
	// none, so would what was in hand when the last instance ended, if none came for as
	// long as a lease is.
	made, _, err := q.f.cfg.Commands.CreateSubscription(ctx, q.caller(), commands.CreateSubscription{
		ID: q.f.cfg.NewID(), Queue: q.name, ConsumerGroup: Group, ConsumerName: Group, OffsetResetPolicy: "earliest",
		MaxPollRecords: &window, SessionTimeoutMs: &lease, MaxRetryAttempts: &retries, RetryDelayMs: &delay,
	})
	if r, ok := errors.AsType[*commands.Refusal](err); ok && r.Code == commands.CodeConflict {
		return "", fmt.Errorf("subscribe to %s: made a moment ago and not folded yet: %w", q.name, err)
	}
	if err != nil {
		return "", fmt.Errorf("subscribe to %s: %w", q.name, err)
	}
	return made.Config.SubscriptionID, nil
}

func (q *queue) find(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, err := q.f.cfg.DB.Query(ctx, `
SELECT s.id::text FROM message_subscriptions s JOIN message_topics t ON t.id = s.topic_id
WHERE t.tenant_id = $1::text::uuid AND t.name = $2 AND t.status <> 'archived' AND s.tenant_id = t.tenant_id
  AND s.consumer_group = $3 AND s.consumer_name = $3`, q.f.cfg.PlatformTenant, q.name, Group)
	if err != nil {
		return "", fmt.Errorf("find the subscription to %s: %w", q.name, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("find the subscription to %s: %w", q.name, err)
	}
	if len(ids) == 0 {
		return "", nil
	}
	return ids[0], nil
}
