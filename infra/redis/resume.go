package redis

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Resume takes up again what a subscription has leased and not settled, on behalf of a
// successor of its only consumer: the leases are renewed for req.For from now and the
// messages returned, retries first, then each partition's in order. It is the same
// attempt, under the same [events.Lease]. Where req's limits cut the answer off, the
// rest comes once these are settled. With nothing leased it returns none.
//
// A lease that ran out and is being decided on is resumed too. Where that decision
// comes later all the same, settling finds the lease lost, and the message comes again
// as another attempt.
func (l *Log) Resume(ctx context.Context, req events.LeaseRequest) ([]events.Leased, error) {
	s := l.shards[req.Shard]
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	life := l.life.Load()
	v, err := l.run(ctx, life, resumeScript, s.keys.due(), []any{
		s.keys.prefix, req.TopicID, req.Group, req.Consumer, req.SubscriptionID, req.SubscriptionVersion,
		req.MessagesMax, req.For.Milliseconds(), req.BytesMax,
	})
	if err != nil {
		if strings.Contains(err.Error(), "NOGROUP") {
			return nil, events.ErrStale
		}
		return nil, fmt.Errorf("resume: %w", err)
	}
	leased, _, err := l.readLeases(req, life, v)
	return leased, err
}

// readLeases reads a script's answer {status, now, {{stream, entry id, fields}…},
// attempts before, 1 for more}, and notes when the leases end.
func (l *Log) readLeases(req events.LeaseRequest, life *life, v any) (leased []events.Leased, more bool, err error) {
	var r reply
	answer := r.list(v)
	status, now := r.int(r.at(answer, 0)), r.int(r.at(answer, 1))
	if r.err == nil && status != 0 {
		return nil, false, events.ErrStale
	}
	items, attemptsBefore := r.list(r.at(answer, 2)), r.int(r.at(answer, 3))
	leased = make([]events.Leased, 0, len(items))
	for _, item := range items {
		one := r.list(item)
		m, err := readLeased(r.str(r.at(one, 0)), r.str(r.at(one, 1)), r.list(r.at(one, 2)), attemptsBefore)
		if err != nil {
			// Nothing of ours writes such an entry. It must not keep the others back.
			l.cfg.Logger.Error("message that cannot be read", "shard", req.Shard, "topic", req.TopicID, "group", req.Group, "error", err)
			continue
		}
		m.LeasedAtMs, m.Life = now, life.number
		leased = append(leased, m)
	}
	if len(answer) > 4 {
		more = r.int(r.at(answer, 4)) == 1
	}
	if r.err != nil {
		return nil, false, fmt.Errorf("leases: %w", r.err)
	}
	if len(leased) > 0 {
		l.shards[req.Shard].nextDue.at(time.Now().Add(req.For))
	}
	return leased, more, nil
}
