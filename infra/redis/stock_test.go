package redis

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// stockSubscribe reads a stream from the beginning with watermill-redisstream's own
// subscriber, which closes the client it is given.
func stockSubscribe(t testing.TB, client *goredis.Client, stream string) <-chan *message.Message {
	t.Helper()
	sub, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
		Client: goredis.NewClient(&goredis.Options{Addr: client.Options().Addr}), Consumer: "stock", ConsumerGroup: "stock",
		BlockTime: 50 * time.Millisecond, DisableIndefiniteInitialBlock: true,
	}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = sub.Close() })
	ch, err := sub.Subscribe(context.Background(), stream)
	require.NoError(t, err)
	return ch
}

func TestStockSubscriberReadsOurLog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// given a topic, a subscription and two messages in a shard's log
	topic := b.topic(t, "orders", 1)
	topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.message(t, 0, "{\"a\" :\t1.0}"), topic.message(t, 0, `"second"`))
	// when a stock subscriber reads it, it gets what our own reader gets
	ch := stockSubscribe(t, b.client, LogStream(b.prefix, topic.shard))
	for _, want := range b.logMessages(t, topic.shard, 4) {
		m := receive(t, ch)
		require.Equal(t, want.UUID, m.UUID)
		require.Equal(t, string(want.Payload), string(m.Payload))
		md := maps.Clone(want.Metadata)
		delete(md, events.MetaShard)
		delete(md, events.MetaPosition)
		require.NotEmpty(t, md)
		require.Equal(t, md, m.Metadata)
		m.Ack()
	}
}

func (b *testBundle) logMessages(t testing.TB, shard, n int) []*message.Message {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch, err := b.log.Reader(shard, 0).Subscribe(ctx, LogStream(b.prefix, shard))
	require.NoError(t, err)
	list := make([]*message.Message, n)
	for i := range list {
		list[i] = receive(t, ch)
	}
	return list
}

func TestStockAndOurSubscriberReadOurQueues(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 2)
	payloads := []string{"{\"a\" :\t1.0, \"html\":\"<&>\"}", `"second"`}
	first, second := topic.message(t, 1, payloads[0]), topic.message(t, 1, payloads[1])
	b.append(t, topic.shard, first, second)
	stream := QueueStream(b.prefix, topic.shard, topic.id, 1)
	f := groupFixture{client: b.client, stream: stream, logs: &logBuffer{}}
	for name, ch := range map[string]<-chan *message.Message{
		"stock": stockSubscribe(t, b.client, stream),
		"ours":  f.subscribe(t, f.subscriber(t, "c", nil)),
	} {
		for i, want := range []events.Append{first, second} {
			m := receive(t, ch)
			require.Equal(t, want.ID, m.UUID, name)
			require.Equal(t, payloads[i], string(m.Payload), name)
			require.Equal(t, message.Metadata(events.DeliveryMeta{
				TenantID: tenant, Key: "k", ContentType: "application/json", Headers: map[string]string{"h": "v"},
			}.Metadata()), m.Metadata, name)
			m.Ack()
		}
	}
}

// awkward are messages that an encoding might spoil.
func awkward() []*message.Message {
	plain := message.NewMessage("plain", []byte(`{"n":1}`))
	plain.Metadata = message.Metadata{"a": "1", "": "empty key", "empty": "", "ключ": "значение", "line": "a\r\nb"}
	return []*message.Message{
		plain,
		message.NewMessage("empty", nil),
		message.NewMessage("binary", []byte{0, 1, 0xff, '\r', '\n', 0}),
		message.NewMessage("", []byte("no id")),
	}
}

func requireSame(t testing.TB, ch <-chan *message.Message) {
	t.Helper()
	for _, want := range awkward() {
		m := receive(t, ch)
		require.True(t, want.Equals(m), "want %+v, have %+v", want, m)
		m.Ack()
	}
}

func TestOurSubscriberReadsTheStockPublisher(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	pub, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: f.client}, nil)
	require.NoError(t, err)
	require.NoError(t, pub.Publish(f.stream, awkward()...))
	requireSame(t, f.subscribe(t, f.subscriber(t, "c", nil)))
	f.settled(t)
}

func TestStockSubscriberReadsOurPublisher(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	require.NoError(t, f.publisher(t).Publish(f.stream, awkward()...))
	requireSame(t, stockSubscribe(t, f.client, f.stream))
	requireSame(t, f.subscribe(t, f.subscriber(t, "c", nil)))
}
