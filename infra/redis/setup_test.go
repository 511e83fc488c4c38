package redis

import (
	"encoding/json"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
)

const tenant = "00000000-0000-0000-0000-000000000001"

// testBundle is a log on a real Redis with a prefix of its own.
type testBundle struct {
	log    *Log
	client *goredis.Client
	prefix string
}

type state struct {
	Name string `json:"name"`
}

func setup(t testing.TB) *testBundle {
	t.Helper()
	url, prefix := devstack.TestRedis(t)
	client, err := Open(url)
	require.NoError(t, err)
	require.NoError(t, WaitReady(t.Context(), client, slog.Default()))
	b := &testBundle{client: client, prefix: prefix, log: New(Config{
		Client: client, Prefix: prefix, Shards: 2, IdempotencyTTL: time.Minute, Logger: slog.Default(),
		DecodeTopic: decodeState, DecodeSubscription: decodeState, DecodeSchedule: decodeState,
	})}
	t.Cleanup(func() {
		b.log.Close()
		_ = client.Close()
	})
	return b
}

func decodeState(data []byte) (any, error) {
	var s state
	err := json.Unmarshal(data, &s)
	return s, err
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// given a topic with partitions, and what is needed to publish to it.
type topicFixture struct {
	b          *testBundle
	shard      int
	id, name   string
	partitions int
}

func (b *testBundle) topic(t testing.TB, name string, partitions int) topicFixture {
	t.Helper()
	f := topicFixture{b: b, shard: events.ShardOf(tenant, name, 2), id: newID(t), name: name, partitions: partitions}
	out := b.append(t, f.shard, f.created(name))
	require.Equal(t, events.StatusAppended, out[0].Status)
	return f
}

func (f topicFixture) created(name string) events.Append {
	return events.Append{
		ID: f.id, TenantID: tenant, Version: 1, State: []byte(`{"name":"` + name + `"}`),
		Event: events.TopicCreated{TopicConfig: events.TopicConfig{TopicID: f.id, Name: name, PartitionCount: f.partitions, TopicType: "redis_stream"}},
	}
}

func (b *testBundle) append(t testing.TB, shard int, batch ...events.Append) []events.Outcome {
	t.Helper()
	out, err := b.log.Append(t.Context(), shard, batch)
	require.NoError(t, err)
	require.Len(t, out, len(batch))
	return out
}

func (f topicFixture) message(t testing.TB, partition int, payload string) events.Append {
	t.Helper()
	id := newID(t)
	return events.Append{ID: id, TenantID: tenant, Guard: events.Guard{TopicVersion: 1}, Event: events.MessagePublished{
		MessageID: id, TopicID: f.id, Partition: partition, ContentType: "application/json",
		Key: "k", Headers: map[string]string{"h": "v"}, Payload: json.RawMessage(payload),
	}}
}

func (f topicFixture) subscription(t testing.TB, group, policy string) events.LeaseRequest {
	t.Helper()
	id := newID(t)
	out := f.b.append(t, f.shard, events.Append{
		ID: id, TenantID: tenant, Version: 1, State: []byte(`{"name":"s"}`),
		Guard: events.Guard{TopicVersion: 1}, Group: group,
		Event: events.SubscriptionCreated{SubscriptionConfig: events.SubscriptionConfig{SubscriptionID: id, TopicID: f.id, ConsumerGroup: group, ConsumerName: id, OffsetResetPolicy: policy}},
	})
	require.Equal(t, events.StatusAppended, out[0].Status)
	return events.LeaseRequest{
		Shard: f.shard, TopicID: f.id, Group: group, Consumer: id, SubscriptionID: id,
		SubscriptionVersion: 1, MessagesMax: 10, BytesMax: 1 << 20, For: 30 * time.Second,
	}
}

func (f topicFixture) delivery(req events.LeaseRequest, m events.Leased) events.Delivery {
	return events.Delivery{
		MessageID: m.MessageID, TopicID: f.id, SubscriptionID: req.SubscriptionID, ConsumerGroup: req.Group,
		Consumer: req.Consumer, Partition: m.Partition, Offset: m.Offset, Attempt: m.Attempt, LeasedAtMs: m.LeasedAtMs,
	}
}

func (f topicFixture) settle(t testing.TB, e events.Event, m events.Leased) events.Outcome {
	t.Helper()
	return f.b.append(t, f.shard, events.Append{ID: newID(t), TenantID: tenant, Event: e, Guard: events.Guard{Lease: m.Lease}})[0]
}
