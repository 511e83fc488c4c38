package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

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

// DueWork is who decides on what is due and only Redis knows: each appends what it
// decides. What fails comes again in a while.
type DueWork struct {
	// Expired is given leases that ran out.
	Expired func(ctx context.Context, shard int, expired []events.ExpiredLease) error
	// Tick publishes a tick of a recurring schedule, however often it is asked, and
	// returns the next one's time in ms since 1970.
	Tick func(ctx context.Context, shard int, tick events.DueTick) (nextMs int64, err error)
	// Forward publishes a dead letter to its queue, however often it is asked.
	Forward func(ctx context.Context, shard int, letter events.DueForward) error
}

// RunDue moves what is due on every shard until ctx ends: retries whose time has
// come go back to work, scheduled messages are published, and work is given what it is
// to decide on. Any number of instances may run it.
func (l *Log) RunDue(ctx context.Context, work DueWork) {
	var wg sync.WaitGroup
	for n, s := range l.shards {
		wg.Go(func() {
			for ctx.Err() == nil {
				l.moveDue(ctx, n, s, work)
				s.nextDue.wait(ctx)
			}
		})
	}
	wg.Wait()
}

// moveDue moves all that is due now and notes when more will be.
func (l *Log) moveDue(ctx context.Context, n int, s *shard, work DueWork) {
	for more := true; more && ctx.Err() == nil; {
		var err error
		if more, err = l.moveDueOnce(ctx, n, s, work); err != nil && ctx.Err() == nil {
			l.cfg.Logger.Warn("move what is due", "shard", n, "error", err)
		}
	}
}

// dueItems is what the due script hands out.
type dueItems struct {
	expired  []events.ExpiredLease
	ticks    []events.DueTick
	forwards []events.DueForward
	// nowMs and nextMs are the moment and when something is due next, -1 for never.
	nowMs, nextMs int64
}

func (l *Log) moveDueOnce(ctx context.Context, n int, s *shard, work DueWork) (more bool, err error) {
	life := l.life.Load()
	v, err := l.run(ctx, life, dueScript, s.keys.due(), []any{s.keys.prefix, dueItemsMax, dueAside.Milliseconds(), dueBytesMax})
	if err != nil {
		return false, fmt.Errorf("due script: %w", err)
	}
	items, err := l.readDue(n, life, v)
	if err != nil {
		return false, fmt.Errorf("due script: %w", err)
	}
	// One that fails keeps nobody else from its turn: it is set aside, so that it is not
	// what comes next.
	err = l.decideDue(ctx, n, s, items, work)
	if items.nextMs > items.nowMs {
		s.nextDue.at(time.Now().Add(time.Duration(items.nextMs-items.nowMs) * time.Millisecond))
	}
	return items.nextMs >= 0 && items.nextMs <= items.nowMs, err
}

func (l *Log) decideDue(ctx context.Context, n int, s *shard, items dueItems, work DueWork) error {
	var errs []error
	if len(items.expired) > 0 {
		if err := work.Expired(ctx, n, items.expired); err != nil {
			errs = append(errs, fmt.Errorf("settle %d expired leases: %w", len(items.expired), err))
		}
	}
	for _, tick := range items.ticks {
		next, err := work.Tick(ctx, n, tick)
		if err == nil {
			_, err = l.run(ctx, l.life.Load(), tickScript, s.keys.due(), []any{s.keys.prefix, tick.ScheduleID, tick.TickMs, next})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tick of schedule %s: %w", tick.ScheduleID, err))
		}
	}
	// Where one cannot be published now the next ones could not either: they are not
	// tried, so that a queue that is full for long costs a call and not one a letter.
	refused := map[string]bool{}
	for _, letter := range items.forwards {
		if refused[letter.Event.SubscriptionID] {
			continue
		}
		err := work.Forward(ctx, n, letter)
		if err == nil {
			err = l.forwarded(ctx, s, letter.Member)
		}
		if err != nil {
			refused[letter.Event.SubscriptionID] = true
			errs = append(errs, fmt.Errorf("dead letter %s: %w", letter.Event.MessageID, err))
		}
	}
	return errors.Join(errs...)
}

// forwarded takes a dead letter that was published out of the outbox.
func (l *Log) forwarded(ctx context.Context, s *shard, member string) error {
	_, err := l.client.TxPipelined(ctx, func(p goredis.Pipeliner) error {
		p.HDel(ctx, s.keys.outbox(), member)
		p.ZRem(ctx, s.keys.due(), member)
		return nil
	})
	return wrap("outbox", err)
}

// readDue reads the due script's answer. What cannot be read (nothing of ours writes
// it) is logged and keeps the others from nothing.
func (l *Log) readDue(n int, life *life, v any) (dueItems, error) {
	var r reply
	answer := r.list(v)
	items := dueItems{nowMs: r.int(r.at(answer, 0)), nextMs: r.int(r.at(answer, 1))}
	unreadable := func(what, name string, err error) {
		l.cfg.Logger.Error("due item that cannot be read", "shard", n, "what", what, "name", name, "error", err)
	}
	for _, item := range r.list(r.at(answer, 2)) {
		f := r.list(item)
		e := events.ExpiredLease{
			SubscriptionID: r.str(r.at(f, 0)), TopicID: r.str(r.at(f, 1)), Group: r.str(r.at(f, 2)), Consumer: r.str(r.at(f, 5)),
		}
		var err error
		if e.Leased, err = readLeased(r.str(r.at(f, 3)), r.str(r.at(f, 4)), r.list(r.at(f, 7)), r.int(r.at(f, 8))); err != nil {
			unreadable("lease", e.SubscriptionID, err)
			continue
		}
		e.LeasedAtMs, e.Life = r.int(r.at(f, 6)), life.number
		items.expired = append(items.expired, e)
	}
	for _, item := range r.list(r.at(answer, 3)) {
		f := r.list(item)
		items.ticks = append(items.ticks, events.DueTick{
			ScheduleID: r.str(r.at(f, 0)), TickMs: r.int(r.at(f, 1)), State: []byte(r.str(r.at(f, 2))),
		})
	}
	for _, item := range r.list(r.at(answer, 4)) {
		f := r.list(item)
		letter := events.DueForward{Member: r.str(r.at(f, 0))}
		e, err := events.Decode(events.KindMessageDeadLettered, []byte(r.str(r.at(f, 1))))
		if err == nil {
			letter.Event, _ = e.(events.MessageDeadLettered)
			letter.Message, err = readLeased(r.str(r.at(f, 2)), r.str(r.at(f, 3)), r.list(r.at(f, 4)), 0)
		}
		if err != nil {
			unreadable("dead letter", letter.Member, err)
			continue
		}
		items.forwards = append(items.forwards, letter)
	}
	return items, r.err
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
