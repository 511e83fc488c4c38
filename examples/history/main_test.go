package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/history"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/projections"
)

const tenant = "00000000-0000-0000-0000-000000000001"

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

// ofShard returns the lines about a shard, in order.
func (b *book) ofShard(shard int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for line := range strings.Lines(b.buf.String()) {
		if strings.HasPrefix(strings.Fields(line)[1], fmt.Sprint(shard, "/")) {
			out = append(out, line)
		}
	}
	return out
}

// feed is a log in memory.
type feed chan *message.Message

func (f feed) Subscribe(context.Context, string) (<-chan *message.Message, error) { return f, nil }

func (feed) Close() error { return nil }

// shard is a log and its projector.
type shard struct {
	number  int
	log     feed
	at      events.Position
	topicID string
	want    []string
}

func newStore(t *testing.T, shards int) (url string) {
	t.Helper()
	url = devstack.TestPostgres(t)
	pool, err := postgres.Open(t.Context(), url)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	_, err = postgres.FixSetting(t.Context(), pool, "shards", strconv.Itoa(shards))
	require.NoError(t, err)
	return url
}

func newShard(t *testing.T, url string, number int) *shard {
	t.Helper()
	s := &shard{number: number, at: events.MakePosition(time.Now().UnixMilli(), 0), topicID: newID(t), log: make(feed)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		projections.New(projections.Config{
			Shard: number, Logger: slog.Default(), Committed: func(events.Position) {},
			Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, url) },
			Source:  func(events.Position) (message.Subscriber, string) { return s.log, "log" },
		}).Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	s.add(t, events.TopicCreated{TopicConfig: events.TopicConfig{
		TopicID: s.topicID, Name: fmt.Sprint("orders-", number), PartitionCount: 1, TopicType: "redis_stream", MessageFormat: "json",
		CompressionType: "none", AllowedProducers: []string{}, AllowedConsumers: []string{}, Status: "active",
	}}, s.topicID, 1)
	return s
}

func newID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

// add returns once the event is history.
func (s *shard) add(t *testing.T, e events.Event, id string, version int64) {
	t.Helper()
	frame, err := events.Encode(e)
	require.NoError(t, err)
	s.at++
	m := message.NewMessage(id, frame.Join("0"))
	m.Metadata = events.Meta{Actor: "tester"}.Metadata(e.Kind(), tenant, version)
	m.Metadata[events.MetaShard], m.Metadata[events.MetaPosition] = strconv.Itoa(s.number), strconv.FormatInt(int64(s.at), 10)
	s.log <- m
	<-m.Acked()
	s.want = append(s.want, fmt.Sprintf("%s %d/%d %s tenant=%s actor=%q id=%s %s\n",
		s.at.Time().Format("2006-01-02T15:04:05.000Z"), s.number, s.at, e.Kind(), tenant, "tester", id, m.Payload))
}

func (s *shard) publish(t *testing.T, n int) {
	t.Helper()
	for range n {
		id := newID(t)
		s.add(t, events.MessagePublished{MessageID: id, TopicID: s.topicID, ContentType: "application/json", Payload: json.RawMessage(`{"n": 1}`)}, id, 0)
	}
}

func TestTheAuditServiceHasAllOfHistoryInOrder(t *testing.T) {
	t.Parallel()
	url := newStore(t, 2)
	shards := []*shard{newShard(t, url, 0), newShard(t, url, 1)}
	out := &book{}
	hears := func() {
		t.Helper()
		for _, s := range shards {
			require.Eventually(t, func() bool { return len(slices.Compact(out.ofShard(s.number))) >= len(s.want) }, time.Minute, 10*time.Millisecond)
			// one in hand when a service ended may come twice
			require.Equal(t, s.want, slices.Compact(out.ofShard(s.number)))
		}
	}
	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- audit(ctx, url, "audit", out) }()
		return func() {
			cancel()
			require.NoError(t, <-ended)
		}
	}
	// what was there, and what comes
	shards[0].publish(t, 20)
	shards[1].publish(t, 10)
	stop := run()
	hears()
	shards[0].publish(t, 3)
	shards[1].publish(t, 2)
	hears()
	stop()
	// and what came while it was away
	shards[0].publish(t, 5)
	shards[1].publish(t, 1)
	stop = run()
	hears()
	stop()
}

// childFile is where a child of the test process, which is the service, writes to.
const childFile = "HISTORY_TEST_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		os.Exit(serveInto(path))
	}
	os.Exit(devstack.Main(m))
}

// serveInto ends with its parent at the latest: the other end of its input is there.
func serveInto(path string) int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // the test's own
	if err == nil {
		err = audit(context.Background(), os.Getenv("DATABASE_URL"), "audit", file)
	}
	if err != nil {
		return 1
	}
	return 0
}

func TestTheAuditServiceMissesNothingThoughItIsKilled(t *testing.T) {
	t.Parallel()
	url := newStore(t, 1)
	s := newShard(t, url, 0)
	path := filepath.Join(t.TempDir(), "audit")
	lines := func() []string {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		return slices.Collect(strings.Lines(string(text)))
	}
	const rounds, perRound = 6, 150
	for round := range rounds {
		program, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command(program) //nolint:gosec // this test
		cmd.Env = append(os.Environ(), childFile+"="+path, "DATABASE_URL="+url)
		_, err = cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		// it is killed in the middle of what comes, the last one when it has it all
		had := len(lines())
		s.publish(t, perRound)
		require.Eventually(t, func() bool {
			return len(lines()) >= had+perRound/3 && (round < rounds-1 || slices.Contains(lines(), s.want[len(s.want)-1]))
		}, time.Minute, time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	// then nothing is missing, and what came again came in order as well: from one of the
	// events before to the newest
	place := map[string]int{}
	for n, line := range s.want {
		place[line] = n
	}
	next := 0
	for _, line := range lines() {
		at, known := place[line]
		require.True(t, known, line)
		require.LessOrEqual(t, at, next, "an event is left out")
		require.Greater(t, at, next-history.BatchEventsDefault-2, "more than a batch came again")
		next = at + 1
	}
	require.Len(t, s.want, next)
}
