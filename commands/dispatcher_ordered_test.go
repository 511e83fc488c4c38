package commands_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
)

func ordered(c *commands.CreateSubscription) { c.HandlerConfig = json.RawMessage(`{"ordered":true}`) }

func keyed(queue, key, payload string) commands.Publish {
	m := message(queue, payload)
	m.Key = key
	return m
}

// publishKeyed publishes a message of a key, which must be taken.
func (i *instance) publishKeyed(t testing.TB, key, payload string) commands.Published {
	t.Helper()
	out := i.publishBatch(t, async, false, keyed("orders", key, payload))
	require.NoError(t, out[0].Err)
	return out[0]
}

// state is a queue's delivery.
func (i *instance) state(t testing.TB, queue string) redis.TopicState {
	t.Helper()
	a, err := i.log.Topic(t.Context(), tenant, queue)
	require.NoError(t, err)
	s, err := i.log.TopicState(t.Context(), a.Shard, a.ID, a.Value.(commands.Topic).Config.PartitionCount)
	require.NoError(t, err)
	return s
}

func payloads(pulled []commands.Pulled) (out []string) {
	for _, m := range pulled {
		out = append(out, string(m.Payload))
	}
	return out
}

// expire has a lease run out now.
func (b *testBundle) expire(t testing.TB, topic commands.Topic, subscriptionID, group string, m commands.Pulled) {
	t.Helper()
	due := fmt.Sprintf("%s{%d}:due", b.prefix, events.ShardOf(tenant, topic.Config.Name, shards))
	member := fmt.Sprintf("l|%s|%s|%s|%d|%s", subscriptionID, topic.Config.TopicID, group, m.Stream, m.EntryID)
	require.NoError(t, b.client.ZIncrBy(t.Context(), due, -1e9, member).Err())
}

// turns watches that messages of a key come one after the other.
type turns struct {
	mu sync.Mutex
	t  *testing.T
	// current is which message of a key is out, waits for another attempt, or ends.
	current map[string]string
	left    map[string]bool
	acked   map[string][]string
}

func (w *turns) came(m commands.Pulled) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if is := w.current[m.Meta.Key]; m.Meta.Key != "" && is != "" && is != m.MessageID {
		w.t.Errorf("message %s of key %s comes while %s is out", m.MessageID, m.Meta.Key, is)
	}
	if !w.left[m.MessageID] {
		w.t.Errorf("message %s comes although it is settled", m.MessageID)
	}
	w.current[m.Meta.Key] = m.MessageID
}

func (w *turns) ends(m commands.Pulled, isAcked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.left, m.MessageID)
	delete(w.current, m.Meta.Key)
	if isAcked {
		w.acked[m.Meta.Key] = append(w.acked[m.Meta.Key], m.MessageID)
	}
}

func (w *turns) isDone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.left) == 0
}

// Three members on three instances: whatever becomes of messages, those of a key come
// one after the other, in the order in which they were published.
func TestAKeysMessagesComeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, fakeFilter).run(t)
	topic := i.queue(t, "orders", 2)
	const messages, keys = 300, 4
	w := &turns{t: t, current: map[string]string{}, left: map[string]bool{}, acked: map[string][]string{}}
	published := map[string][]string{}
	for n := range messages {
		key := []string{"a", "b", "c", "d", ""}[rand.IntN(keys+1)] //nolint:gosec // a test's dice
		m := keyed("orders", key, strconv.Itoa(n))
		if n%11 == 10 {
			m.TTLMs = new(int64(1))
		}
		out := i.publishBatch(t, async, false, m)
		require.NoError(t, out[0].Err)
		if n%11 != 10 && n%7 != 0 { // else it expires, or is filtered
			w.left[out[0].MessageID] = true
			published[key] = append(published[key], out[0].MessageID)
		}
	}
	var members sync.WaitGroup
	for n := range 3 {
		on := b.instance(t, fakeFilter).run(t)
		id := on.subscribe(t, "orders", "g", ordered, dropSevens, func(c *commands.CreateSubscription) {
			c.ConsumerName, c.MaxRetryAttempts, c.SessionTimeoutMs = fmt.Sprint("m", n), new(2), new(60_000)
		})
		members.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 1)) //nolint:gosec // a test's dice
			for !w.isDone() && !t.Failed() {
				pulled, err := on.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, MessagesMax: new(5), WaitMs: 20})
				if err != nil {
					t.Error(err)
					return
				}
				for _, m := range pulled {
					w.came(m)
				}
				for _, m := range pulled {
					on.fate(t, b, topic, id, w, m, rng.IntN(8))
				}
			}
		})
	}
	members.Wait()
	if t.Failed() {
		return
	}
	for key, ids := range published {
		if key == "" {
			continue
		}
		at := 0
		for _, id := range w.acked[key] { // dead letters are left out
			for at < len(ids) && ids[at] != id {
				at++
			}
			require.Less(t, at, len(ids), "key %s: %v is not in the order of %v", key, w.acked[key], ids)
		}
	}
	// what is left is nobody's to see
	id := i.subscribe(t, "orders", "g", ordered, dropSevens, func(c *commands.CreateSubscription) { c.ConsumerName = "last" })
	require.Eventually(t, func() bool {
		i.requireNothing(t, id)
		return i.state(t, "orders").Unsettled["g"] == 0
	}, soon, time.Millisecond)
	b.requireNoKeysLike(t, "busy:", "held:")
}

