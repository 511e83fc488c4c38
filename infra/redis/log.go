package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// Limits of the appender. One script call blocks Redis while it runs, so calls
// are bounded in operations and bytes; what waits behind them is bounded too.
const (
	// AppendOpsMax is how many appends share one script call.
	AppendOpsMax = 256
	// AppendBytesMax is how many bytes share one script call; a single larger
	// request still goes, alone.
	AppendBytesMax = 4 << 20
	// AppendQueueMax is how many requests wait per shard before callers wait too.
	AppendQueueMax = 1024
	// appendCallsMax is how many script calls a shard has under way. With one, what
	// comes meanwhile makes the next one larger, and appends stand in the log in the
	// order in which they came; with two, measured, it is no faster.
	appendCallsMax = 1
	// keptPerPartition is how many finished messages a partition keeps in Redis,
	// for subscriptions that start from the earliest.
	keptPerPartition = 10_000
)

// Config is what a [Log] needs.
type Config struct {
	Client goredis.UniversalClient
	// Readers is for those who follow a log: each holds a connection while it waits.
	// Nil is Client.
	Readers goredis.UniversalClient
	// Epoch is what the log is known by, empty for whatever it is.
	Epoch string
	// Lost is told when Redis turned out not to hold the log that is known by Epoch; nil
	// for nobody. It must not block.
	Lost func()
	// Prefix starts every key, REDIS_KEY_PREFIX.
	Prefix string
	// Shards is the store's number of shards, fixed when it is first used.
	Shards int
	// KeepFolded is for how long what is folded stays in the log all the same: a Postgres
	// that fails over may come back without what it committed last.
	KeepFolded time.Duration
	// QueueLengthMax is how many unconsumed messages a queue holds; more are
	// refused. 0 is any number.
	QueueLengthMax int64
	// IdempotencyTTL is how long an idempotency key is remembered.
	IdempotencyTTL time.Duration
	// DecodeTopic and DecodeSubscription read the states given in
	// events.Append.State; the results are cached and must not be changed.
	DecodeTopic        func(state []byte) (any, error)
	DecodeSubscription func(state []byte) (any, error)
	DecodeSchedule     func(state []byte) (any, error)
	// KeysDestroyed is told of tenants whose keys were destroyed, nil for nobody. It must
	// not block. An announcement may be lost.
	KeysDestroyed func(tenantID string)
	Logger        *slog.Logger
}

// Log is the store's log, and delivery from it. It implements events.Log. Call
// [Log.Run] for wake-ups, and [Log.Close] in the end.
type Log struct {
	cfg        Config
	client     goredis.UniversalClient
	shards     []*shard
	aggregates aggregates
	hub        hub
	// wakeSilence is the constant, but for tests.
	wakeSilence time.Duration
	moved       signal
	// life is the log's, from one loss of Redis' data to the next.
	life atomic.Pointer[life]
	// changed is raised when an aggregate changed.
	changed signal
	closing chan struct{}
	workers sync.WaitGroup
}

type shard struct {
	keys    keys
	calls   chan *call
	folded  foldTracker
	nextDue nudge
	// announcing is the last position this instance announced, guarded by
	// folded.mu; announce wakes who passes it on.
	announcing events.Position
	announce   chan struct{}
}

// call is one Append on its way through the group commit.
type call struct {
	args  []any
	ops   int
	bytes int
	// dueIn is when the soonest retry it parks is due, 0 for none.
	dueIn time.Duration
	out   []events.Outcome
	err   error
	// life is the log's for which it was encoded.
	life *life
	done chan struct{}
}

var _ events.Log = (*Log)(nil)

// New returns a log that accepts appends at once.
func New(cfg Config) *Log {
	l := &Log{cfg: cfg, client: cfg.Client, wakeSilence: wakeSilence, closing: make(chan struct{})}
	l.life.Store(newLife(cfg.Epoch, 1))
	l.aggregates.init()
	l.hub.init()
	for n := range cfg.Shards {
		s := &shard{keys: shardKeys(cfg.Prefix, n), calls: make(chan *call, AppendQueueMax), announce: make(chan struct{}, 1)}
		s.nextDue.init()
		s.folded.moved, s.folded.life = &l.moved, l.life.Load().number
		l.shards = append(l.shards, s)
		l.workers.Go(func() { l.announceLoop(n, s) })
		for range appendCallsMax {
			l.workers.Go(func() { l.appendLoop(s) })
		}
	}
	l.workers.Go(l.recheckMoves)
	return l
}

