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

// record reads the shard's log from the beginning, as projections do.
func (b *testBundle) records(t testing.TB, shard, n int) []events.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ch, err := b.log.Reader(shard, 0).Subscribe(ctx, LogStream(b.prefix, shard))
	require.NoError(t, err)
	records := make([]events.Record, 0, n)
	for len(records) < n {
		m, ok := <-ch
		require.True(t, ok, "the log ended after %d of %d records", len(records), n)
		r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload)
		require.NoError(t, err)
		records = append(records, r)
	}
	return records
}

func TestPublishIsInTheLogAndInThePartition(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// given a topic with a group that reads it from the beginning
	topic := b.topic(t, "orders", 2)
	req := topic.subscription(t, "g", "earliest")
	// when two messages are published, with white space that must survive
	payload := "{\"a\" :\t1.0, \"html\":\"<&>\"}"
	out := b.append(t, topic.shard, topic.message(t, 1, payload), topic.message(t, 1, `"second"`))
	// then their offsets are dense from 0
	require.Equal(t, []int64{0, 1}, []int64{out[0].Offset, out[1].Offset})
	require.Less(t, out[0].Position, out[1].Position)
	// and the log holds the events in order, payload byte for byte
	records := b.records(t, topic.shard, 4)
	published, ok := records[2].Event.(events.MessagePublished)
	require.True(t, ok)
	require.Equal(t, payload, string(published.Payload))
	require.Equal(t, out[0].Position, records[2].Position)
	require.Equal(t, int64(1), records[3].Event.(events.MessagePublished).Offset)
	// and the group gets them, in order
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, leased, 2)
	require.Equal(t, payload, string(leased[0].Payload))
	require.Equal(t, out[0].Position, leased[0].Position)
	require.Equal(t, "k", leased[0].Meta.Key)
	require.Equal(t, map[string]string{"h": "v"}, leased[0].Meta.Headers)
	require.Equal(t, 1, leased[0].Attempt)
	require.Equal(t, 1, leased[0].Partition)
	require.Equal(t, int64(0), leased[0].Offset)
	// and consumed messages are settled once
	consumed := events.MessageConsumed{Delivery: topic.delivery(req, leased[0])}
	require.Equal(t, events.StatusAppended, topic.settle(t, consumed, leased[0]).Status)
	require.Equal(t, events.StatusLeaseLost, topic.settle(t, consumed, leased[0]).Status)
}

func TestFailedMessageComesBackWithTheNextAttempt(t *testing.T) {
	t.Parallel()
	for _, delayMs := range []int64{0, 150} {
		t.Run(fmt.Sprintf("delay %d ms", delayMs), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			topic := b.topic(t, "orders", 1)
			req := topic.subscription(t, "g", "earliest")
			b.append(t, topic.shard, topic.message(t, 0, `{"n":1}`))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go b.log.Run(ctx)
			go b.log.RunDue(ctx, DueWork{})
			for attempt := 1; attempt <= 3; attempt++ {
				leased, err := b.log.Lease(ctx, req, 10*time.Second)
				require.NoError(t, err)
				require.Len(t, leased, 1)
				require.Equal(t, attempt, leased[0].Attempt)
				require.Equal(t, int64(0), leased[0].Offset)
				require.Equal(t, 0, leased[0].Partition)
				require.JSONEq(t, `{"n":1}`, string(leased[0].Payload))
				out := topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[0]), RetryDelayMs: delayMs}, leased[0])
				require.Equal(t, events.StatusAppended, out.Status)
				// nobody can settle that attempt again
				out = topic.settle(t, events.MessageConsumed{Delivery: topic.delivery(req, leased[0])}, leased[0])
				require.Equal(t, events.StatusLeaseLost, out.Status)
			}
		})
	}
}

func TestExpiredLeaseIsHandedToTheDecider(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.For = 100 * time.Millisecond
	b.append(t, topic.shard, topic.message(t, 0, `1`))
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, leased, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	expired := make(chan events.ExpiredLease, 10)
	go b.log.RunDue(ctx, DueWork{Expired: func(_ context.Context, _ int, list []events.ExpiredLease) error {
		for _, x := range list {
			expired <- x
		}
		return nil
	}})
	x := <-expired
	require.Equal(t, req.SubscriptionID, x.SubscriptionID)
	require.Equal(t, req.Consumer, x.Consumer)
	require.Equal(t, leased[0].MessageID, x.MessageID)
	require.Equal(t, leased[0].Lease, x.Lease)
	require.InDelta(t, leased[0].LeasedAtMs, x.LeasedAtMs, 20)
}

