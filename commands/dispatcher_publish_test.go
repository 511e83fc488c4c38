package commands_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

func TestPublishUnderAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 3)
	publish := func(on *instance, caller commands.Caller, payload string) commands.Published {
		return on.publishBatch(t, caller, false, message("orders", payload))[0]
	}
	first := publish(i, under("k"), `{"a":1}`)
	require.NoError(t, first.Err)
	require.False(t, first.Duplicate)
	// the same again is the same message, on any instance, though its turn goes to
	// another partition
	for _, on := range []*instance{i, b.instance(t)} {
		again := publish(on, under("k"), `{"a":1}`)
		want := first
		want.Duplicate = true
		require.Equal(t, want, again)
	}
	// another payload is a mistake
	requireRefusal(t, publish(i, under("k"), `{"a":2}`).Err, commands.CodeIdempotencyKeyReused)
	// another key, or none, is another message
	for _, caller := range []commands.Caller{under("other"), async} {
		next := publish(i, caller, `{"a":1}`)
		require.NoError(t, next.Err)
		require.NotEqual(t, first.MessageID, next.MessageID)
	}
}

func TestABatchRefusesWhatIsWrongAndTakesTheRest(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	badPartition, refused := message("orders", "4"), message("orders", "5")
	badPartition.Partition = new(1)
	refused.Refused = &commands.Refusal{Code: commands.CodePayloadTooLarge, Reason: "said the edge"}
	batch := []commands.Publish{
		message("orders", "0"), message("nowhere", "1"), message("No name", "2"), message("orders", "3"), badPartition, refused, message("orders", "6"),
	}
	out := i.publishBatch(t, async, false, batch...)
	// the answers are in order
	codes := map[int]commands.Code{1: commands.CodeQueueNotFound, 2: commands.CodeValidationFailed, 4: commands.CodeValidationFailed, 5: commands.CodePayloadTooLarge}
	offset := int64(0)
	for n, r := range out {
		require.Equal(t, batch[n].ID, r.MessageID)
		require.Equal(t, batch[n].Queue, r.Queue)
		if code, ok := codes[n]; ok {
			requireRefusal(t, r.Err, code)
			continue
		}
		require.NoError(t, r.Err)
		require.Equal(t, offset, r.Offset, "what was refused left a gap")
		require.NotZero(t, r.Position)
		offset++
	}
	id := i.subscribe(t, "orders", "g")
	var payloads []string
	for _, m := range i.pull(t, id, 10) {
		payloads = append(payloads, string(m.Payload))
	}
	require.Equal(t, []string{"0", "3", "6"}, payloads)
}

func TestABatchIsRepeatedUnderItsKeyMessageByMessage(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	queues := i.queuePerShard(t)
	batch := func(payloads ...string) []commands.Publish {
		out := make([]commands.Publish, len(payloads))
		for n, p := range payloads {
			out[n] = message(queues[n%2], p)
		}
		return out
	}
	// given a batch over both shards, of which the edge refused one
	broken := batch("0", "1", "2", "3")
	broken[1].Refused = &commands.Refusal{Code: commands.CodeValidationFailed}
	first := i.publishBatch(t, under("k"), false, broken...)
	require.Error(t, first[1].Err)
	// when it comes again, mended, then that one is taken and the others are found
	again := i.publishBatch(t, under("k"), false, batch("0", "1", "2", "3")...)
	for n, r := range again {
		require.NoError(t, r.Err)
		require.Equal(t, n != 1, r.Duplicate, n)
		if n != 1 {
			require.Equal(t, first[n].MessageID, r.MessageID)
			require.Equal(t, first[n].Offset, r.Offset)
		}
	}
	// and a message that is another now is refused alone
	changed := i.publishBatch(t, under("k"), false, batch("0", "1", `"two"`, "3")...)
	for n, r := range changed {
		if n == 2 {
			requireRefusal(t, r.Err, commands.CodeIdempotencyKeyReused)
			continue
		}
		require.NoError(t, r.Err)
		require.True(t, r.Duplicate)
	}
}

