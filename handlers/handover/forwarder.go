package handover

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/commands"
)

// Limits of handing on.
const (
	// WindowMax is how many of a queue's messages are in hand at once.
	WindowMax = 50
	// BatchEventsMax and BatchBytesMax bound a batch of events, the bytes those of
	// their data; a single event of more still goes, alone.
	BatchEventsMax = 100
	BatchBytesMax  = 1 << 20
	// RefusalsMax is how often a message is offered to a service that refuses it.
	RefusalsMax = 5
	// ConnectionsMax is how many requests are under way at once for a queue, and for
	// events.
	ConnectionsMax = 16
	// RequestTimeout is the limit of one request, from connecting to its answer.
	RequestTimeout = 15 * time.Second
	// AnswerBytesMax is how much of an answer is read; all of it is dropped.
	AnswerBytesMax = 64 << 10
	// BackoffMax is the longest pause between two tries that the service does not ask
	// for, and RetryAfterMax the longest that it may ask for.
	BackoffMax    = 30 * time.Second
	RetryAfterMax = 5 * time.Minute
	backoffMin    = 100 * time.Millisecond
	// LeaseMs is for how long messages in hand are leased, and extendEvery how often
	// that is renewed.
	LeaseMs     = commands.SessionTimeoutMsMax
	extendEvery = 5 * time.Minute
	// retriesMax is how often a lease may run out, because no instance was there for so
	// long, before the message becomes a dead letter.
	retriesMax = 10
	// lockRetry is how often a stand-by looks whether the active one is gone.
	lockRetry = 500 * time.Millisecond
	// lockCheck is how often the active one looks whether it still has the lock, and
	// lockCheckTimeout how long that may take.
	lockCheck        = 500 * time.Millisecond
	lockCheckTimeout = 2 * time.Second
	// takeover is how long one that has got the lock waits before it begins: longer
	// than its predecessor takes to notice that it lost it.
	takeover = lockCheck + lockCheckTimeout + 500*time.Millisecond
	// statementTimeout bounds one statement.
	statementTimeout = 10 * time.Second
	// settleTimeout is how long a shutdown goes on settling what was taken.
	settleTimeout = 3 * time.Second
	// recheck is how long a shard waits for the word that something was folded, and
	// gap how far apart its looks are at least.
	recheck = 5 * time.Second
	gap     = 50 * time.Millisecond
)

// Commands is what of the write side handing on needs.
type Commands interface {
	CreateSubscription(ctx context.Context, caller commands.Caller, cmd commands.CreateSubscription) (commands.Subscription, commands.Receipt, error)
	Resume(ctx context.Context, caller commands.Caller, subscriptionID string) ([]commands.Pulled, error)
	Pull(ctx context.Context, caller commands.Caller, cmd commands.Pull) ([]commands.Pulled, error)
	Extend(ctx context.Context, caller commands.Caller, subscriptionID string, ackTokens []string, leaseMs int64) ([]commands.Settled, error)
	Ack(ctx context.Context, caller commands.Caller, subscriptionID string, ackTokens []string) ([]commands.Settled, error)
	DeadLetter(ctx context.Context, caller commands.Caller, subscriptionID string, ackTokens []string, reason string) ([]commands.Settled, error)
}

// Queue is a queue of the platform's tenant and where its messages go.
type Queue struct {
	Name string
	// URL is the service's, "" for none: then nothing is done about the queue.
	URL string
}

// Config is what a [Forwarder] needs.
type Config struct {
	// PlatformTenant owns the queues.
	PlatformTenant string
	Queues         []Queue
	// EventsURL is where the lifecycle events go, "" for nowhere.
	EventsURL string
	// Token is what services get in X-Service-Token, "" for nothing.
	Token string
	// Shards is how many the store has.
	Shards   int
	Commands Commands
	// DB is what reads all tenants' rows.
	DB interface {
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
	// Connect opens the connection that holds the lock and moves the checkpoints.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Changed returns a channel that is closed when something more is folded, on
	// whichever instance. It may miss some.
	Changed func() <-chan struct{}
	// OpenEvent decrypts the payload within an event's data; it returns what is not
	// encrypted as it is. nil is for stores where nothing is.
	OpenEvent func(ctx context.Context, tenantID, kind string, data []byte) ([]byte, error)
	// NewID mints ids (UUIDv7).
	NewID  func() string
	Logger *slog.Logger
}

// pace is what tests change.
type pace struct {
	timeout, backoffMin, backoffMax, retryAfterMax, lockRetry, lockCheck, takeover, extendEvery, recheck time.Duration
}

// Forwarder hands on. Any number may run, on any instances.
type Forwarder struct {
	cfg    Config
	pace   pace
	queues []*queue
	events *lifecycle
}

// New returns a forwarder; [Forwarder.Run] runs it.
func New(cfg Config) *Forwarder {
	return build(cfg, pace{
		timeout: RequestTimeout, backoffMin: backoffMin, backoffMax: BackoffMax, retryAfterMax: RetryAfterMax,
		lockRetry: lockRetry, lockCheck: lockCheck, takeover: takeover, extendEvery: extendEvery, recheck: recheck,
	})
}

func build(cfg Config, p pace) *Forwarder {
	f := &Forwarder{cfg: cfg, pace: p}
	for _, q := range cfg.Queues {
		if q.URL != "" {
			f.queues = append(f.queues, &queue{f: f, name: q.Name, link: f.link(q.Name, q.URL)})
		}
	}
	if cfg.EventsURL != "" {
		f.events = &lifecycle{f: f, link: f.link(EventsName, cfg.EventsURL)}
	}
	return f
}

func (f *Forwarder) links() []*link {
	links := make([]*link, 0, len(f.queues)+1)
	for _, q := range f.queues {
		links = append(links, q.link)
	}
	if f.events != nil {
		links = append(links, f.events.link)
	}
	return links
}

// Run hands on until ctx ends; where there is nowhere to hand on to it returns at once.
// Whatever goes wrong is logged and tried again.
func (f *Forwarder) Run(ctx context.Context) {
	if len(f.links()) == 0 {
		return
	}
	defer func() {
		for _, l := range f.links() {
			l.client.CloseIdleConnections()
		}
	}()
	b := f.backoff()
	for ctx.Err() == nil {
		began := time.Now()
		err := f.runOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*f.pace.backoffMax {
			b = f.backoff()
		}
		for _, l := range f.links() {
			l.health.standBy(brief(err))
		}
		f.cfg.Logger.Warn("handing on stopped; trying again", "error", err)
		pause(ctx, b.next(0))
	}
}

// runOnce waits for the lock and hands on for as long as it is held.
func (f *Forwarder) runOnce(ctx context.Context) error {
	s, err := f.hold(ctx)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	if !pause(ctx, f.pace.takeover) {
		return errStopped
	}
	held, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	var work sync.WaitGroup
	work.Go(func() { lose(s.watch(held, f.pace.lockCheck)) })
	for _, q := range f.queues {
		q.link.health.begin()
		work.Go(func() { q.run(held, s) })
	}
	if f.events != nil {
		f.events.link.health.begin()
		for shard := range f.cfg.Shards {
			work.Go(func() { lose(f.events.run(held, s, shard)) })
		}
	}
	work.Wait()
	return context.Cause(held) //nolint:wrapcheck // what the watch or a shard said
}

var errStopped = errors.New("asked to stop")
