package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
)

// Defaults and limits of a subscriber.
const (
	DefaultStart         = "0"
	DefaultWindow        = 100
	DefaultBlock         = time.Second
	DefaultNackDelay     = 100 * time.Millisecond
	DefaultNackDelayMax  = 30 * time.Second
	DefaultClaimIdle     = time.Minute
	DefaultClaimInterval = 5 * time.Second
	DefaultDrainTimeout  = 10 * time.Second

	// WindowMax is the largest window.
	WindowMax = 10_000
	// ClaimIdleMin leaves time to say that work goes on, see holdsPerClaimIdle.
	ClaimIdleMin = 100 * time.Millisecond
	// holdsPerClaimIdle is how often within ClaimIdle a subscription says that its
	// messages are being worked on: two of three may fail.
	holdsPerClaimIdle = 3
	// batchMax is how many entries share one command.
	batchMax = 256
	// asideMax is how many undecodable entries a subscription keeps from others.
	asideMax = 1000
)

// ErrSubscriberClosed reports a Subscribe after Close.
var ErrSubscriberClosed = errors.New("subscriber is closed")

// SubscriberConfig is what a [Subscriber] needs. Zero values of the fields from
// Start on are the defaults.
type SubscriberConfig struct {
	// Client is where the streams are. Each subscription that waits for messages
	// occupies one of its connections, so its pool must be larger than the number
	// of subscriptions. It stays its owner's to close.
	Client goredis.UniversalClient
	// Group is the consumer group.
	Group string
	// Consumer is this process' name in the group. It must be one that no other
	// live subscriber of the group uses, and should be the same after a restart:
	// what it left unsettled is then taken up again at once, and Redis, which
	// never forgets a consumer, does not fill up with names.
	Consumer string
	Logger   *slog.Logger

	// Start is where a group that does not exist yet starts: "0" at the beginning
	// of the stream, "$" at its end, or after an entry id. The same holds for a
	// group that was lost, which the log tells.
	Start string
	// Window is how many messages of a subscription are in flight at most: read
	// from the stream, not settled yet. They are this consumer's alone, so it
	// should not be more than are handled at a time. Messages are handed out in
	// the stream's order; what comes back after a nack comes as it comes, unless
	// Window is 1, which keeps the order throughout for a group's only consumer.
	Window int
	// Block is for how long one read waits, hence how long an idle subscription
	// takes to end.
	Block time.Duration
	// NackDelay is the time from a nack to the message's next delivery. It doubles
	// with every delivery up to NackDelayMax. The message keeps its place in the
	// window meanwhile: giving up on a message is for a dead letter middleware.
	NackDelay    time.Duration
	NackDelayMax time.Duration
	// ClaimIdle is after what time without a sign of life an entry is taken from
	// its consumer. It bounds neither handlers nor nack delays: live subscriptions
	// give such signs for all they hold. It must be the same for a whole group.
	ClaimIdle time.Duration
	// ClaimInterval is how often a subscription looks for entries to take over.
	ClaimInterval time.Duration
	// DrainTimeout is how long messages in flight may take to be settled when
	// their subscription ends; then their contexts are cancelled.
	DrainTimeout time.Duration
}

func (c *SubscriberConfig) setDefaults() {
	c.Start = cmp.Or(c.Start, DefaultStart)
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.Block = cmp.Or(c.Block, DefaultBlock)
	c.NackDelay = cmp.Or(c.NackDelay, DefaultNackDelay)
	c.NackDelayMax = max(cmp.Or(c.NackDelayMax, DefaultNackDelayMax), c.NackDelay)
	c.ClaimIdle = cmp.Or(c.ClaimIdle, DefaultClaimIdle)
	c.ClaimInterval = cmp.Or(c.ClaimInterval, DefaultClaimInterval)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, DefaultDrainTimeout)
	c.Logger = cmp.Or(c.Logger, slog.Default())
}

func (c *SubscriberConfig) validate() error {
	switch {
	case c.Client == nil:
		return errors.New("subscriber: no client")
	case c.Group == "" || c.Consumer == "":
		return errors.New("subscriber: Group and Consumer must be given")
	case c.Window < 1 || c.Window > WindowMax:
		return fmt.Errorf("subscriber: Window must be 1 to %d", WindowMax)
	case c.ClaimIdle < ClaimIdleMin:
		return fmt.Errorf("subscriber: ClaimIdle must be at least %s", ClaimIdleMin)
	case c.Block < time.Millisecond || c.NackDelay < time.Millisecond ||
		c.ClaimInterval < time.Millisecond || c.DrainTimeout < time.Millisecond:
		return errors.New("subscriber: Block, NackDelay, ClaimInterval and DrainTimeout must be at least 1ms")
	}
	return nil
}

