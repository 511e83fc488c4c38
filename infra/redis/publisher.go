package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// Limits of a publisher.
const (
	// PublishMessagesMax and PublishBytesMax are how many messages and bytes share
	// one round trip. A Publish call beyond them takes several, one after another;
	// a single larger message goes alone.
	PublishMessagesMax = 1000
	PublishBytesMax    = 4 << 20
	// PublishQueueMax is how many Publish calls wait before callers wait too.
	PublishQueueMax = 1024
	// publishTripsMax is how many round trips are under way at once: while Redis
	// syncs one to disk, the next is on its way.
	publishTripsMax = 2
	// PublishWaitMax is how long a call waits for its turn. It bounds Publish while
	// Redis hangs: by this, a round trip under way and the call's own.
	PublishWaitMax = commandTimeout
)

// ErrPublisherClosed reports a Publish after Close. Nothing was published.
var ErrPublisherClosed = errors.New("publisher is closed")

// ErrPublisherBusy reports a Publish whose turn did not come within PublishWaitMax.
// Nothing was published.
var ErrPublisherBusy = errors.New("publisher is busy")

// Publisher publishes Watermill messages to Redis Streams; a topic is a stream's
// key. Entries are exactly watermill-redisstream's.
//
// It guarantees: the messages of one Publish call are added in their order, in one
// pipelined round trip (see PublishMessagesMax), which concurrent calls share;
// Publish returns once Redis has answered for every message of the call; an XADD
// is sent at most once, whatever the client's retry settings; nothing is ever
// trimmed. It does not guarantee that the messages of a call enter together: other
// publishers' may come between, and an error may leave some of them in the stream.
//
// A publisher of Watermill's Router is closed when its handler ends; the client is
// its owner's and stays open.
type Publisher struct {
	client  goredis.UniversalClient
	waitMax time.Duration
	calls   chan *publishCall
	trips   sync.WaitGroup
	closing sync.RWMutex
	closed  bool
}

var _ message.Publisher = (*Publisher)(nil)

// publishCall is one Publish on its way through the shared round trips.
type publishCall struct {
	stream  string
	entries [][]any
	sizes   []int
	// until is when the call is given up if it has not been sent.
	until time.Time
	err   error
	done  chan struct{}
}

// NewPublisher returns a publisher that is ready. Close it in the end.
func NewPublisher(client goredis.UniversalClient) *Publisher {
	p := &Publisher{client: client, waitMax: PublishWaitMax, calls: make(chan *publishCall, PublishQueueMax)}
	for range publishTripsMax {
		p.trips.Go(p.run)
	}
	return p
}

// Publish adds messages to a stream. The messages' contexts do not cancel it: an
// XADD under way cannot be called back. Publish is bounded by PublishWaitMax.
//
// An error that is events.ErrOutcomeUnknown means that Redis did not answer: each
// of the messages may or may not be in the stream. Any other means that at least
// one was refused, and says how many.
func (p *Publisher) Publish(stream string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	c := &publishCall{
		stream: stream, entries: make([][]any, len(messages)), sizes: make([]int, len(messages)),
		until: time.Now().Add(p.waitMax), done: make(chan struct{}),
	}
	for i, m := range messages {
		var err error
		if c.entries[i], c.sizes[i], err = encodeMessage(m); err != nil {
			return fmt.Errorf("publish to %s: %w", stream, err)
		}
	}
	if err := p.enqueue(c); err != nil {
		return fmt.Errorf("publish to %s: %w", stream, err)
	}
	<-c.done
	return c.err
}

func (p *Publisher) enqueue(c *publishCall) error {
	p.closing.RLock()
	defer p.closing.RUnlock()
	if p.closed {
		return ErrPublisherClosed
	}
	select {
	case p.calls <- c:
		return nil
	default:
	}
	limit := time.NewTimer(time.Until(c.until))
	defer limit.Stop()
	select {
	case p.calls <- c:
		return nil
	case <-limit.C:
		return ErrPublisherBusy
	}
}

