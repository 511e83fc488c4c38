package redis

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Limits of the mover of what is due.
const (
	// dueItemsMax is how many items one script call moves.
	dueItemsMax = 200
	// dueBytesMax is after how many bytes of messages a script call stops.
	dueBytesMax = 4 << 20
	// dueAside is for how long an instance that was handed an expired lease may
	// decide on it before another instance is asked.
	dueAside = 5 * time.Second
	// dueRecheck is how often an instance looks without a reason of its own: the
	// reason may have been another instance's, which is gone.
	dueRecheck = time.Second
)

// RunDue moves what is due on every shard until ctx ends: retries whose time has
// come go back to work, expired leases are given to onExpired, which appends what
// it decides. Any number of instances may run it.
func (l *Log) RunDue(ctx context.Context, onExpired func(ctx context.Context, shard int, expired []events.ExpiredLease) error) {
	var wg sync.WaitGroup
	for n, s := range l.shards {
		wg.Go(func() {
			for ctx.Err() == nil {
				l.moveDue(ctx, n, s, onExpired)
				s.nextDue.wait(ctx)
			}
		})
	}
	wg.Wait()
}

// moveDue moves all that is due now and notes when more will be.
func (l *Log) moveDue(ctx context.Context, n int, s *shard, onExpired func(context.Context, int, []events.ExpiredLease) error) {
	for ctx.Err() == nil {
		more, err := l.moveDueOnce(ctx, n, s, onExpired)
		if err != nil && ctx.Err() == nil {
			l.cfg.Logger.Warn("move what is due", "shard", n, "error", err)
		}
		if err != nil || !more {
			return
		}
	}
}

func (l *Log) moveDueOnce(ctx context.Context, n int, s *shard, onExpired func(context.Context, int, []events.ExpiredLease) error) (more bool, err error) {
	v, err := dueScript.Run(ctx, l.client, []string{s.keys.due()}, s.keys.prefix, dueItemsMax, dueAside.Milliseconds(), dueBytesMax).Result()
	if err != nil {
		return false, fmt.Errorf("due script: %w", err)
	}
	var r reply
	answer := r.list(v)
	now, next := r.int(r.at(answer, 0)), r.int(r.at(answer, 1))
	items := r.list(r.at(answer, 2))
	expired := make([]events.ExpiredLease, 0, len(items))
	for _, item := range items {
		f := r.list(item)
		e := events.ExpiredLease{
			SubscriptionID: r.str(r.at(f, 0)), TopicID: r.str(r.at(f, 1)), Group: r.str(r.at(f, 2)), Consumer: r.str(r.at(f, 5)),
		}
		var err error
		if e.Leased, err = readLeased(r.str(r.at(f, 3)), r.str(r.at(f, 4)), r.list(r.at(f, 7))); err != nil {
			l.cfg.Logger.Error("expired lease that cannot be read", "shard", n, "topic", e.TopicID, "group", e.Group, "error", err)
			continue
		}
		e.LeasedAtMs = r.int(r.at(f, 6))
		expired = append(expired, e)
	}
	if r.err != nil {
		return false, fmt.Errorf("due script: %w", r.err)
	}
	if len(expired) > 0 {
		if err := onExpired(ctx, n, expired); err != nil {
			return false, fmt.Errorf("settle %s expired leases: %w", strconv.Itoa(len(expired)), err)
		}
	}
	if next < 0 {
		return false, nil
	}
	if next <= now {
		return true, nil
	}
	s.nextDue.at(time.Now().Add(time.Duration(next-now) * time.Millisecond))
	return false, nil
}

// nudge is an alarm clock that many set and one waits for: the earliest wins.
type nudge struct {
	mu   sync.Mutex
	next time.Time
	set  chan struct{}
}

func (a *nudge) init() { a.set = make(chan struct{}, 1) }

// at asks for a wake-up at t, unless an earlier one is asked for already.
func (a *nudge) at(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.next.IsZero() && !t.Before(a.next) {
		return
	}
	a.next = t
	select {
	case a.set <- struct{}{}:
	default:
	}
}

// wait returns at the time asked for, after dueRecheck, or when ctx ends.
func (a *nudge) wait(ctx context.Context) {
	recheck := time.NewTimer(dueRecheck)
	defer recheck.Stop()
	for {
		a.mu.Lock()
		next := a.next
		a.mu.Unlock()
		var alarm <-chan time.Time
		if !next.IsZero() {
			t := time.NewTimer(time.Until(next))
			defer t.Stop() //nolint:revive // few: once per earlier alarm
			alarm = t.C
		}
		select {
		case <-a.set:
			continue
		case <-alarm:
		case <-recheck.C:
		case <-ctx.Done():
		}
		a.mu.Lock()
		a.next = time.Time{}
		a.mu.Unlock()
		return
	}
}
