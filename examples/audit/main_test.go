package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/redis"
)

const tenant = "00000000-0000-0000-0000-000000000001"

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// book is what the service wrote.
type book struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// lines returns the lines that have a text in them, in order.
func (b *book) lines(about string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for line := range strings.Lines(b.buf.String()) {
		if strings.Contains(line, about) {
			out = append(out, line)
		}
	}
	return out
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

// run runs the service until the returned function is called.
func run(t testing.TB, url, prefix string, out *book) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- audit(ctx, url, prefix, 2, out) }()
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func TestTheAuditServiceHearsOfEverything(t *testing.T) {
	t.Parallel()
	url, prefix := devstack.TestRedis(t)
	client, err := redis.Open(url)
	require.NoError(t, err)
	decode := func(data []byte) (any, error) { return string(data), nil }
	log := redis.New(redis.Config{
		Client: client, Prefix: prefix, Shards: 2, IdempotencyTTL: time.Minute, Logger: slog.New(slog.DiscardHandler),
		DecodeTopic: decode, DecodeSubscription: decode,
	})
	t.Cleanup(func() {
		log.Close()
		_ = client.Close()
	})
	topics := []string{newID(t), newID(t)}
	var want [2][]string
	add := func(shard int, e events.Event, id string, a events.Append) {
		a.ID, a.TenantID, a.Event, a.Meta.Actor = id, tenant, e, "tester"
		out, err := log.Append(t.Context(), shard, []events.Append{a})
		require.NoError(t, err)
		require.Equal(t, events.StatusAppended, out[0].Status)
		frame, err := events.Encode(e)
		require.NoError(t, err)
		want[shard] = append(want[shard], fmt.Sprintf("%s tenant=%s actor=%q id=%s %s\n", e.Kind(), tenant, "tester", id, frame.Join(fmt.Sprint(out[0].Offset))))
	}
	publish := func(shard, n int) {
		id := newID(t)
		add(shard, events.MessagePublished{
			MessageID: id, TopicID: topics[shard], ContentType: "application/json", Payload: json.RawMessage(fmt.Sprintf(`{"n": %d}`, n)),
		}, id, events.Append{Guard: events.Guard{TopicVersion: 1}})
	}
	for shard, id := range topics {
		add(shard, events.TopicCreated{TopicConfig: events.TopicConfig{TopicID: id, Name: "orders", PartitionCount: 1, TopicType: "redis_stream"}},
			id, events.Append{Version: 1, State: []byte(`{}`)})
		publish(shard, 1)
	}
	out := &book{}
	hears := func() {
		t.Helper()
		for shard, id := range topics {
			require.Eventually(t, func() bool { return len(out.lines(id)) >= len(want[shard]) }, time.Minute, 10*time.Millisecond)
			require.Equal(t, want[shard], out.lines(id))
		}
	}
	// what was there, and what comes
	stop := run(t, url, prefix, out)
	hears()
	publish(0, 2)
	publish(1, 2)
	hears()
	stop()
	// what came while it was away is kept for it, though TallyMQ itself needs it no more
	for n := range 3 {
		publish(0, 3+n)
	}
	_, err = log.TrimLog(t.Context(), 0, events.MakePosition(time.Now().Add(time.Hour).UnixMilli(), 0))
	require.NoError(t, err)
	stop = run(t, url, prefix, out)
	// one of them may have gone to the reader that ended, and come later or twice
	require.Eventually(t, func() bool {
		heard := out.lines(topics[0])
		return !slices.ContainsFunc(want[0], func(line string) bool { return !slices.Contains(heard, line) })
	}, time.Minute, 10*time.Millisecond)
	stop()
}
