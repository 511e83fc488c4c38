package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/tallymq/tallymq/commands"
)

// Limits of delivering.
const (
	// RequestsMax is how many requests are under way at once on this instance, for all
	// subscriptions together.
	RequestsMax = 512
	// Grace is how long a handler that ends waits for its requests' answers; those that
	// are under way then are cut off.
	Grace = 10 * time.Second
	// settleGrace is how long it then goes on settling them.
	settleGrace = 3 * time.Second
	// LeaseMargin is how much longer a lease is than its request at the longest, where
	// that leaves the request RequestTimeMin.
	LeaseMargin    = time.Second
	RequestTimeMin = 500 * time.Millisecond
	// RestMin and RestMax bound for how long deliveries rest where an endpoint fails, and
	// RetryAfterMax for how long because it asks for that.
	RestMin       = time.Second
	RestMax       = time.Minute
	RetryAfterMax = time.Hour
	// admitMax is how long a leased message waits for one of RequestsMax, and that is at
	// most a quarter of its request's time.
	admitMax = 5 * time.Second
	// takeWait is how long a handler waits for messages before it asks anew.
	takeWait = 5 * time.Minute
	// recheck is how often subscriptions are looked at without word of a change, and
	// debounce how far apart looks are at least.
	recheck  = time.Minute
	debounce = 50 * time.Millisecond
	// errorCharsMax is how much of an error is kept.
	errorCharsMax = 500
)

// Commands is what of the write side delivering needs.
type Commands interface {
	// Load returns a subscription as it is now, or a refusal where it is no more.
	Load(ctx context.Context, subscriptionID string) (commands.Subscription, error)
	// Take leases up to messagesMax messages, waiting at most wait for a first, without
	// polling. The end of ctx ends the wait; what was leased by then is returned.
	Take(ctx context.Context, subscriptionID string, messagesMax int, wait time.Duration) ([]commands.Pulled, error)
	// Settle says how attempts ended; it answers for each, in order.
	Settle(ctx context.Context, subscriptionID string, outcomes []commands.Outcome) ([]commands.Settled, error)
	// ReleaseTokens hands back what was not sent.
	ReleaseTokens(ctx context.Context, subscriptionID string, ackTokens []string, delayMs int64) error
	// Suspend pauses a subscription and Stop stops it.
	Suspend(ctx context.Context, subscriptionID, reason string) error
	Stop(ctx context.Context, subscriptionID, reason string) error
}

// Config is what a [Pusher] needs.
type Config struct {
	Commands Commands
	// List returns the ids of all webhook subscriptions.
	List func(ctx context.Context) ([]string, error)
	// Changed returns a channel that is closed when a subscription was created, changed
	// or deleted, on whichever instance. It may miss some.
	Changed func() <-chan struct{}
	Sender  Sender
	// Secrets returns what signs a subscription's requests, the current one first; nil
	// is for none.
	Secrets func(s commands.Subscription, now time.Time) []string
	// Concurrency and Timeout are for webhooks that do not set theirs.
	Concurrency int
	Timeout     time.Duration
	Logger      *slog.Logger
}

// pace is what tests change.
type pace struct {
	requestsMax                                int
	grace, settleGrace, leaseMargin            time.Duration
	restMin, restMax, takeWait, recheck        time.Duration
	debounce, retryMin, retryMax, restartAfter time.Duration
}

// Pusher delivers.
type Pusher struct {
	cfg    Config
	pace   pace
	router *message.Router
	// requests has a place for each request under way.
	requests chan struct{}
	nudged   chan struct{}

	retirements sync.WaitGroup

	mu sync.Mutex
	// targets are the subscriptions that have a handler, by id.
	targets map[string]*target
	// started counts handlers: each has a name of its own.
	started int
	// unreadable are the versions of subscriptions the webhook of which is none.
	unreadable map[string]int64
}

// New returns a pusher; [Pusher.Run] runs it, once.
func New(cfg Config) (*Pusher, error) {
	return build(cfg, usual())
}

func usual() pace {
	return pace{
		requestsMax: RequestsMax, grace: Grace, settleGrace: settleGrace, leaseMargin: LeaseMargin,
		restMin: RestMin, restMax: RestMax, takeWait: takeWait, recheck: recheck,
		debounce: debounce, retryMin: 100 * time.Millisecond, retryMax: 5 * time.Second, restartAfter: time.Second,
	}
}

func build(cfg Config, how pace) (*Pusher, error) {
	switch {
	case cfg.Commands == nil, cfg.List == nil, cfg.Changed == nil, cfg.Sender == nil, cfg.Logger == nil:
		return nil, errors.New("delivery: Commands, List, Changed, Sender and Logger are needed")
	case cfg.Concurrency < 1, cfg.Timeout <= 0:
		return nil, errors.New("delivery: Concurrency and Timeout are more than 0")
	}
	p := &Pusher{
		cfg: cfg, pace: how, requests: make(chan struct{}, how.requestsMax), nudged: make(chan struct{}, 1),
		targets: map[string]*target{}, unreadable: map[string]int64{},
	}
	// Handlers come and go all the time: what Watermill has to say of that is for
	// debugging.
	logger := watermill.NewSlogLoggerWithLevelMapping(cfg.Logger, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, slog.LevelDebug: watermill.LevelTrace,
	})
	var err error
	p.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: how.settleGrace}, logger)
	if err != nil {
		return nil, fmt.Errorf("make a router: %w", err)
	}
	poison, err := middleware.PoisonQueueWithFilter(deadLetters{}, deadLetterTopic, isPermanent)
	if err != nil {
		return nil, fmt.Errorf("make the dead letters' middleware: %w", err)
	}
	// The Router keeps a handler's own middleware for ever, also when the handler is gone.
	// Hence what is the same for all is the Router's, and the rest is part of each
	// handler's function; see target.chain.
	p.router.AddMiddleware(p.account, middleware.CorrelationID, poison, p.DelayedRetry)
	// A Router closes when its last handler ends.
	p.router.AddConsumerHandler("keeper", "keeper", keeper{}, func(*message.Message) error { return nil })
	return p, nil
}

// Run delivers until ctx ends. It returns when what was under way is answered or cut off,
// settled or handed back: within about [Grace].
func (p *Pusher) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- p.router.Run(context.WithoutCancel(ctx)) }()
	select {
	case <-p.router.Running():
	case err := <-ended:
		return fmt.Errorf("run the router: %w", err)
	}
	following, stop := context.WithCancel(ctx)
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { p.follow(following) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		err = errors.Join(errors.New("the router ended by itself"), err)
	}
	stop()
	work.Wait()
	p.mu.Lock()
	for _, t := range p.targets {
		p.retire(t)
	}
	p.mu.Unlock()
	p.retirements.Wait()
	if closing := p.router.Close(); closing != nil {
		err = errors.Join(err, fmt.Errorf("close the router: %w", closing))
	}
	return err
}

// keeper is a subscriber to nothing.
type keeper struct{}

func (keeper) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	none := make(chan *message.Message)
	context.AfterFunc(ctx, func() { close(none) })
	return none, nil
}

func (keeper) Close() error { return nil }