// Close lets the appends under way finish. Nothing may be appended after it.
func (l *Log) Close() {
	close(l.closing)
	l.workers.Wait()
}

// Append appends batch to the shard's log; concurrent calls share script calls.
// It returns early only when ctx ends before the append was handed on; from then
// on it is seen through whatever happens to ctx, because an append cannot be
// called back.
func (l *Log) Append(ctx context.Context, shardNo int, batch []events.Append) ([]events.Outcome, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	c := &call{ops: len(batch), life: l.life.Load(), done: make(chan struct{})}
	if err := l.encode(c, batch); err != nil {
		return nil, err
	}
	select {
	case l.shards[shardNo].calls <- c:
	case <-ctx.Done():
		return nil, fmt.Errorf("append: the queue before the log is full: %w", ctx.Err())
	case <-l.closing:
		return nil, errors.New("append: shutting down")
	}
	<-c.done
	return c.out, c.err
}

func (l *Log) appendLoop(s *shard) {
	group := make([]*call, 0, AppendOpsMax)
	var held *call
	for {
		first := held
		if first == nil {
			select {
			case first = <-s.calls:
			case <-l.closing:
				select {
				case first = <-s.calls:
				default:
					return
				}
			}
		}
		group, held = gather(append(group[:0], first), s.calls)
		l.appendGroup(s, group)
	}
}

// gather adds what waits to a group, within the limits of a call. A call that no
// longer fits is handed back, to start the next group.
func gather(group []*call, calls <-chan *call) ([]*call, *call) {
	ops, bytes := group[0].ops, group[0].bytes
	for {
		select {
		case c := <-calls:
			if ops+c.ops > AppendOpsMax || bytes+c.bytes > AppendBytesMax {
				return group, c
			}
			ops, bytes = ops+c.ops, bytes+c.bytes
			group = append(group, c)
		default:
			return group, nil
		}
	}
}

func (l *Log) appendGroup(s *shard, group []*call) {
	n := 4 // and the epoch, see run
	for _, c := range group {
		n += len(c.args)
	}
	args := make([]any, 0, n)
	args = append(args, s.keys.prefix, keptPerPartition, l.cfg.QueueLengthMax)
	life := l.life.Load()
	for _, c := range group {
		if c.life != life {
			c.err = fmt.Errorf("append: %w", ErrLogLost)
			continue
		}
		args = append(args, c.args...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	v, err := l.run(ctx, life, appendScript, s.keys.log(), args)
	if err != nil && !errors.Is(err, ErrLogLost) {
		err = fmt.Errorf("append: %w: %w", events.ErrOutcomeUnknown, err)
	}
	var r reply
	var answers []any
	if err == nil {
		answers = r.list(v)
	}
	next := 0
	for _, c := range group {
		if c.err != nil {
			close(c.done)
			continue
		}
		c.err = err
		for i := 0; err == nil && i < c.ops; i++ {
			out := r.outcome(r.at(answers, next))
			out.Run = life.run
			c.out = append(c.out, out)
			next++
		}
		if r.err != nil {
			c.err = fmt.Errorf("append: %w: %w", events.ErrOutcomeUnknown, r.err)
		}
		if c.err == nil && c.dueIn > 0 {
			s.nextDue.at(time.Now().Add(c.dueIn))
		}
		close(c.done)
	}
}

func (r *reply) outcome(v any) events.Outcome {
	a := r.list(v)
	if r.err != nil {
		return events.Outcome{}
	}
	o := events.Outcome{
		Status: events.Status(r.int(r.at(a, 0))), ID: r.str(r.at(a, 2)),
		Offset: r.int(r.at(a, 3)), Partition: int(r.int(r.at(a, 4))),
	}
	if id := r.str(r.at(a, 1)); id != "" {
		pos, err := parsePosition(id)
		if err != nil && r.err == nil {
			r.err = err
		}
		o.Position = pos
	}
	return o
}