func TestExtendMovesTheEndOfALease(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.message(t, 0, `1`), topic.message(t, 0, `2`))
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	topic.settle(t, events.MessageConsumed{Delivery: topic.delivery(req, leased[1])}, leased[1])
	ends, held, err := b.log.Extend(t.Context(), topic.shard, topic.id, "g", req.SubscriptionID,
		[]events.Lease{leased[0].Lease, leased[1].Lease}, time.Hour)
	require.NoError(t, err)
	require.Equal(t, []bool{true, false}, held)
	require.InDelta(t, leased[0].LeasedAtMs+time.Hour.Milliseconds(), ends, 60_000)
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	first := topic.message(t, 0, `1`)
	first.Meta = events.Meta{IdempotencyKey: "key", Fingerprint: "aa"}
	again, other := topic.message(t, 0, `1`), topic.message(t, 0, `2`)
	again.Meta = first.Meta
	other.Meta = events.Meta{IdempotencyKey: "key", Fingerprint: "bb"}
	out := b.append(t, topic.shard, first, again, other)
	require.Equal(t, events.StatusAppended, out[0].Status)
	require.Equal(t, events.StatusDuplicate, out[1].Status)
	require.Equal(t, first.ID, out[1].ID)
	require.Equal(t, out[0].Position, out[1].Position)
	require.Equal(t, events.StatusKeyReused, out[2].Status)
	// on another queue the key is another one, whether or not it shares the shard
	for _, name := range []string{"invoices", "returns", "stock"} {
		elsewhere := b.topic(t, name, 1)
		once := elsewhere.message(t, 0, `3`)
		once.Meta = events.Meta{IdempotencyKey: "key", Fingerprint: "cc"}
		require.Equal(t, events.StatusAppended, b.append(t, elsewhere.shard, once)[0].Status)
	}
}

func TestGuards(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	// a name is taken once
	twin := topic.created("orders")
	twinEvent, ok := twin.Event.(events.TopicCreated)
	require.True(t, ok)
	twinEvent.TopicID = newID(t)
	twin.Event = twinEvent
	out := b.append(t, topic.shard, twin)
	require.Equal(t, events.StatusExists, out[0].Status)
	require.Equal(t, topic.id, out[0].ID)
	// a stale decision is refused
	stale := topic.message(t, 0, `1`)
	stale.Guard.TopicVersion = 7
	require.Equal(t, events.StatusStale, b.append(t, topic.shard, stale)[0].Status)
	// an atomic group with a stale member enters not at all
	good, bad := topic.message(t, 0, `1`), topic.message(t, 0, `2`)
	bad.Guard.TopicVersion = 7
	good.Atomic, bad.Atomic = true, true
	out = b.append(t, topic.shard, good, bad)
	require.Equal(t, []events.Status{events.StatusAborted, events.StatusStale}, []events.Status{out[0].Status, out[1].Status})
	bad.Guard.TopicVersion = 1
	out = b.append(t, topic.shard, good, bad)
	require.Equal(t, []events.Status{events.StatusAppended, events.StatusAppended}, []events.Status{out[0].Status, out[1].Status})
	require.Equal(t, []int64{0, 1}, []int64{out[0].Offset, out[1].Offset})
}

func TestLongPollIsWokenByAPublish(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go b.log.Run(ctx)
	// given ten polls that wait, each for one message
	req.MessagesMax = 1
	got := make(chan string, 10)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			leased, err := b.log.Lease(ctx, req, 20*time.Second)
			if err == nil && len(leased) == 1 {
				got <- leased[0].MessageID
			}
		})
	}
	// when ten messages come, then every poll gets one
	for range 10 {
		b.append(t, topic.shard, topic.message(t, 0, `1`))
	}
	wg.Wait()
	close(got)
	seen := map[string]bool{}
	for id := range got {
		seen[id] = true
	}
	require.Len(t, seen, 10)
}

func TestLeaseStopsAtTheByteLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "big", 1)
	req := topic.subscription(t, "g", "earliest")
	req.MessagesMax, req.BytesMax = 500, 200_000
	big, err := json.Marshal(strings.Repeat("x", 10_000))
	require.NoError(t, err)
	for range 100 {
		b.append(t, topic.shard, topic.message(t, 0, string(big)))
	}
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.InDelta(t, 20, len(leased), 2)
}

func TestStateCountsWhatIsThere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 2)
	req := topic.subscription(t, "g", "earliest")
	for range 5 {
		b.append(t, topic.shard, topic.message(t, 0, `1`), topic.message(t, 1, `1`))
	}
	req.MessagesMax = 3
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	topic.settle(t, events.MessageConsumed{Delivery: topic.delivery(req, leased[0])}, leased[0])
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[1]), RetryDelayMs: 60_000}, leased[1])
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[2])}, leased[2])
	s, err := b.log.TopicState(t.Context(), topic.shard, topic.id, 2)
	require.NoError(t, err)
	require.Len(t, s.Partitions, 2)
	require.Equal(t, int64(5), s.Partitions[0].NextOffset)
	delivered := s.Partitions[0].Groups[0].Delivered + s.Partitions[1].Groups[0].Delivered
	require.Equal(t, int64(3), delivered)
	require.Equal(t, []RetryState{{Group: "g", Ready: 1, Waiting: 1, First: leased[2].Position, Active: 1}}, s.Retries)
}

