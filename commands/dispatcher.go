package commands

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Store is what a dispatcher needs of the log.
type Store interface {
	events.Log

	// Topic returns a topic by name; its Value is a Topic.
	Topic(ctx context.Context, tenantID, name string) (*events.Aggregate, error)
	// Subscription returns a subscription by id, whoever's it is; its Value is a
	// Subscription.
	Subscription(ctx context.Context, id string) (*events.Aggregate, error)
	// Forget drops a stale aggregate from the cache.
	Forget(id string)
	// WaitFolded returns once a position is folded.
	WaitFolded(ctx context.Context, shard int, position events.Position) error
	// Lease leases messages, waiting for some at most wait.
	Lease(ctx context.Context, req events.LeaseRequest, wait time.Duration) ([]events.Leased, error)
	// Extend moves the end of leases.
	Extend(ctx context.Context, shard int, topicID, group, subscriptionID string, leases []events.Lease, d time.Duration) (int64, []bool, error)
}

// Caller is who gives a command, and how they want it done.
type Caller struct {
	TenantID string
	// Subject is matched against a queue's producers and consumers; the
	// platform's own callers have none and may do everything.
	Subject        string
	RequestID      string
	TraceParent    string
	IdempotencyKey string
	// Async asks for an answer once the event is in the log, before it is folded.
	Async bool
}

// Config is a dispatcher's configuration.
type Config struct {
	Shards int
	// AckTimeout is how long a command waits for its fold.
	AckTimeout time.Duration
	// SessionTimeout is the default lease of a subscription.
	SessionTimeout time.Duration
	// MessageTTL is how long a message lives that does not say; 0 is for ever.
	MessageTTL time.Duration
	// PayloadBytesMax bounds one message's payload.
	PayloadBytesMax int
	// PullBytesMax bounds one pull's answer.
	PullBytesMax int
	// TokenKey signs ack tokens; every instance has the same one.
	TokenKey []byte
	Logger   *slog.Logger

	// Now, NewID and Rand are where time, ids (UUIDv7) and chance (0 to 1)
	// come from.
	Now   func() time.Time
	NewID func() string
	Rand  func() float64
}

// Dispatcher carries commands out.
type Dispatcher struct {
	cfg    Config
	store  Store
	tokens tokens
	rounds rounds
}

// NewDispatcher returns a dispatcher on a store.
func NewDispatcher(store Store, cfg Config) *Dispatcher {
	return &Dispatcher{cfg: cfg, store: store, tokens: tokens{key: cfg.TokenKey}}
}

// Receipt says where a command's event stands.
type Receipt struct {
	Position  events.Position
	Duplicate bool
	// Folded is false where the caller asked not to wait.
	Folded bool
}

// decideAgainMax is how often a command is decided anew when the state it rests
// on moves; more would be a queue that changes faster than it can be used.
const decideAgainMax = 5

// errStale means: load and decide again.
var errStale = errors.New("state moved")

func tooBusy() error {
	return refuse(CodeUnavailable, "the queue's configuration keeps changing; try again")
}

func keyReused() error {
	return refuse(CodeIdempotencyKeyReused, "this Idempotency-Key was used for another request")
}

// topic loads a tenant's topic.
func (d *Dispatcher) topic(ctx context.Context, caller Caller, name string) (Topic, int, error) {
	if !queueName.MatchString(name) {
		var v check
		v.that(false, "queue", QueueNameLimit, fmt.Sprintf("is %q", brief(name)))
		return Topic{}, 0, v.refusal()
	}
	a, err := d.store.Topic(ctx, caller.TenantID, name)
	if errors.Is(err, events.ErrNoAggregate) {
		return Topic{}, 0, refuse(CodeQueueNotFound, "no queue %q", name)
	}
	if err != nil {
		return Topic{}, 0, unavailable(err)
	}
	t, ok := a.Value.(Topic)
	if !ok {
		return Topic{}, 0, fmt.Errorf("topic %s: state is %T", a.ID, a.Value)
	}
	return t, a.Shard, nil
}

// subscription loads a tenant's subscription; another tenant's is as missing.
func (d *Dispatcher) subscription(ctx context.Context, caller Caller, id string) (Subscription, int, error) {
	a, err := d.store.Subscription(ctx, id)
	if err != nil && !errors.Is(err, events.ErrNoAggregate) {
		return Subscription{}, 0, unavailable(err)
	}
	missing := refuse(CodeSubscriptionNotFound, "no subscription %q", brief(id))
	if err != nil {
		return Subscription{}, 0, missing
	}
	s, ok := a.Value.(Subscription)
	if !ok {
		return Subscription{}, 0, fmt.Errorf("subscription %s: state is %T", a.ID, a.Value)
	}
	if s.TenantID != caller.TenantID {
		return Subscription{}, 0, missing
	}
	return s, a.Shard, nil
}

// unavailable marks a fault as one that passes: the store did not answer.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// ErrUnavailable reports that Redis or Postgres did not answer in time. Where an
// append was under way (events.ErrOutcomeUnknown), whether it happened is unknown.
var ErrUnavailable = errors.New("unavailable")

func (d *Dispatcher) appendOne(ctx context.Context, shard int, a events.Append) (events.Outcome, error) {
	outs, err := d.store.Append(ctx, shard, []events.Append{a})
	if err != nil {
		return events.Outcome{}, unavailable(err)
	}
	return outs[0], nil
}

// await keeps the promise of an answer: it returns once the event is folded.
func (d *Dispatcher) await(ctx context.Context, caller Caller, shard int, out events.Outcome) (Receipt, error) {
	receipt := Receipt{Position: out.Position, Duplicate: out.Status == events.StatusDuplicate}
	if caller.Async {
		return receipt, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.AckTimeout)
	defer cancel()
	if err := d.awaitFold(ctx, shard, out.Position); err != nil {
		return receipt, err
	}
	receipt.Folded = true
	return receipt, nil
}

// awaitFold waits until ctx ends, whose end is the AckTimeout's.
func (d *Dispatcher) awaitFold(ctx context.Context, shard int, position events.Position) error {
	if err := d.store.WaitFolded(ctx, shard, position); err != nil {
		return unavailable(fmt.Errorf("%w: in the log, not yet in Postgres: %w", events.ErrOutcomeUnknown, err))
	}
	return nil
}

func (d *Dispatcher) meta(c Caller, fingerprint string) events.Meta {
	return events.Meta{
		Actor: c.Subject, RequestID: c.RequestID, TraceParent: c.TraceParent,
		IdempotencyKey: c.IdempotencyKey, Fingerprint: fingerprint, AcceptedAtMs: d.cfg.Now().UnixMilli(),
	}
}

// cmdFingerprint tells requests under one idempotency key apart. The ids that we
// mint are not part of the request.
func cmdFingerprint(c Caller, cmd any) string {
	if c.IdempotencyKey == "" {
		return ""
	}
	switch v := cmd.(type) {
	case CreateQueue:
		v.ID = ""
		cmd = v
	case CreateSubscription:
		v.ID = ""
		cmd = v
	case Publish:
		v.ID = ""
		cmd = v
	}
	data, err := json.Marshal(cmd)
	if err != nil {
		// Commands are plain data; what cannot be encoded must not match.
		data = []byte(err.Error())
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