// Close lets the calls under way finish; later ones fail with ErrPublisherClosed.
// It may be called again, and does not close the client.
func (p *Publisher) Close() error {
	p.closing.Lock()
	if !p.closed {
		p.closed = true
		close(p.calls)
	}
	p.closing.Unlock()
	p.trips.Wait()
	return nil
}

// run makes round trips until the publisher is closed and nothing waits.
func (p *Publisher) run() {
	var held *publishCall
	for {
		first, open := held, true
		if first == nil {
			first, open = <-p.calls
		}
		if !open {
			return
		}
		if first.givenUp() {
			held = nil
			continue
		}
		var group []*publishCall
		group, held = gatherPublishes(first, p.calls)
		if len(group) == 1 {
			p.alone(first)
			continue
		}
		p.together(group)
	}
}

// gatherPublishes adds what waits to a round trip, within its limits. A call that
// no longer fits is handed back, to start the next one.
func gatherPublishes(first *publishCall, calls <-chan *publishCall) (group []*publishCall, held *publishCall) {
	group = []*publishCall{first}
	count, bytes := len(first.entries), sum(first.sizes)
	for {
		select {
		case c, open := <-calls:
			if !open {
				return group, nil
			}
			if c.givenUp() {
				continue
			}
			count, bytes = count+len(c.entries), bytes+sum(c.sizes)
			if count > PublishMessagesMax || bytes > PublishBytesMax {
				return group, c
			}
			group = append(group, c)
		default:
			return group, nil
		}
	}
}

// givenUp ends a call whose time to wait is over.
func (c *publishCall) givenUp() bool {
	if time.Now().Before(c.until) {
		return false
	}
	c.err = fmt.Errorf("publish to %s: %w", c.stream, ErrPublisherBusy)
	close(c.done)
	return true
}

func sum(sizes []int) int {
	total := 0
	for _, n := range sizes {
		total += n
	}
	return total
}

// alone publishes one call, in several round trips where it is beyond the limits
// of one. After an error the rest is not sent: it would overtake.
func (p *Publisher) alone(c *publishCall) {
	defer close(c.done)
	for from := 0; from < len(c.entries) && c.err == nil; {
		to, bytes := from, 0
		for to < len(c.entries) && to-from < PublishMessagesMax && (to == from || bytes+c.sizes[to] <= PublishBytesMax) {
			bytes += c.sizes[to]
			to++
		}
		cmds := p.trip([]*publishCall{{stream: c.stream, entries: c.entries[from:to]}})
		c.err = publishError(c, cmds, len(c.entries)-to)
		from = to
	}
}

// together publishes several calls in one round trip.
func (p *Publisher) together(group []*publishCall) {
	cmds := p.trip(group)
	for _, c := range group {
		c.err = publishError(c, cmds[:len(c.entries)], 0)
		cmds = cmds[len(c.entries):]
		close(c.done)
	}
}

// trip makes one round trip and returns its commands, in order.
func (p *Publisher) trip(group []*publishCall) []onceAdd {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	pipe := p.client.Pipeline()
	var cmds []onceAdd
	for _, c := range group {
		for _, fields := range c.entries {
			args := append([]any{"xadd", c.stream, "*"}, fields...)
			cmd := onceAdd{goredis.NewStringCmd(ctx, args...)}
			_ = pipe.Process(ctx, cmd) // a pipeline only takes note of it
			cmds = append(cmds, cmd)
		}
	}
	_, _ = pipe.Exec(ctx) // every command has its own error
	return cmds
}

// publishError sums up a call's commands; unsent is how many of its messages wait
// behind them.
func publishError(c *publishCall, cmds []onceAdd, unsent int) error {
	var first error
	failed := 0
	for _, cmd := range cmds {
		err := cmd.Err()
		if err == nil {
			continue
		}
		failed++
		if _, refused := errors.AsType[goredis.Error](err); !refused {
			return fmt.Errorf("publish %d messages to %s: %w: %w", len(c.entries), c.stream, events.ErrOutcomeUnknown, err)
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("publish to %s: %d of %d messages were refused: %w", c.stream, failed+unsent, len(c.entries), first)
}