func TestFinishedMessagesAreTrimmedAndUnfinishedOnesKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "busy", 1)
	fast := topic.subscription(t, "fast", "earliest")
	fast.MessagesMax = 1000
	publish := func(n int) {
		for range n / 200 {
			batch := make([]events.Append, 200)
			for i := range batch {
				batch[i] = topic.message(t, 0, `1`)
			}
			b.append(t, topic.shard, batch...)
		}
	}
	consume := func(req events.LeaseRequest) {
		for {
			leased, err := b.log.Lease(t.Context(), req, 0)
			require.NoError(t, err)
			if len(leased) == 0 {
				return
			}
			batch := make([]events.Append, len(leased))
			for i, m := range leased {
				batch[i] = events.Append{
					ID: newID(t), TenantID: tenant, Guard: events.Guard{Lease: m.Lease},
					Event: events.MessageConsumed{Delivery: topic.delivery(req, m)},
				}
			}
			b.append(t, topic.shard, batch...)
		}
	}
	publish(keptPerPartition + 4000)
	consume(fast)
	key := QueueStream(b.prefix, topic.shard, topic.id, 0)
	held, err := b.client.XLen(t.Context(), key).Result()
	require.NoError(t, err)
	require.Less(t, held, int64(keptPerPartition+1000))
	// a group that has not finished keeps its messages, however many
	slow := topic.subscription(t, "slow", "earliest")
	slow.MessagesMax = 1
	_, err = b.log.Lease(t.Context(), slow, 0)
	require.NoError(t, err)
	publish(4000)
	consume(fast)
	now, err := b.client.XLen(t.Context(), key).Result()
	require.NoError(t, err)
	require.Equal(t, held+4000, now)
}

func TestAReaderThatWouldMissSomethingSaysSo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	out := b.append(t, topic.shard, topic.message(t, 0, `1`), topic.message(t, 0, `2`), topic.message(t, 0, `3`))
	_, err := b.log.TrimLog(t.Context(), topic.shard, out[1].Position)
	require.NoError(t, err)
	stream := LogStream(b.prefix, topic.shard)
	_, err = b.log.Reader(topic.shard, out[0].Position).Subscribe(t.Context(), stream)
	require.ErrorIs(t, err, ErrTrimmed)
	messages, err := b.log.Reader(topic.shard, out[1].Position).Subscribe(t.Context(), stream)
	require.NoError(t, err)
	require.Equal(t, out[2].ID, (<-messages).UUID)
}

func TestTheLogIsKeptForGroupsThatHaveNotFinished(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	stream := LogStream(b.prefix, topic.shard)
	require.NoError(t, b.client.XGroupCreate(t.Context(), stream, "audit", "0").Err())
	// given a long log of which a group has read the first entries and acknowledged one
	var last events.Outcome
	for range 30 {
		batch := make([]events.Append, 100)
		for i := range batch {
			batch[i] = topic.message(t, 0, `1`)
		}
		out := b.append(t, topic.shard, batch...)
		last = out[len(out)-1]
	}
	read, err := b.client.XReadGroup(t.Context(), &goredis.XReadGroupArgs{Group: "audit", Consumer: "c", Streams: []string{stream, ">"}, Count: 1000}).Result()
	require.NoError(t, err)
	first, second := read[0].Messages[0].ID, read[0].Messages[1].ID
	require.NoError(t, b.client.XAck(t.Context(), stream, "audit", first).Err())
	oldest := func() string {
		entries, err := b.client.XRangeN(t.Context(), stream, "-", "+", 1).Result()
		require.NoError(t, err)
		return entries[0].ID
	}
	// when all of it is folded, then what the group still needs is there
	_, err = b.log.TrimLog(t.Context(), topic.shard, last.Position)
	require.NoError(t, err)
	require.LessOrEqual(t, oldest(), second)
	// and what it has finished goes, up to what it has not read
	for _, m := range read[0].Messages[1:] {
		require.NoError(t, b.client.XAck(t.Context(), stream, "audit", m.ID).Err())
	}
	n, err := b.log.TrimLog(t.Context(), topic.shard, last.Position)
	require.NoError(t, err)
	require.Positive(t, n)
	require.LessOrEqual(t, oldest(), read[0].Messages[len(read[0].Messages)-1].ID)
	// neither position goes back when somebody is behind
	_, err = b.log.TrimLog(t.Context(), topic.shard, last.Position-1)
	require.NoError(t, err)
	folded, err := storedPosition(t.Context(), b.client, b.log.shards[topic.shard].keys.folded())
	require.NoError(t, err)
	require.Equal(t, last.Position, folded)
}