// fate does one of the things to a message that can be done to it.
func (i *instance) fate(t *testing.T, b *testBundle, topic commands.Topic, id string, w *turns, m commands.Pulled, dice int) {
	nack := func(delayMs int64) {
		isLast := m.Attempt > 2
		if isLast {
			w.ends(m, false)
		}
		out, err := i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{m.AckToken}, DelayMs: &delayMs})
		if err != nil || out[0].Err != nil || (out[0].Status == "dead_letter") != isLast {
			t.Errorf("nack: %v %v", err, out)
		}
	}
	switch dice {
	case 0:
		nack(0)
	case 1:
		nack(5)
	case 2:
		if m.Attempt > 2 {
			w.ends(m, false)
		}
		b.expire(t, topic, id, "g", m)
	case 3:
		w.ends(m, false)
		if out, err := i.DeadLetter(t.Context(), async, id, []string{m.AckToken}, "no"); err != nil || out[0].Err != nil {
			t.Errorf("dead letter: %v %v", err, out)
		}
	default:
		w.ends(m, true)
		if out, err := i.Ack(t.Context(), async, id, []string{m.AckToken}); err != nil || out[0].Err != nil {
			t.Errorf("ack: %v %v", err, out)
		}
	}
}

// requireNoKeysLike says that no key of the store has one of these in its name.
func (b *testBundle) requireNoKeysLike(t testing.TB, parts ...string) {
	t.Helper()
	for _, part := range parts {
		require.Empty(t, b.client.Keys(t.Context(), b.prefix+"*"+part+"*").Val())
	}
}

func TestWhatEndsAndMovesGroupsKeepsKeysInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	first := i.subscribe(t, "orders", "g", ordered, func(c *commands.CreateSubscription) { c.ConsumerName = "first" })
	second := i.subscribe(t, "orders", "g", ordered, func(c *commands.CreateSubscription) { c.ConsumerName = "second" })
	for n := range 4 {
		i.publishKeyed(t, "k", fmt.Sprint(n))
	}
	i.publishKeyed(t, "other", "10")
	i.publish(t, "orders", "20")
	i.publish(t, "orders", "21")
	// one of a key is out, what has none flows, and the rest is not settled
	held := i.pull(t, first, 50)
	require.Equal(t, []string{"0", "10", "20", "21"}, payloads(held))
	i.requireNothing(t, second)
	state := i.state(t, "orders")
	require.Equal(t, []int64{7, 3}, []int64{state.Unsettled["g"], state.Retries[0].Held})
	// resuming takes up what is out and no more
	again, err := b.instance(t).Resume(t.Context(), async, first)
	require.NoError(t, err)
	require.Equal(t, payloads(held), payloads(again))
	// when the member that has it is deleted, another gets it, and not the next one
	i.unsubscribe(t, first)
	var pulled []commands.Pulled
	for len(pulled) < 4 {
		pulled = append(pulled, i.pull(t, second, 50)...)
	}
	require.ElementsMatch(t, payloads(held), payloads(pulled))
	i.requireNothing(t, second)
	for _, m := range pulled {
		i.ack(t, second, m.AckToken)
	}
	one := i.pull(t, second, 50)
	require.Equal(t, []string{"1"}, payloads(one))
	// a seek begins again, with the first one
	_, err = i.Seek(t.Context(), async, commands.Seek{SubscriptionID: second, To: "0"})
	require.NoError(t, err)
	require.Equal(t, []string{"0", "10", "20", "21"}, payloads(i.pull(t, second, 50)))
	requireRefusal(t, i.ack(t, second, one[0].AckToken)[0].Err, commands.CodeLeaseLost)
	i.requireNothing(t, second)
	// a purge takes them all, and the key is free
	i.purge(t)
	i.requireNothing(t, second)
	b.requireNoKeysLike(t, "busy:", "held:", "heldn:")
	i.publishKeyed(t, "k", "30")
	i.publishKeyed(t, "k", "31")
	require.Equal(t, []string{"30"}, payloads(i.pull(t, second, 50)))
	// and so does the group's end
	i.unsubscribe(t, second)
	b.requireNoKeysLike(t, "busy:", "held:", "heldn:", "retry:")
	second = i.subscribe(t, "orders", "g", ordered)
	require.Equal(t, []string{"30"}, payloads(i.pull(t, second, 50)))
	topic, _, err := i.UpdateQueue(t.Context(), async, commands.UpdateQueue{Queue: "orders", DisplayName: new("d")})
	require.NoError(t, err)
	i.deleteQueue(t)
	b.requireNoKeys(t, topic.Config.TopicID)
}

// What was out before a group was ordered has no turn, and gives none.
func TestAGroupThatBecomesOrdered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publishKeyed(t, "k", "0")
	i.publishKeyed(t, "k", "1")
	before := i.pull(t, id, 2)
	require.Len(t, before, 2)
	_, _, err := i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, HandlerConfig: json.RawMessage(`{"ordered":true}`)})
	require.NoError(t, err)
	for n := 2; n < 5; n++ {
		i.publishKeyed(t, "k", fmt.Sprint(n))
	}
	now := i.pull(t, id, 10)
	require.Equal(t, []string{"2"}, payloads(now))
	i.ack(t, id, tokens(before)...)
	i.requireNothing(t, id)
	i.ack(t, id, now[0].AckToken)
	require.Equal(t, []string{"3"}, payloads(i.pull(t, id, 10)))
}
