package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// text is a JSON string of so many bytes.
func text(bytes int) string { return `"` + strings.Repeat("x", bytes-2) + `"` }

func payloadBytes(leased []events.Leased) int {
	n := 0
	for _, m := range leased {
		n += len(m.Payload)
	}
	return n
}

// listen runs the log and returns once it hears wake-ups: the first thing that it
// does is to wake every poll.
func (b *testBundle) listen(ctx context.Context, t testing.TB) {
	t.Helper()
	go b.log.Run(ctx)
	// Channels are confirmed one by one, and each confirmation wakes everybody.
	for _, s := range b.log.shards {
		heard := s.folded.wait(1)
		require.Eventually(t, func() bool {
			_ = b.client.Publish(ctx, s.keys.wake(), "f 1 0").Err()
			select {
			case <-heard.done:
				return true
			default:
				return false
			}
		}, 10*time.Second, time.Millisecond)
	}
}

// A clock that was set back makes Redis count sequence numbers up; positions have
// room for a million of them.
func TestTheLogGoesOnWhileTheClockIsBehind(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	// given a log whose last entry is an hour ahead, with almost no numbers left
	ahead := time.Now().Add(time.Hour).UnixMilli()
	full := int64(1<<20 - 2)
	require.NoError(t, b.client.XAdd(t.Context(), &goredis.XAddArgs{
		Stream: LogStream(b.prefix, topic.shard), ID: fmt.Sprintf("%d-%d", ahead, full), Values: []any{"a", "b"},
	}).Err())
	// when more is published than there are numbers
	var positions []events.Position
	for range 3 {
		out := b.append(t, topic.shard, topic.message(t, 0, "1"))
		require.Equal(t, events.StatusAppended, out[0].Status)
		positions = append(positions, out[0].Position)
	}
	// then the log goes on in the next millisecond
	require.Equal(t, []events.Position{
		events.MakePosition(ahead, full+1), events.MakePosition(ahead+1, 1), events.MakePosition(ahead+1, 2),
	}, positions)
}

// However light the messages before were, a lease stops soon after its limit.
func TestALeaseIsBoundedWhateverComesNext(t *testing.T) {
	t.Parallel()
	const heavy, limit = 50_000, 200_000
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.MessagesMax, req.BytesMax = 1000, limit
	for range 40 {
		b.append(t, topic.shard, topic.message(t, 0, `1`))
	}
	for range 80 {
		b.append(t, topic.shard, topic.message(t, 0, text(heavy)))
	}
	total := 0
	for total < 120 {
		leased, err := b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		require.NotEmpty(t, leased)
		require.LessOrEqual(t, payloadBytes(leased), limit+8*heavy)
		total += len(leased)
	}
	require.Equal(t, 120, total)
}

func TestAPollThatStoppedAtItsByteLimitPassesTheTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.MessagesMax, req.BytesMax = 100, 1000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.listen(ctx, t)
	// given two polls that wait
	began := time.Now()
	var polls sync.WaitGroup
	leased := make(chan int, 2)
	for range 2 {
		polls.Go(func() {
			got, err := b.log.Lease(ctx, req, 20*time.Second)
			if err == nil {
				leased <- len(got)
			}
		})
	}
	p := b.log.hub.enter(topic.id, "g")
	defer b.log.hub.leave(topic.id, "g", p)
	require.Eventually(t, func() bool {
		b.log.hub.mu.Lock()
		defer b.log.hub.mu.Unlock()
		return len(p.waiting) == 2
	}, 10*time.Second, time.Millisecond)
	// when one wake-up tells of more than one of them takes
	batch := make([]events.Append, 12)
	for n := range batch {
		batch[n] = topic.message(t, 0, text(500))
	}
	b.append(t, topic.shard, batch...)
	// then the other one takes the rest, without waiting to look for itself
	polls.Wait()
	close(leased)
	total := 0
	for n := range leased {
		require.Positive(t, n)
		total += n
	}
	require.Equal(t, 12, total)
	require.Less(t, time.Since(began), pollRecheck)
}

// A poll that may not lease after all passes on the turn that it was given.
func TestAPollOfAStaleSubscriptionPassesTheTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	stale, good := topic.subscription(t, "g", "earliest"), topic.subscription(t, "g", "earliest")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.listen(ctx, t)
	// given two polls that wait, of which the first one's subscription changes
	p := b.log.hub.enter(topic.id, "g")
	defer b.log.hub.leave(topic.id, "g", p)
	waiting := func(n int) {
		require.Eventually(t, func() bool {
			b.log.hub.mu.Lock()
			defer b.log.hub.mu.Unlock()
			return len(p.waiting) == n
		}, 10*time.Second, time.Millisecond)
	}
	began := time.Now()
	refused := make(chan error, 1)
	go func() {
		_, err := b.log.Lease(ctx, stale, 20*time.Second)
		refused <- err
	}()
	waiting(1)
	got := make(chan []events.Leased, 1)
	go func() {
		leased, _ := b.log.Lease(ctx, good, 20*time.Second)
		got <- leased
	}()
	waiting(2)
	require.NoError(t, b.client.HSet(ctx, b.log.shards[topic.shard].keys.subscription(stale.SubscriptionID), "v", 2).Err())
	// when a message comes, then the other one gets it, without waiting to look
	b.append(t, topic.shard, topic.message(t, 0, "1"))
	require.ErrorIs(t, <-refused, events.ErrStale)
	require.Len(t, <-got, 1)
	require.Less(t, time.Since(began), pollRecheck)
}

