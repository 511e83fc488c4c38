package commands

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Aggregates are what decisions rest on, as the log keeps them.
type Aggregates interface {
	// Topic returns a topic by name; its Value is a Topic.
	Topic(ctx context.Context, tenantID, name string) (*events.Aggregate, error)
	// TopicByID returns a topic by id, whoever's it is.
	TopicByID(ctx context.Context, id string) (*events.Aggregate, error)
	// Subscription returns a subscription by id, whoever's it is; its Value is a
	// Subscription.
	Subscription(ctx context.Context, id string) (*events.Aggregate, error)
	// Forget drops a stale aggregate from the cache.
	Forget(id string)
	// Subscriptions returns a topic's subscriptions, whoever's they are.
	Subscriptions(ctx context.Context, shard int, topicID string) ([]*events.Aggregate, error)
	// Schedule returns a recurring schedule by id, whoever's it is; its Value is a
	// Schedule.
	Schedule(ctx context.Context, id string) (*events.Aggregate, error)
	// ScheduledTopic returns the topic on which a message waits to be released, and its
	// shard.
	ScheduledTopic(ctx context.Context, messageID string) (topicID string, shard int, err error)
}

// Store is what a dispatcher needs of the log.
type Store interface {
	events.Log
	Aggregates

	// WaitFolded returns once a position is folded; run is its outcome's.
	WaitFolded(ctx context.Context, shard int, run uint64, position events.Position) error
	// Lease leases messages, waiting for some at most wait.
	Lease(ctx context.Context, req events.LeaseRequest, wait time.Duration) ([]events.Leased, error)
	// Resume takes up again what a subscription has leased and not settled.
	Resume(ctx context.Context, req events.LeaseRequest) ([]events.Leased, error)
	// ReserveAttempt returns a number that no attempt of a group had.
	ReserveAttempt(ctx context.Context, shard int, topicID, group string) (int64, error)
	// Extend moves the end of leases.
	Extend(ctx context.Context, shard int, topicID, group, subscriptionID string, leases []events.Lease, d time.Duration) (int64, []bool, error)
}

// Caller is who gives a command, and how they want it done.
type Caller struct {
	TenantID string
	// Subject is matched against a queue's producers and consumers.
	Subject string
	// Platform says that the caller is the platform's own, who may do everything.
	Platform       bool
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
	// PullMessages is how many messages a pull asks for that does not say, 50 for 0.
	PullMessages int
	// PullBytesMax bounds one pull's answer.
	PullBytesMax int
	// TokenKey signs ack tokens; every instance has the same one.
	TokenKey []byte
	// Seal encrypts the payload of a topic's message, nil where payloads stay as they
	// are; Open is its inverse, and says [ErrUnreadable] of what it will never open. The
	// tenant is the topic's.
	Seal, Open func(ctx context.Context, tenantID, topicID, messageID string, payload []byte) ([]byte, error)
	// Filter compiles a subscription's messageFilter.
	Filter func(messageFilter []byte) (Filter, error)
	// NextTick returns when a schedule ticks next after an instant; its errors say what
	// is wrong with cron or timeZone.
	NextTick func(cron, timeZone string, after time.Time) (time.Time, error)
	// CheckWebhook says what is wrong with a webhook's URL beyond its form, and CheckHeader
	// with a header that is to be sent to it.
	CheckWebhook func(url string) error
	CheckHeader  func(name, value string) error
	// Traced is told of messages that are handed out with the trace context that they
	// were published in, nil for nobody.
	Traced func(ctx context.Context, traceParent, tenantID, queue, group, messageID string)
	// Observer is told what was done, nil for nobody.
	Observer Observer
	Logger   *slog.Logger

	// Now, NewID and Rand are where time, ids (UUIDv7) and chance (0 to 1)
	// come from.
	Now   func() time.Time
	NewID func() string
	Rand  func() float64
}

// Observer measures what a dispatcher does. Its methods must not block.
type Observer interface {
	// Published says that messages were published to a queue; took is from the
	// request to its answer.
	Published(tenantID, queue string, messages, bytes int, took time.Duration)
	// Delivered says that a message was handed out for the first time, waited after
	// it was published.
	Delivered(tenantID, queue, group string, waited time.Duration)
	// Settled says that a delivery ended: acked, retrying or dead_letter, and why.
	Settled(tenantID, queue, group, outcome, reason string, processing time.Duration)
}

// ErrUnreadable reports a payload that cannot be decrypted: its key is gone, or it is
// not what was sealed.
var ErrUnreadable = errors.New("the payload cannot be decrypted")