// Subscriber subscribes a consumer group to Redis Streams, for Watermill; a topic
// is a stream's key. Entries are watermill-redisstream's.
//
// It guarantees delivery at least once: an entry is acknowledged in Redis (XACK, in
// batches) after its message was acked, and in no other case. Until then
//
//   - a message that was nacked is delivered again after NackDelay;
//   - a message whose handler is slow is not delivered to anybody else, however
//     long it takes, while this process lives and reaches Redis;
//   - what a consumer left behind is delivered to that consumer at its restart
//     before anything newer, or to another one after ClaimIdle;
//   - what was read but not handed out when a subscription ends can be had by others
//     at once;
//   - an entry that is no message is logged as an error and stays pending, for an
//     operator to look at (XPENDING) and to settle (XACK); what follows it is
//     delivered.
//
// While Redis is away a subscription waits and goes on where it was. A group or
// stream that is missing is created, so end a subscription before you delete its
// stream for good. Consumers are never deleted.
//
// A message's context holds the values of the subscription's, and is cancelled when
// the message is settled or its time to drain is over, not when the subscription's
// is: what is in flight may finish. [DeliveryOf] reads its delivery from it.
//
// A subscription waits by a blocking read, on a connection of its own. That suits
// the handlers of a router, of which there are few; it would not suit a subscription
// for every client.
type Subscriber struct {
	cfg     SubscriberConfig
	closing chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// taken are the consumer numbers in use, by stream.
	taken map[string]map[int]bool
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// NewSubscriber returns a subscriber. It does not talk to Redis yet.
func NewSubscriber(cfg SubscriberConfig) (*Subscriber, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Subscriber{cfg: cfg, closing: make(chan struct{}), taken: map[string]map[int]bool{}}, nil
}

// SubscribeInitialize creates the group on a stream, and the stream, unless they
// are there. What is published afterwards reaches the group whatever Start is.
func (s *Subscriber) SubscribeInitialize(stream string) error {
	return s.initialize(context.Background(), stream)
}

func (s *Subscriber) initialize(ctx context.Context, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if _, err := createGroup(ctx, s.cfg.Client, stream, s.cfg.Group, s.cfg.Start); err != nil {
		return fmt.Errorf("subscribe to %s: %w", stream, err)
	}
	return nil
}

// createGroup returns false where the group is there already.
func createGroup(ctx context.Context, client goredis.UniversalClient, stream, group, start string) (created bool, err error) {
	err = client.XGroupCreateMkStream(ctx, stream, group, start).Err()
	if err != nil && strings.HasPrefix(err.Error(), "BUSYGROUP") {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create consumer group %s: %w", group, err)
	}
	return true, nil
}

// Subscribe delivers a stream's messages until ctx ends or the subscriber is closed;
// then the channel is closed, once what is in flight is settled or DrainTimeout is
// over. It fails when Redis cannot be reached now; an outage later it survives.
//
// Several subscriptions to one stream share its messages. The second and further
// ones are consumers of their own: Consumer and a number.
func (s *Subscriber) Subscribe(ctx context.Context, stream string) (<-chan *message.Message, error) {
	if err := s.initialize(ctx, stream); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe to %s: %w", stream, ErrSubscriberClosed)
	}
	number := s.takeNumber(stream)
	consumer := s.cfg.Consumer
	if number > 1 {
		consumer = fmt.Sprintf("%s-%d", consumer, number)
	}
	sub := newSubscription(ctx, s.cfg, stream, consumer)
	s.running.Go(func() {
		sub.run(ctx, s.closing)
		s.leaveNumber(stream, number)
		close(sub.out)
	})
	return sub.out, nil
}

// takeNumber returns the lowest consumer number, from 1, that is free on a stream.
func (s *Subscriber) takeNumber(stream string) int {
	if s.taken[stream] == nil {
		s.taken[stream] = map[int]bool{}
	}
	n := 1
	for s.taken[stream][n] {
		n++
	}
	s.taken[stream][n] = true
	return n
}

func (s *Subscriber) leaveNumber(stream string, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken[stream], number)
	if len(s.taken[stream]) == 0 {
		delete(s.taken, stream)
	}
}

// Close ends all subscriptions and returns when they have ended: when what is in
// flight is settled or DrainTimeout is over, and a read under way is (Block, or a
// command's timeout more while Redis hangs). What is unsettled then is logged, and
// delivered again later. The client stays open.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// Delivery says which delivery of which stream entry a message is.
type Delivery struct {
	Stream   string
	EntryID  string
	Consumer string
	// Count is how many times the entry was delivered to the group, this one
	// included, as Redis counts: from 1.
	Count int64
}

type deliveryKey struct{}

// DeliveryOf returns the delivery of a message that came from a [Subscriber], from
// the message's context.
func DeliveryOf(ctx context.Context) (Delivery, bool) {
	d, ok := ctx.Value(deliveryKey{}).(Delivery)
	return d, ok
}
