package feed

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// sse is a server-sent event, or with a comment only that.
type sse struct{ id, event, data, comment, retry string }

// readSSE returns the next block of a stream; an unfinished one is none (HTML
// standard, section 9.2.6).
func readSSE(r *bufio.Reader) (sse, error) {
	var e sse
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return e, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "\n":
			return e, nil
		case name == "":
			e.comment = value
		case name == "id":
			e.id = value
		case name == "event":
			e.event = value
		case name == "data":
			e.data = value
		case name == "retry":
			e.retry = value
		default:
			return e, fmt.Errorf("field %q", name)
		}
	}
}

// follow opens a stream and returns its reader and what ends it.
func (b *testBundle) follow(query, tenantID string, header ...string) (*bufio.Reader, context.CancelFunc) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	b.t.Cleanup(cancel)
	resp := b.open(ctx, query, tenantID, append(header, "Accept", mimeEventStream)...)
	b.t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(b.t, http.StatusOK, resp.StatusCode)
	require.Equal(b.t, mimeEventStream, resp.Header.Get("Content-Type"))
	require.Equal(b.t, "no-cache", resp.Header.Get("Cache-Control"))
	require.Equal(b.t, "no", resp.Header.Get("X-Accel-Buffering"))
	r := bufio.NewReader(resp.Body)
	first, err := readSSE(r)
	require.NoError(b.t, err)
	require.Equal(b.t, sse{retry: "1000", id: first.id}, first)
	require.NotEmpty(b.t, first.id)
	return r, cancel
}

func (b *testBundle) next(r *bufio.Reader) (sse, item) {
	b.t.Helper()
	for {
		e, err := readSSE(r)
		require.NoError(b.t, err)
		if e.data == "" {
			continue
		}
		var i item
		require.NoError(b.t, json.Unmarshal([]byte(e.data), &i))
		require.Equal(b.t, i.Type, e.event)
		return e, i
	}
}

func TestAStreamIsTheHistoryThenWhatComes(t *testing.T) {
	t.Parallel()
	b := setup(t, func(h *Handlers) { h.recheck = time.Hour })
	topics, _ := mixed(b, 20)
	r, _ := b.follow("", tenant)
	var ids []string
	for range b.history(tenant) {
		e, i := b.next(r)
		ids = append(ids, i.ID)
		// a cursor of the stream is one of the pages, and the other way round
		require.NotEmpty(t, e.id)
		if len(ids) == 5 {
			rest, _ := b.page("?limit=500&cursor="+e.id, tenant)
			require.Equal(t, recordIDs(b.history(tenant))[5:], itemIDs(rest))
		}
	}
	require.Equal(t, recordIDs(b.history(tenant)), ids)
	// what comes is there at once, though the look for lost wake-ups is an hour away
	for range 5 {
		want := b.logs[3].publish(tenant, topics[tenant+"3"], "{\"lines\":\r\n1}")
		_, i := b.next(r)
		require.Equal(t, want, i.ID)
		require.Contains(t, string(i.Data), "{\"lines\":  1}")
	}
	// from now on is not what was
	r, _ = b.follow("?from=now&type=message.published", tenant)
	b.logs[0].publish(other, topics[other+"0"], "1")
	want := b.logs[0].publish(tenant, topics[tenant+"0"], "1")
	_, i := b.next(r)
	require.Equal(t, want, i.ID)
}

// collector is a reader of the feed whose connections break.
type collector struct {
	last string
	got  []item
}

// read reads up to limit bytes of a connection, wherever that is, and keeps what came
// whole.
func (c *collector) read(b *testBundle, limit int64, done func() bool) {
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	resp := b.open(ctx, "", tenant, "Accept", mimeEventStream, headerLastEventID, c.last)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(b.t, http.StatusOK, resp.StatusCode)
	r := bufio.NewReader(io.LimitReader(resp.Body, limit))
	for !done() {
		e, err := readSSE(r)
		if err != nil {
			require.ErrorIs(b.t, err, io.EOF)
			return
		}
		if e.id != "" {
			c.last = e.id
		}
		if e.data != "" {
			var i item
			require.NoError(b.t, json.Unmarshal([]byte(e.data), &i))
			c.got = append(c.got, i)
		}
	}
}

func TestAStreamThatBreaksResumesExactly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const perShard, cuts = 300, 20
	var writers sync.WaitGroup
	for _, l := range b.logs {
		writers.Go(func() {
			for i := range perShard {
				l.publish(tenant, l.topic(other, fmt.Sprintf("t%d-%d", l.shard, i)), fmt.Sprintf(`{"n":%d}`, i))
				if i%5 == 0 {
					l.fold() // so that there are many transactions, and the reader keeps up
				}
			}
			l.fold()
		})
	}
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's dice
	c := &collector{}
	for range cuts {
		c.read(b, 100+rng.Int64N(60_000), func() bool { return false })
	}
	require.NotEmpty(t, c.got)
	broken := len(c.got)
	require.Less(t, broken, shards*perShard, "it was cut under way")
	c.read(b, 1<<30, func() bool { return len(c.got) >= shards*perShard })
	writers.Wait()
	// then nothing more is there, and each shard's events are there in order, once
	rest, _ := b.page("?cursor="+c.last, tenant)
	require.Empty(t, rest)
	got := map[int][]string{}
	for _, i := range c.got {
		got[i.Shard] = append(got[i.Shard], i.ID)
	}
	for _, l := range b.logs {
		var want []string
		for _, r := range l.records {
			if r.TenantID == tenant {
				want = append(want, r.ID)
			}
		}
		require.Equal(t, want, got[l.shard], "shard %d", l.shard)
	}
	t.Logf("%d events over %d connections, then %d", broken, cuts, len(c.got)-broken)
}

func TestASilentStreamHasHeartbeatsThatMoveItsCursor(t *testing.T) {
	t.Parallel()
	// longer than the server's own read timeout, of half a second
	b := setup(t, func(h *Handlers) { h.heartbeat, h.recheck = 600*time.Millisecond, 10*time.Millisecond })
	require.Equal(t, 15*time.Second, New(Deps{}).heartbeat)
	mixed(b, 4)
	r, _ := b.follow("?from=now&type=subscription.*", tenant)
	b.logs[0].publish(tenant, newID(t), "1")
	b.fold()
	seen := map[string]bool{}
	require.Eventually(t, func() bool {
		e, err := readSSE(r)
		require.NoError(t, err)
		require.Equal(t, "heartbeat", e.comment)
		require.Empty(t, e.data)
		require.False(t, e.id != "" && seen[e.id], "an id is sent once")
		seen[e.id] = true
		return seen[""] && len(seen) > 1
	}, time.Minute, time.Millisecond)
	delete(seen, "")
	for id := range seen {
		page, _ := b.page("?type=subscription.*&cursor="+id, tenant)
		require.Empty(t, page)
	}
	// and an event is still found
	id := newID(t)
	b.logs[1].add(tenant, newID(t), 2, events.SubscriptionDeleted{SubscriptionID: id, TopicID: newID(t)})
	_, i := b.next(r)
	require.Equal(t, id, i.Subject)
}
