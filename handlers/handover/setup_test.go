package handover

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
)

const (
	platform = "00000000-0000-0000-0000-000000000000"
	tenant   = "00000000-0000-0000-0000-000000000001"
	token    = "the token of the platform"
	shards   = 2
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// quick is a pace at which tests see everything happen.
func quick() pace {
	return pace{
		timeout: 2 * time.Second, backoffMin: time.Millisecond, backoffMax: 20 * time.Millisecond, retryAfterMax: 50 * time.Millisecond,
		lockRetry: 5 * time.Millisecond, lockCheck: 20 * time.Millisecond, takeover: 10 * time.Millisecond,
		extendEvery: time.Hour, recheck: 100 * time.Millisecond,
	}
}

// testBundle is stores of a test's own, with projectors, on which forwarders can run.
type testBundle struct {
	*commands.Dispatcher

	t    testing.TB
	url  string
	pool *pgxpool.Pool
	log  *redis.Log
}

func setup(t testing.TB) *testBundle {
	t.Helper()
	b := &testBundle{t: t, url: devstack.TestPostgres(t)}
	var err error
	b.pool, err = postgres.Open(t.Context(), b.url)
	require.NoError(t, err)
	t.Cleanup(b.pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), b.pool, discard()))
	require.NoError(t, postgres.EnsurePartitions(t.Context(), b.pool, time.Now()))
	redisURL, prefix := devstack.TestRedis(t)
	client, err := redis.Open(redisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	b.log = redis.New(redis.Config{
		Client: client, Prefix: prefix, Shards: shards, IdempotencyTTL: time.Minute, Logger: discard(),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	t.Cleanup(b.log.Close)
	b.Dispatcher = commands.NewDispatcher(b.log, commands.Config{
		Shards: shards, AckTimeout: 20 * time.Second, SessionTimeout: 30 * time.Second, MessageTTL: time.Hour,
		PayloadBytesMax: 2 << 20, PullBytesMax: 1 << 20, TokenKey: []byte("key"), Logger: discard(),
		Now: time.Now, NewID: newID, Rand: func() float64 { return 0 },
	})
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	t.Cleanup(func() { cancel(); work.Wait() })
	work.Go(func() { b.log.Run(ctx) })
	work.Go(func() {
		b.log.RunDue(ctx, redis.DueWork{Expired: b.ExpireLeases, Tick: b.Tick, Forward: b.ForwardDeadLetter})
	})
	for shard := range shards {
		work.Go(func() {
			projections.New(projections.Config{
				Shard: shard, Connect: b.connect, Logger: discard(),
				Source: func(after events.Position) (message.Subscriber, string) {
					return b.log.Reader(shard, after), redis.LogStream(prefix, shard)
				},
				Committed: func(upTo events.Position) { b.log.Announce(shard, upTo) },
			}).Run(ctx)
		})
	}
	return b
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func (b *testBundle) connect(ctx context.Context) (*pgx.Conn, error) {
	return postgres.Connect(ctx, b.url)
}

func (b *testBundle) config() Config {
	return Config{
		PlatformTenant: platform, Token: token, Shards: shards, Commands: b.Dispatcher, DB: postgres.AllTenants(b.pool),
		Connect: b.connect, Changed: b.log.Moved, NewID: newID, Logger: discard(),
	}
}

// forward runs a forwarder until stop, which is as sudden as the end of its context, or
// the test's end.
func (b *testBundle) forward(cfg Config, change ...func(*pace)) (f *Forwarder, stop func()) {
	p := quick()
	for _, c := range change {
		c(&p)
	}
	f = build(cfg, p)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	b.t.Cleanup(stop)
	return f, stop
}

func (b *testBundle) platform() commands.Caller {
	return commands.Caller{TenantID: platform, Platform: true, Subject: "tester"}
}

func (b *testBundle) queue(name string, partitions int) {
	b.t.Helper()
	_, _, err := b.CreateQueue(b.t.Context(), b.platform(), commands.CreateQueue{ID: newID(), Name: name, PartitionCount: &partitions})
	require.NoError(b.t, err)
}

// publish publishes n messages, of as many keys in turn, and returns their ids.
func (b *testBundle) publish(queue string, n, keys int, change ...func(*commands.Publish)) []string {
	b.t.Helper()
	batch := make([]commands.Publish, n)
	for i := range batch {
		batch[i] = commands.Publish{ID: newID(), Queue: queue, Key: fmt.Sprint("key ", i%keys), Payload: json.RawMessage(fmt.Sprintf(`{"n" : %d}`, i))}
		for _, c := range change {
			c(&batch[i])
		}
	}
	out, err := b.Publish(b.t.Context(), b.platform(), batch, false)
	require.NoError(b.t, err)
	ids := make([]string, n)
	for i, p := range out {
		require.NoError(b.t, p.Err)
		ids[i] = p.MessageID
	}
	return ids
}

// settled waits until a query that counts says so.
func (b *testBundle) count(want int, sql string, args ...any) {
	b.t.Helper()
	var got int
	require.Eventually(b.t, func() bool {
		return b.pool.QueryRow(b.t.Context(), sql, args...).Scan(&got) == nil && got == want
	}, time.Minute, 10*time.Millisecond, "want %d: %s", want, sql)
}

// status waits for a target's state and returns it.
func (b *testBundle) status(f *Forwarder, name string, want State) TargetStatus {
	b.t.Helper()
	var found TargetStatus
	require.Eventually(b.t, func() bool {
		for _, s := range f.Status() {
			if s.Name == name {
				found = s
			}
		}
		return found.State == want
	}, time.Minute, time.Millisecond, "%s is not %s", name, want)
	return found
}
