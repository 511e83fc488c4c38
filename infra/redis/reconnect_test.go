//go:build !race

package redis

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
)

// Watermill's restart test as it is. It reads its list of published messages while
// another goroutine fills it, so the race detector rejects the test itself; with the
// detector, TestNothingIsLostWhenRedisIsKilled stands for it.
func TestWatermillSuiteReconnect(t *testing.T) {
	t.Parallel()
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: devstack.TestDir(t)})
	require.NoError(t, err)
	t.Cleanup(server.Kill)
	s := suite{client: openWide(t, server.URL()), window: 64, group: sharedGroup}
	tests.TestReconnect(t, tests.TestContext{TestID: tests.NewTestID(), Features: tests.Features{
		ConsumerGroups: true, Persistent: true, RestartServiceCommand: restartCommand(t, server),
	}}, func(t *testing.T) (message.Publisher, message.Subscriber) {
		pub, sub := s.pubSub(t)
		last := &lastWord{Publisher: pub, Subscriber: sub, published: map[string]bool{}, all: make(chan struct{})}
		return lastWordPublisher{last}, lastWordSubscriber{last}
	})
}

// reconnectMessages is how many messages the suite's restart test publishes.
const reconnectMessages = 10_000

// lastWord keeps the first message back until all are published and the suite has
// had a moment to note that, because the suite does not wait for its own notes.
type lastWord struct {
	message.Publisher
	message.Subscriber

	mu        sync.Mutex
	published map[string]bool
	all       chan struct{}
}

type (
	lastWordPublisher  struct{ *lastWord }
	lastWordSubscriber struct{ *lastWord }
)

func (p lastWordPublisher) Close() error  { return p.Publisher.Close() }
func (s lastWordSubscriber) Close() error { return s.Subscriber.Close() }

func (p lastWordPublisher) Publish(topic string, messages ...*message.Message) error {
	if err := p.Publisher.Publish(topic, messages...); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		p.published[m.UUID] = true
	}
	if len(p.published) == reconnectMessages {
		time.AfterFunc(200*time.Millisecond, func() { close(p.all) })
	}
	return nil
}

func (s lastWordSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := s.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	go func() {
		first := <-in
		go func() {
			<-s.all
			out <- first
		}()
		for m := range in {
			out <- m
		}
	}()
	return out, nil
}
