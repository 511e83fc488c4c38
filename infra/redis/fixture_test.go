package redis

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// receiveLimit is how long a test waits for what must come.
const receiveLimit = 20 * time.Second

// groupFixture is a stream of a test's own and the group "g" on it.
type groupFixture struct {
	client *goredis.Client
	stream string
	logs   *logBuffer
}

func newGroupFixture(t testing.TB) groupFixture {
	t.Helper()
	b := setup(t)
	return groupFixture{client: b.client, stream: b.prefix + "stream", logs: &logBuffer{}}
}

// subscriber returns one that is quick to notice things, and never takes anything
// over unless a test asks for that.
func (f groupFixture) subscriber(t testing.TB, consumer string, change func(*SubscriberConfig)) *Subscriber {
	t.Helper()
	cfg := SubscriberConfig{
		Client: f.client, Group: "g", Consumer: consumer, Logger: slog.New(slog.NewTextHandler(f.logs, nil)),
		Window: 10, Block: 50 * time.Millisecond, NackDelay: time.Millisecond, ClaimIdle: time.Hour,
		ClaimInterval: 20 * time.Millisecond, DrainTimeout: 100 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	s, err := NewSubscriber(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (f groupFixture) subscribe(t testing.TB, s *Subscriber) <-chan *message.Message {
	t.Helper()
	ch, err := s.Subscribe(context.Background(), f.stream)
	require.NoError(t, err)
	return ch
}

// publish publishes payloads; a message's id is its payload.
func (f groupFixture) publish(t testing.TB, payloads ...string) {
	t.Helper()
	pub := NewPublisher(f.client)
	defer func() { require.NoError(t, pub.Close()) }()
	require.NoError(t, pub.Publish(f.stream, messagesOf(payloads...)...))
}

func messagesOf(payloads ...string) []*message.Message {
	list := make([]*message.Message, len(payloads))
	for i, payload := range payloads {
		list[i] = message.NewMessage(payload, []byte(payload))
	}
	return list
}

// readAs reads messages as a consumer that then dies.
func (f groupFixture) readAs(t testing.TB, consumer string, count int) {
	t.Helper()
	_, err := createGroup(t.Context(), f.client, f.stream, "g", "0")
	require.NoError(t, err)
	streams, err := f.client.XReadGroup(t.Context(), &goredis.XReadGroupArgs{
		Group: "g", Consumer: consumer, Streams: []string{f.stream, ">"}, Count: int64(count), Block: -1,
	}).Result()
	require.NoError(t, err)
	require.Len(t, streams[0].Messages, count)
}

func (f groupFixture) pending(t testing.TB) []goredis.XPendingExt {
	t.Helper()
	list, err := f.client.XPendingExt(t.Context(), &goredis.XPendingExtArgs{
		Stream: f.stream, Group: "g", Start: "-", End: "+", Count: 100,
	}).Result()
	require.NoError(t, err)
	return list
}

func (f groupFixture) settled(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return len(f.pending(t)) == 0 }, receiveLimit, 5*time.Millisecond)
}

func receive(t testing.TB, ch <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, open := <-ch:
		require.True(t, open, "the subscription has ended")
		return m
	case <-time.After(receiveLimit):
		require.FailNow(t, "no message came")
		return nil
	}
}

func receiveAll(t testing.TB, ch <-chan *message.Message, payloads ...string) {
	t.Helper()
	for _, want := range payloads {
		m := receive(t, ch)
		require.Equal(t, want, string(m.Payload))
		require.True(t, m.Ack())
	}
}

// came says whether a message, or the end, is there now.
func came(ch <-chan *message.Message) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func requireClosed(t testing.TB, ch <-chan *message.Message) {
	t.Helper()
	select {
	case _, open := <-ch:
		require.False(t, open, "a message came instead of the end")
	case <-time.After(receiveLimit):
		require.FailNow(t, "the channel was not closed")
	}
}

func deliveryOf(t testing.TB, m *message.Message) Delivery {
	t.Helper()
	d, ok := DeliveryOf(m.Context())
	require.True(t, ok)
	return d
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), text)
}