// Dispatcher carries commands out.
type Dispatcher struct {
	cfg    Config
	store  Store
	tokens tokens
	rounds rounds
	// filters has compiled filters, by subscription.
	filters filterCache
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

// queueRefLimit is how a queue is named in words.
const queueRefLimit = QueueNameLimit + ", or <tenant id>:<name> for another tenant's public queue"

// topic loads a topic that the caller can see: the tenant's own, or a public one under
// <tenant id>:<name>. Any other is as missing.
func (d *Dispatcher) topic(ctx context.Context, caller Caller, ref string) (Topic, int, error) {
	owner, name := caller.TenantID, ref
	if tenant, rest, found := strings.Cut(ref, ":"); found {
		owner, name = tenant, rest
	}
	if !queueName.MatchString(name) {
		var v check
		v.that(false, "queue", queueRefLimit, fmt.Sprintf("is %q", brief(ref)))
		return Topic{}, 0, v.refusal()
	}
	missing := refuse(CodeQueueNotFound, "no queue %q", brief(ref))
	a, err := d.store.Topic(ctx, owner, name)
	if errors.Is(err, events.ErrNoAggregate) {
		return Topic{}, 0, missing
	}
	if err != nil {
		return Topic{}, 0, unavailable(err)
	}
	t, ok := a.Value.(Topic)
	if !ok {
		return Topic{}, 0, fmt.Errorf("topic %s: state is %T", a.ID, a.Value)
	}
	if owner != caller.TenantID && !t.Config.IsPublic {
		return Topic{}, 0, missing
	}
	t.CreatedAtMs, t.ChangedAtMs = a.Created.Ms(), a.Changed.Ms()
	return t, a.Shard, nil
}

// ownTopic is topic for what changes it: another tenant's is as missing.
func (d *Dispatcher) ownTopic(ctx context.Context, caller Caller, name string) (Topic, int, error) {
	t, shard, err := d.topic(ctx, caller, name)
	if err == nil && t.TenantID != caller.TenantID {
		err = refuse(CodeQueueNotFound, "no queue %q", brief(name))
	}
	return t, shard, err
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
	s.CreatedAtMs, s.ChangedAtMs = a.Created.Ms(), a.Changed.Ms()
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

// appendState is appendOne of an event after which the log keeps a state, nil for
// none.
func (d *Dispatcher) appendState(ctx context.Context, shard int, state any, a events.Append) (events.Outcome, error) {
	if state != nil {
		var err error
		if a.State, err = json.Marshal(state); err != nil {
			return events.Outcome{}, fmt.Errorf("%s: state: %w", a.Event.Kind(), err)
		}
	}
	return d.appendOne(ctx, shard, a)
}

// await keeps the promise of an answer: it returns once the event is folded.
func (d *Dispatcher) await(ctx context.Context, caller Caller, shard int, out events.Outcome) (Receipt, error) {
	receipt := Receipt{Position: out.Position, Duplicate: out.Status == events.StatusDuplicate}
	if caller.Async {
		return receipt, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.AckTimeout)
	defer cancel()
	if err := d.awaitFold(ctx, shard, out.Run, out.Position); err != nil {
		return receipt, err
	}
	receipt.Folded = true
	return receipt, nil
}

// awaitFold waits until ctx ends, whose end is the AckTimeout's.
func (d *Dispatcher) awaitFold(ctx context.Context, shard int, run uint64, position events.Position) error {
	if err := d.store.WaitFolded(ctx, shard, run, position); err != nil {
		return unavailable(fmt.Errorf("%w: in the log, not yet in Postgres: %w", events.ErrOutcomeUnknown, err))
	}
	return nil
}

func (d *Dispatcher) meta(c Caller, fingerprint string) events.Meta {
	return events.Meta{
		Actor: c.Subject, Platform: c.Platform, RequestID: c.RequestID, TraceParent: c.TraceParent,
		IdempotencyKey: c.IdempotencyKey, Fingerprint: fingerprint, AcceptedAtMs: d.cfg.Now().UnixMilli(),
	}
}

// fingerprint tells requests under one idempotency key apart. It is keyed, as it is
// stored and must not give payloads away. The ids that we mint are not part of the
// request.
func (d *Dispatcher) fingerprint(c Caller, cmd any) string {
	if c.IdempotencyKey == "" {
		return ""
	}
	switch v := cmd.(type) {
	case CreateQueue:
		v.ID = ""
		cmd = v
	case CreateSubscription:
		v.ID = ""
		if v.TopicID != "" {
			v.Queue = "" // found by the id
		}
		cmd = v
	case Publish:
		v.ID = ""
		cmd = v
	case CreateSchedule:
		v.ID = ""
		cmd = v
	}
	data, err := json.Marshal(cmd)
	if err != nil {
		// Commands are plain data; what cannot be encoded must not match.
		data = []byte(err.Error())
	}
	mac := hmac.New(sha256.New, d.cfg.TokenKey)
	_, _ = mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
