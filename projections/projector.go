package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/semaphore"

	"github.com/tallymq/tallymq/events"
)

// Name is the projection's name in projection_checkpoints.
const Name = "read"

// Version is the version of the code that folds. Whoever changes what the same events
// are folded to raises it: where a database's tables are of an earlier version, they are
// rebuilt, and code of an earlier version folds into them no more.
const Version = 1

// Limits of a projector.
const (
	// BatchEventsMax and BatchBytesMax bound one transaction.
	BatchEventsMax = 1000
	BatchBytesMax  = 8 << 20
	// DecodedEventsMax and DecodedBytesMax bound what is decoded and not committed,
	// the transaction under way included; a single larger event still goes, alone.
	DecodedEventsMax = 2 * BatchEventsMax
	DecodedBytesMax  = 2 * BatchBytesMax
	// lockRetry is how often a stand-by looks whether the active projector is
	// gone. Waiting inside Postgres would hold back its vacuum.
	lockRetry = 500 * time.Millisecond
	// commitTimeout bounds one transaction, so that a Postgres that hangs is an
	// error and not a stuck shard.
	commitTimeout = 30 * time.Second
	// statementTimeout bounds what is small: a stand-by whose connection is dead
	// without a word is none.
	statementTimeout = 5 * time.Second
	backoffMin       = 100 * time.Millisecond
	backoffMax       = 2 * time.Second
)

// Config is what a [Projector] needs.
type Config struct {
	Shard int
	// Connect opens the projector's own connection: it holds the lock and writes.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Run is the run id of the Redis process that the log is read from, nil for none: see
	// [Admit].
	Run func() string
	// Stale is told when a batch was refused because the log is another run's by now, or
	// the checkpoint was moved; nil for nobody. It must not block.
	Stale func()
	// Source returns a subscriber to the shard's log, and the topic to subscribe
	// to. It delivers what stands after a position, in order; what stands before
	// is recognized and left out.
	Source func(after events.Position) (message.Subscriber, string)
	// Committed is told of every position up to which Postgres has everything,
	// once it stands there and then after every transaction. It must not block.
	Committed func(upTo events.Position)
	// Active is told when this projector becomes the active one and when it no longer
	// is, nil for nobody.
	Active func(isActive bool)
	// Version is that of the folding code, [Version] where it is 0.
	Version int
	// Folded is told of every batch that was committed, nil for nobody. It must not
	// block, and not keep the records.
	Folded func(records []events.Record)
	Logger *slog.Logger
}

// Projector folds one shard's log into Postgres. Any number may run for a shard,
// on any instances: one is active, the others stand by.
type Projector struct{ cfg Config }

// New returns a projector; [Projector.Run] runs it.
func New(cfg Config) *Projector { return &Projector{cfg: cfg} }

// Run folds until ctx ends. Whatever goes wrong is logged and tried again from
// the checkpoint, sooner or later according to how often it went wrong.
func (p *Projector) Run(ctx context.Context) {
	backoff := backoffMin
	for ctx.Err() == nil {
		began := time.Now()
		err := p.runOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*backoffMax {
			backoff = backoffMin
		}
		p.cfg.Logger.Warn("projector stopped; trying again", "shard", p.cfg.Shard, "in", backoff, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, backoffMax)
	}
}

func (p *Projector) runOnce(ctx context.Context) error {
	conn, err := p.cfg.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	version := cmp.Or(p.cfg.Version, Version)
	stored, err := storedVersion(ctx, conn)
	if err != nil {
		return err
	}
	if stored > version {
		return fmt.Errorf("the read tables are of version %d of the projection; this program folds version %d", stored, version)
	}
	if err := lock(ctx, conn, p.cfg.Shard); err != nil {
		return err
	}
	if p.cfg.Active != nil {
		p.cfg.Active(true)
		defer p.cfg.Active(false)
	}
	at, err := checkpoint(ctx, conn, p.cfg.Shard)
	if err != nil {
		return err
	}
	run := ""
	if p.cfg.Run != nil {
		run = p.cfg.Run()
	}
	p.cfg.Committed(at)
	p.cfg.Logger.Debug("projector is active", "shard", p.cfg.Shard, "position", int64(at))
	w := newWriter(conn.PgConn())
	w.version, w.logRun = version, run
	return p.follow(ctx, w, at)
}

