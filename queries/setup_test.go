package queries

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
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

// world is a dispatcher on a real Redis and a projector into a real Postgres that folds
// as far as it is let.
type world struct {
	*commands.Dispatcher

	t         *testing.T
	log       *redis.Log
	pool      *pgxpool.Pool
	caller    commands.Caller
	gate      chan events.Position
	committed chan events.Position
	folded    events.Position
}

// oddFilter passes messages whose payload is odd.
type oddFilter struct{}

func (oddFilter) Match(_ string, _ map[string]string, payload []byte) (bool, string) {
	return bytes.ContainsAny(payload[len(payload)-1:], "13579"), "is even"
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func newWorld(t *testing.T) *world {
	t.Helper()
	redisURL, prefix := devstack.TestRedis(t)
	postgresURL := devstack.TestPostgres(t)
	client, err := redis.Open(redisURL)
	require.NoError(t, err)
	pool, err := postgres.Open(t.Context(), postgresURL)
	require.NoError(t, err)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	log := redis.New(redis.Config{
		Client: client, Prefix: prefix, Shards: 1, IdempotencyTTL: time.Minute, Logger: slog.New(slog.DiscardHandler),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	d := commands.NewDispatcher(log, commands.Config{
		Shards: 1, SessionTimeout: time.Second, MessageTTL: time.Hour, PayloadBytesMax: 1000, PullBytesMax: 1 << 20,
		TokenKey: []byte("key"), Logger: slog.New(slog.DiscardHandler), Now: time.Now, NewID: newID, Rand: rand.Float64,
		Filter: func([]byte) (commands.Filter, error) { return oddFilter{}, nil },
	})
	w := &world{
		Dispatcher: d, t: t, log: log, pool: pool, caller: commands.Caller{TenantID: tenantID(1), Async: true},
		gate: make(chan events.Position), committed: make(chan events.Position, 100_000),
	}
	p := projections.New(projections.Config{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, postgresURL) },
		Source: func(after events.Position) (message.Subscriber, string) {
			return gated{log.Reader(0, after), w.gate}, redis.LogStream(prefix, 0)
		},
		Committed: func(upTo events.Position) { w.committed <- upTo }, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var background sync.WaitGroup
	background.Go(func() { log.Run(ctx) })
	background.Go(func() {
		log.RunDue(ctx, redis.DueWork{Expired: d.ExpireLeases, Tick: d.Tick, Forward: d.ForwardDeadLetter})
	})
	background.Go(func() { p.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		background.Wait()
		log.Close()
		_ = client.Close()
		pool.Close()
	})
	return w
}

// gated delivers what stands up to the positions that it is told.
type gated struct {
	message.Subscriber

	gate <-chan events.Position
}

func (g gated) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := g.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		var open events.Position
		for m := range in {
			r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload)
			for err == nil && r.Position > open {
				select {
				case open = <-g.gate:
				case <-ctx.Done():
					return
				}
			}
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// foldTo has the projector fold up to a position.
func (w *world) foldTo(position events.Position) {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for w.folded < position {
		select {
		case w.gate <- position:
		case w.folded = <-w.committed:
		case <-deadline:
			require.FailNow(w.t, "not folded in time")
		}
	}
}

// state is a topic's delivery now.
func (w *world) state(topicID string) redis.TopicState {
	w.t.Helper()
	s, err := w.log.TopicState(w.t.Context(), 0, topicID, 3)
	require.NoError(w.t, err)
	return s
}

// foldAll has the projector fold all that there is.
func (w *world) foldAll(topicID string) { w.foldTo(w.state(topicID).Last) }

func (w *world) queue(name string, partitions int, public bool) string {
	w.t.Helper()
	topic, _, err := w.CreateQueue(w.t.Context(), w.caller, commands.CreateQueue{ID: newID(), Name: name, PartitionCount: &partitions, IsPublic: public})
	require.NoError(w.t, err)
	return topic.Config.TopicID
}

func (w *world) subscribe(caller commands.Caller, queue, group string, change ...func(*commands.CreateSubscription)) string {
	w.t.Helper()
	cmd := commands.CreateSubscription{
		ID: newID(), Queue: queue, ConsumerGroup: group, ConsumerName: "c" + newID(), OffsetResetPolicy: "earliest",
		SessionTimeoutMs: new(commands.SessionTimeoutMsMin), MaxRetryAttempts: new(1), RetryDelayMs: new(20),
	}
	for _, c := range change {
		c(&cmd)
	}
	s, _, err := w.CreateSubscription(w.t.Context(), caller, cmd)
	require.NoError(w.t, err)
	return s.Config.SubscriptionID
}

func (w *world) publish(m commands.Publish) commands.Published {
	w.t.Helper()
	m.ID = newID()
	if m.Queue == "" {
		m.Queue = "orders"
	}
	if m.Payload == nil {
		m.Payload = json.RawMessage(`1`)
	}
	out, err := w.Publish(w.t.Context(), w.caller, []commands.Publish{m}, false)
	require.NoError(w.t, err)
	require.NoError(w.t, out[0].Err)
	return out[0]
}

// live is what Redis has of a group.
func live(s redis.TopicState, group string) LedgerLive {
	l := LedgerLive{Position: int64(s.Last), Scheduled: s.Scheduled, Unsettled: s.Unsettled[group]}
	for _, p := range s.Partitions {
		for _, g := range p.Groups {
			if g.Group == group {
				l.InFlight += g.Pending
				l.Waiting += min(p.NextOffset-g.Delivered-g.Missing, p.Held)
			}
		}
	}
	for _, r := range s.Retries {
		if r.Group == group {
			l.InFlight += r.Leased
			l.Retrying += r.Ready - r.Leased + r.Waiting
			l.Waiting += r.Held
		}
	}
	return l
}

func fmtInts(n ...int64) string { return strings.Trim(fmt.Sprint(n), "[]") }