// A caller's key may end like the ones we make for the messages of a batch.
func TestKeysOfBatchesDoNotMeetOtherKeys(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	batch := i.publishBatch(t, under("k"), false, message("orders", "1"), message("orders", "1"))
	seen := map[string]bool{batch[0].MessageID: true, batch[1].MessageID: true}
	for _, key := range []string{"k", "k#0", "k#1", "k:1", "k/1", "k1", "k-1", "k.1", "k|1"} {
		r := i.publishBatch(t, under(key), false, message("orders", "1"))[0]
		require.NoError(t, r.Err)
		require.False(t, r.Duplicate, "key %q swallowed a message", key)
		require.False(t, seen[r.MessageID])
		seen[r.MessageID] = true
	}
}

func TestAnAtomicBatchEntersAsOneOrNotAtAll(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	bad := message("orders", "2")
	bad.TTLMs = new(int64(0))
	// when one of them is refused, so are all
	out := i.publishBatch(t, async, true, message("orders", "1"), bad, message("orders", "3"))
	requireRefusal(t, out[1].Err, commands.CodeValidationFailed)
	for _, n := range []int{0, 2} {
		require.True(t, commands.IsAborted(out[n].Err))
		requireRefusal(t, out[n].Err, commands.CodePublishFailed)
	}
	require.False(t, commands.IsAborted(out[1].Err))
	// also where the log refuses one: here a key that was used before
	require.NoError(t, i.publishBatch(t, under("k"), true, message("orders", `"first"`), message("orders", `"second"`))[0].Err)
	out = i.publishBatch(t, under("k"), true, message("orders", `"first"`), message("orders", `"other"`), message("orders", `"new"`))
	require.True(t, out[0].Duplicate)
	requireRefusal(t, out[1].Err, commands.CodeIdempotencyKeyReused)
	require.True(t, commands.IsAborted(out[2].Err))
	// then nothing of them is in the log: what follows has the next offsets
	out = i.publishBatch(t, async, true, message("orders", "4"), message("orders", "5"), message("orders", "6"))
	for n, r := range out {
		require.NoError(t, r.Err)
		require.Equal(t, int64(2+n), r.Offset)
	}
	// and the whole batch under its key is found again
	for range 2 {
		require.Len(t, i.publishBatch(t, under("k"), true, message("orders", `"first"`), message("orders", `"second"`)), 2)
	}
	require.Len(t, i.history(t, b, "orders", 6), 6)
}

func TestAnAtomicBatchMayBeLarge(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 4)
	batch := make([]commands.Publish, commands.BatchMessagesMax)
	for n := range batch {
		batch[n] = message("orders", "1")
	}
	offsets := map[int]int64{}
	for _, r := range i.publishBatch(t, async, true, batch...) {
		require.NoError(t, r.Err)
		require.Equal(t, offsets[r.Partition], r.Offset)
		offsets[r.Partition]++
	}
	require.Equal(t, map[int]int64{0: 250, 1: 250, 2: 250, 3: 250}, offsets)
}

func TestAnAtomicBatchHasOneQueue(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	queues := i.queuePerShard(t)
	_, err := i.Publish(t.Context(), async, []commands.Publish{message(queues[0], "1"), message(queues[1], "1")}, true)
	require.Equal(t, "messages[1].queue", refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field)
}

// After a step without an answer no later one is tried: its messages would stand
// before the earlier ones once the batch is repeated.
func TestABatchStopsWhereTheLogDoesNotAnswer(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	spy := &spyStore{Store: i.log, appendErr: events.ErrOutcomeUnknown}
	batch := make([]commands.Publish, 600)
	for n := range batch {
		batch[n] = message("orders", "1")
	}
	out, err := dispatcher(spy).Publish(t.Context(), async, batch, false)
	require.NoError(t, err)
	require.Equal(t, 1, spy.appends)
	for _, r := range out {
		require.ErrorIs(t, r.Err, events.ErrOutcomeUnknown)
		require.ErrorIs(t, r.Err, commands.ErrUnavailable)
	}
}

func TestOtherTenantsQueuesAreNotThere(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	theirs := commands.Caller{TenantID: otherTenant, Async: true}
	missing := refusalOf(t, i.publishBatch(t, theirs, false, message("nowhere", "1"))[0].Err, commands.CodeQueueNotFound)
	hidden := refusalOf(t, i.publishBatch(t, theirs, false, message("orders", "1"))[0].Err, commands.CodeQueueNotFound)
	require.Equal(t, missing.Reason, fmt.Sprintf("no queue %q", "nowhere"))
	require.Equal(t, hidden.Reason, fmt.Sprintf("no queue %q", "orders"))
}

