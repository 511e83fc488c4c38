package jobs

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// target takes what is published, in order, by queue.
type target struct {
	Commands

	mu  sync.Mutex
	got map[string][]string
}

func (t *target) Publish(_ context.Context, _ commands.Caller, batch []commands.Publish, _ bool) ([]commands.Published, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range batch {
		t.got[m.Queue] = append(t.got[m.Queue], string(m.Payload))
	}
	return make([]commands.Published, len(batch)), nil
}

func (t *target) of(queue string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string{}, t.got[queue]...)
}

// history is a Postgres with messages of a tenant's queues.
type history struct {
	*Jobs

	t        *testing.T
	pool     *pgxpool.Pool
	tenantID string
	topics   map[string]string
	target   *target
	// logEnd is where the log ends.
	logEnd atomic.Int64
}

func newHistory(t *testing.T) *history {
	t.Helper()
	pool, err := postgres.Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	h := &history{
		t: t, pool: pool, tenantID: newID(), topics: map[string]string{"orders": newID(), "other": newID()},
		target: &target{got: map[string][]string{}},
	}
	h.Jobs = New(Config{
		Pool: pool, Commands: h.target, Shards: 1, NewID: newID, Logger: slog.New(slog.DiscardHandler),
		Open: func(_ context.Context, _, _, _ string, payload []byte) ([]byte, error) {
			if string(payload) == `"lost"` {
				return nil, commands.ErrUnreadable
			}
			return payload, nil
		},
		LogEnd: func(context.Context, int) (int64, error) { return h.logEnd.Load(), nil },
		Topic:  func(_ context.Context, _, name string) (string, error) { return h.topics[name], nil },
	})
	return h
}

// run works on jobs until the test ends.
func (h *history) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	h.t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// published adds a message that was published at a time, in ms since 1970.
func (h *history) published(queue string, ms int64, payload string, isSealed bool) {
	h.t.Helper()
	m := events.MessagePublished{MessageID: newID(), TopicID: h.topics[queue], Payload: json.RawMessage(payload), Sealed: isSealed}
	data, err := json.Marshal(m)
	require.NoError(h.t, err)
	_, err = h.pool.Exec(h.t.Context(), `INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
		VALUES (0, $1, 'message', $2, 'message.published', $3, $4, $5, 0, now(), '{}', $6)`, ms<<positionBits, newID(), h.tenantID, m.TopicID, m.MessageID, string(data))
	require.NoError(h.t, err)
}

// folded says up to when all is folded.
func (h *history) folded(ms int64) {
	h.t.Helper()
	_, err := h.pool.Exec(h.t.Context(), `INSERT INTO projection_checkpoints (projection, shard, position, updated_at) VALUES ('read', 0, $1, now())
		ON CONFLICT (projection, shard) DO UPDATE SET position = excluded.position`, ms<<positionBits)
	require.NoError(h.t, err)
}

func (h *history) replay(to string, speed float64) Job {
	h.t.Helper()
	j, err := h.Start(h.t.Context(), h.tenantID, commands.Owner{Subject: "somebody"}, KindReplay, "", Spec{Queue: "orders", TargetQueue: to, Speed: speed})
	require.NoError(h.t, err)
	return j
}

func (h *history) job(id string) Job {
	h.t.Helper()
	j, err := h.store.one(h.t.Context(), `SELECT `+columns+` FROM delivery_jobs WHERE id = $1`, id)
	require.NoError(h.t, err)
	return j
}

func (h *history) ended(id string) Job {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return h.job(id).FinishedAt != nil }, 30*time.Second, 10*time.Millisecond)
	return h.job(id)
}