// lock returns once this connection holds the shard's lock, for as long as it
// lives. Losing the connection is losing the lock and the means to write.
func lock(ctx context.Context, conn *pgx.Conn, shard int) error {
	for {
		var held bool
		err := withTimeout(ctx, func(ctx context.Context) error {
			return conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('tallymq:projector:' || current_schema() || ':' || $1::text, 0))`,
				fmt.Sprintf("%s/%d", Name, shard)).Scan(&held)
		})
		if err != nil {
			return fmt.Errorf("lock shard %d: %w", shard, err)
		}
		if held {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock shard %d: %w", shard, ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}

func withTimeout(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return do(ctx)
}

func checkpoint(ctx context.Context, conn *pgx.Conn, shard int) (events.Position, error) {
	var at int64
	err := withTimeout(ctx, func(ctx context.Context) error {
		return conn.QueryRow(ctx, `
WITH made AS (INSERT INTO projection_checkpoints (projection, shard, position) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING RETURNING position)
SELECT position FROM made UNION ALL SELECT position FROM projection_checkpoints WHERE projection = $1 AND shard = $2`, Name, shard).Scan(&at)
	})
	if err != nil {
		return 0, fmt.Errorf("checkpoint of shard %d: %w", shard, err)
	}
	return events.Position(at), nil
}

// decoded is a message of the log and what it says.
type decoded struct {
	msg    *message.Message
	record events.Record
	// weight is what it takes of DecodedBytesMax.
	weight int64
	err    error
}

// follow folds what comes after a position. Decoding runs ahead while a
// transaction is under way; whatever has come meanwhile is the next batch.
func (p *Projector) follow(ctx context.Context, w *writer, at events.Position) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source, topic := p.cfg.Source(at)
	messages, err := source.Subscribe(ctx, topic)
	if err != nil {
		return fmt.Errorf("subscribe to the log: %w", err)
	}
	ready := make(chan decoded, DecodedEventsMax)
	room := semaphore.NewWeighted(DecodedBytesMax)
	go decode(ctx, messages, room, ready)
	for {
		batch, err := gather(ctx, ready)
		if err != nil {
			return err
		}
		records := make([]events.Record, 0, len(batch))
		last := at
		for _, d := range batch {
			if d.record.Position > last {
				records, last = append(records, d.record), d.record.Position
			}
		}
		if len(records) > 0 {
			if err := p.commit(ctx, w, at, records); err != nil {
				return err
			}
			at = last
		}
		for _, d := range batch {
			d.msg.Ack()
			room.Release(d.weight)
		}
	}
}

func (p *Projector) commit(ctx context.Context, w *writer, at events.Position, records []events.Record) error {
	c, err := fold(records)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	if err := w.commit(ctx, p.cfg.Shard, at, records, &c); err != nil {
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == serializationFailure && p.cfg.Stale != nil {
			p.cfg.Stale()
		}
		return err
	}
	p.cfg.Committed(records[len(records)-1].Position)
	if p.cfg.Folded != nil {
		p.cfg.Folded(records)
	}
	return nil
}

// decode decodes until the first message that says nothing it knows: what comes
// after that one must not be folded before it.
func decode(ctx context.Context, messages <-chan *message.Message, room *semaphore.Weighted, ready chan<- decoded) {
	defer close(ready)
	for m := range messages {
		weight := min(int64(len(m.Payload)), DecodedBytesMax)
		if room.Acquire(ctx, weight) != nil {
			return
		}
		r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload)
		select {
		case ready <- decoded{msg: m, record: r, weight: weight, err: err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// gather waits for a first event and takes what else is there, within the limits.
// What cannot be decoded ends the batch before it, and then the projector.
func gather(ctx context.Context, ready <-chan decoded) ([]decoded, error) {
	var batch []decoded
	bytes := 0
	for len(batch) < BatchEventsMax && bytes < BatchBytesMax {
		var d decoded
		var ok bool
		if len(batch) == 0 {
			select {
			case d, ok = <-ready:
			case <-ctx.Done():
				return nil, fmt.Errorf("follow the log: %w", ctx.Err())
			}
		} else {
			select {
			case d, ok = <-ready:
			default:
				return batch, nil
			}
		}
		switch {
		case !ok && len(batch) == 0:
			return nil, errLogEnded
		case !ok:
			return batch, nil
		case d.err != nil && len(batch) == 0:
			d.msg.Nack()
			return nil, fmt.Errorf("decode: %w", d.err)
		case d.err != nil:
			// Nothing was decoded after it, so this run ends with this batch, and
			// the next one meets it first.
			d.msg.Nack()
			return batch, nil //nolint:nilerr // see above
		}
		batch = append(batch, d)
		bytes += len(d.record.Data)
	}
	return batch, nil
}

// serializationFailure is PostgreSQL's SQLSTATE of what advance_checkpoint refuses.
const serializationFailure = "40001"

var errLogEnded = errors.New("the subscription to the log ended")