func TestTheEventSaysWhoPublishedAndWhy(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	caller := under("k")
	caller.Subject, caller.RequestID, caller.TraceParent = "shop", "r-1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	cmd := message("orders", `{"a" : 1}`)
	cmd.Key, cmd.Headers, cmd.CorrelationID = "key", map[string]string{"h": "v"}, "c"
	require.NoError(t, i.publishBatch(t, caller, false, cmd)[0].Err)
	r := i.history(t, b, "orders", 2)[1]
	require.Equal(t, cmd.ID, r.ID)
	require.Equal(t, tenant, r.TenantID)
	require.Zero(t, r.Version)
	require.Equal(t, "shop", r.Meta.Actor)
	require.Equal(t, "r-1", r.Meta.RequestID)
	require.Equal(t, "k", r.Meta.IdempotencyKey)
	require.NotEmpty(t, r.Meta.Fingerprint)
	e := r.Event.(events.MessagePublished)
	require.Equal(t, "shop", e.ProducerID)
	require.Equal(t, caller.TraceParent, e.TraceParent)
	require.Equal(t, `{"a" : 1}`, string(e.Payload))
	// and the consumer sees what it needs of it
	m := i.pull(t, i.subscribe(t, "orders", "g"), 1)[0]
	require.Equal(t, events.DeliveryMeta{
		TenantID: tenant, Key: "key", ContentType: "application/json", CorrelationID: "c", TraceParent: caller.TraceParent,
		ExpiresAtMs: m.Meta.ExpiresAtMs, Headers: map[string]string{"h": "v"},
	}, m.Meta)
	require.Equal(t, r.Position, m.Position)
	require.InDelta(t, r.Position.Ms()+e.TTLMs, m.Meta.ExpiresAtMs, 10_000)
}

// Publishers on two instances at once: offsets stay dense, no message is lost or
// doubled, and what one publisher sent under one key stays in order.
func TestConcurrentPublishesKeepOffsetsDense(t *testing.T) {
	t.Parallel()
	const publishers, rounds, partitions = 6, 20, 3
	b := setup(t)
	instances := []*instance{b.instance(t), b.instance(t)}
	instances[0].queue(t, "orders", partitions)
	id := instances[0].subscribe(t, "orders", "g")
	answers := make(chan commands.Published, publishers*rounds*3)
	var all sync.WaitGroup
	for p := range publishers {
		all.Go(func() {
			for n := range rounds {
				batch := make([]commands.Publish, 3)
				for k := range batch {
					batch[k] = message("orders", strconv.Itoa(n*3+k))
					if k > 0 {
						batch[k].Key = fmt.Sprintf("publisher-%d", p)
					}
				}
				out, err := instances[p%2].Publish(t.Context(), async, batch, n%2 == 0)
				if err != nil {
					t.Error(err)
				}
				for _, r := range out {
					answers <- r
				}
			}
		})
	}
	all.Wait()
	close(answers)
	offsets := map[int][]int64{}
	want := map[string]bool{}
	for r := range answers {
		require.NoError(t, r.Err)
		offsets[r.Partition] = append(offsets[r.Partition], r.Offset)
		want[r.MessageID] = true
	}
	require.Len(t, want, publishers*rounds*3)
	require.Len(t, offsets, partitions)
	for partition, of := range offsets {
		slices.Sort(of)
		for n, offset := range of {
			require.Equal(t, int64(n), offset, "partition %d", partition)
		}
	}
	last := map[string]int{}
	for len(want) > 0 {
		for _, m := range instances[1].pull(t, id, 100) {
			require.True(t, want[m.MessageID], "unknown or delivered twice")
			delete(want, m.MessageID)
			if m.Meta.Key == "" {
				continue
			}
			n, err := strconv.Atoi(string(m.Payload))
			require.NoError(t, err)
			require.Greater(t, n, last[m.Meta.Key])
			last[m.Meta.Key] = n
		}
	}
	instances[0].requireNothing(t, id)
}