// While Postgres is away, every request waits for a fold in vain: that must leave
// nothing behind.
func TestWaitsForFoldsThatEndLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var waits sync.WaitGroup
	for n := range 50 {
		waits.Go(func() {
			if err := b.log.WaitFolded(ctx, 0, 0, events.Position(1000-n%7)); err == nil {
				t.Error("a fold that never was")
			}
		})
	}
	waits.Wait()
	folded := &b.log.shards[0].folded
	require.Empty(t, folded.waiting)
	// those who still wait are woken in the order of their positions
	first, last, gone := folded.wait(1001), folded.wait(1003), folded.wait(1002)
	folded.leave(gone)
	folded.announce(1001, 0)
	<-first.done
	select {
	case <-last.done:
		t.Fatal("woken early")
	default:
	}
	folded.announce(1003, 0)
	<-last.done
	folded.leave(last)
	require.Empty(t, folded.waiting)
}

// What was read before a change must not be cached after it.
func TestAggregatesReadBeforeAChangeAreNotKept(t *testing.T) {
	t.Parallel()
	var c aggregates
	c.init()
	old := &events.Aggregate{ID: "1", Version: 1}
	for name, drop := range map[string]func(){"that one": func() { c.drop("1") }, "all": c.dropAll} {
		_, drops := c.get("a")
		drop()
		c.put("a", old, drops)
		got, drops := c.get("a")
		require.Nil(t, got, name)
		c.put("a", old, drops)
		got, _ = c.get("a")
		require.Same(t, old, got, name)
		c.drop("1")
	}
}

func TestPositionsThatDoNotFitAreErrors(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "1", "-", "1-", "a-1", "1-a", "1-1048576", "8796093022208-0", "-1-0", "99999999999999999999-0"} {
		_, err := parsePosition(id)
		require.Error(t, err, id)
	}
	p, err := parsePosition("1767323045006-12")
	require.NoError(t, err)
	require.Equal(t, events.MakePosition(1767323045006, 12), p)
	require.Equal(t, "1767323045006-12", entryID(p))
}

// The reader asks for fewer entries the heavier they are, so that a backlog of large
// messages does not end in memory.
func TestTheReaderAsksForWhatItCanHold(t *testing.T) {
	t.Parallel()
	entries := func(n, bytes int) []goredis.XMessage {
		payload := strings.Repeat("x", bytes)
		out := make([]goredis.XMessage, n)
		for i := range out {
			out[i].Values = map[string]any{fieldPayload: payload}
		}
		return out
	}
	for _, tc := range []struct{ count, entries, bytes, next int }{
		{4, 0, 0, 4},
		{4, 1, 100, 8},
		{4, 4, 100, 8},
		{16, 16, 100, 32},
		{32, 32, 100, 32},
		{32, 1, 0, 32},
		{32, 32, 1 << 20, 7},
		{8, 8, 1 << 20, 7},
		{32, 2, 5 << 20, 4},
		{7, 7, 100, 14},
	} {
		require.Equal(t, tc.next, nextCount(tc.count, entries(tc.entries, tc.bytes)), tc)
	}
	// and whatever it asks for, nothing is left out
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	for n := range 300 {
		b.append(t, topic.shard, topic.message(t, 0, text(3+n%7*20_000)))
	}
	for n, r := range b.records(t, topic.shard, 301)[1:] {
		require.Equal(t, int64(n), r.Event.(events.MessagePublished).Offset)
	}
}

// BenchmarkLease is the price of a pull of small messages.
func BenchmarkLease(b *testing.B) {
	s := setup(b)
	topic := s.topic(b, "orders", 1)
	req := topic.subscription(b, "g", "earliest")
	req.MessagesMax, req.BytesMax = 500, 8<<20
	payload, err := json.Marshal(strings.Repeat("x", 200))
	require.NoError(b, err)
	for b.Loop() {
		b.StopTimer()
		batch := make([]events.Append, req.MessagesMax)
		for n := range batch {
			batch[n] = topic.message(b, 0, string(payload))
		}
		s.append(b, topic.shard, batch...)
		b.StartTimer()
		leased, err := s.log.Lease(b.Context(), req, 0)
		require.NoError(b, err)
		require.Len(b, leased, req.MessagesMax)
	}
}
