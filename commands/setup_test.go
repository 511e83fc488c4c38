package commands_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/redis"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

const (
	shards      = 2
	tenant      = "00000000-0000-0000-0000-000000000001"
	otherTenant = "00000000-0000-0000-0000-000000000002"
)

// async is a caller who does not wait for the fold: these tests have no projector.
var async = commands.Caller{TenantID: tenant, Async: true}

// under is async with an idempotency key.
func under(key string) commands.Caller {
	caller := async
	caller.IdempotencyKey = key
	return caller
}

// testBundle is a store of a test's own, and what instances on it need.
type testBundle struct {
	url, prefix string
	client      *goredis.Client
}

// instance is one process of the service, as far as commands go.
type instance struct {
	*commands.Dispatcher

	log *redis.Log
}

func setup(t testing.TB) *testBundle {
	t.Helper()
	url, prefix := devstack.TestRedis(t)
	client, err := redis.Open(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return &testBundle{url: url, prefix: prefix, client: client}
}

// instance starts another instance, with a log and caches of its own.
func (b *testBundle) instance(t testing.TB, change ...func(*commands.Config)) *instance {
	t.Helper()
	log := b.log(t)
	return &instance{log: log, Dispatcher: dispatcher(log, change...)}
}

func (b *testBundle) log(t testing.TB) *redis.Log {
	t.Helper()
	client, err := redis.Open(b.url)
	require.NoError(t, err)
	log := redis.New(redis.Config{
		Client: client, Prefix: b.prefix, Shards: shards, IdempotencyTTL: time.Minute, Logger: slog.Default(),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	t.Cleanup(func() {
		log.Close()
		_ = client.Close()
	})
	return log
}

func dispatcher(store commands.Store, change ...func(*commands.Config)) *commands.Dispatcher {
	cfg := commands.Config{
		Shards: shards, AckTimeout: 10 * time.Second, SessionTimeout: 30 * time.Second, MessageTTL: time.Hour,
		PayloadBytesMax: 1000, PullBytesMax: 1 << 20, TokenKey: []byte("the same on every instance"), Logger: slog.Default(),
		Now: time.Now, NewID: newID, Rand: func() float64 { return 0 },
	}
	for _, c := range change {
		c(&cfg)
	}
	return commands.NewDispatcher(store, cfg)
}

// run starts what an instance does in the background, until the test ends.
func (i *instance) run(t testing.TB) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var background sync.WaitGroup
	background.Go(func() { i.log.Run(ctx) })
	background.Go(func() {
		i.log.RunDue(ctx, redis.DueWork{Expired: i.ExpireLeases, Tick: i.Tick, Forward: i.ForwardDeadLetter})
	})
	t.Cleanup(func() {
		cancel()
		background.Wait()
	})
	return i
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func (i *instance) queue(t testing.TB, name string, partitions int) commands.Topic {
	t.Helper()
	topic, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: name, PartitionCount: &partitions})
	require.NoError(t, err)
	return topic
}

// subscribe makes a subscription that starts from the earliest message.
func (i *instance) subscribe(t testing.TB, queue, group string, change ...func(*commands.CreateSubscription)) string {
	t.Helper()
	cmd := commands.CreateSubscription{ID: newID(), Queue: queue, ConsumerGroup: group, OffsetResetPolicy: "earliest"}
	for _, c := range change {
		c(&cmd)
	}
	s, _, err := i.CreateSubscription(t.Context(), async, cmd)
	require.NoError(t, err)
	return s.Config.SubscriptionID
}

func message(queue, payload string) commands.Publish {
	return commands.Publish{ID: newID(), Queue: queue, Payload: json.RawMessage(payload)}
}

// publish publishes one message, which must be taken.
func (i *instance) publish(t testing.TB, queue, payload string) commands.Published {
	t.Helper()
	out := i.publishBatch(t, async, false, message(queue, payload))
	require.NoError(t, out[0].Err)
	return out[0]
}

func (i *instance) publishBatch(t testing.TB, caller commands.Caller, atomic bool, batch ...commands.Publish) []commands.Published {
	t.Helper()
	out, err := i.Publish(t.Context(), caller, batch, atomic)
	require.NoError(t, err)
	require.Len(t, out, len(batch))
	return out
}

// pull pulls at most n messages, waiting for a first one.
func (i *instance) pull(t testing.TB, subscriptionID string, n int) []commands.Pulled {
	t.Helper()
	pulled, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: subscriptionID, MessagesMax: &n, WaitMs: commands.PullWaitMsMax})
	require.NoError(t, err)
	require.NotEmpty(t, pulled)
	return pulled
}

// requireNothing says that there is nothing to pull.
func (i *instance) requireNothing(t testing.TB, subscriptionID string) {
	t.Helper()
	pulled, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: subscriptionID})
	require.NoError(t, err)
	require.Empty(t, pulled)
}

// history reads a queue's first n events from its shard's log.
func (i *instance) history(t testing.TB, b *testBundle, queue string, n int) []events.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	shard := events.ShardOf(tenant, queue, shards)
	messages, err := i.log.Reader(shard, 0).Subscribe(ctx, redis.LogStream(b.prefix, shard))
	require.NoError(t, err)
	var records []events.Record
	for len(records) < n {
		m, ok := <-messages
		require.True(t, ok, "the log ended after %d of %d events", len(records), n)
		r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload)
		require.NoError(t, err)
		records = append(records, r)
	}
	return records
}

// refusalOf returns a refusal, which must be of that code.
func refusalOf(t testing.TB, err error, code commands.Code) *commands.Refusal {
	t.Helper()
	var r *commands.Refusal
	require.ErrorAs(t, err, &r)
	require.Equal(t, code, r.Code, r)
	return r
}

func requireRefusal(t testing.TB, err error, code commands.Code) {
	t.Helper()
	require.NotNil(t, refusalOf(t, err, code))
}
