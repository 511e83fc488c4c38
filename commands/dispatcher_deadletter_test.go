package commands_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
)

func deadTo(queue string) func(*commands.CreateSubscription) {
	return func(c *commands.CreateSubscription) { c.DeadLetterQueue, c.MaxRetryAttempts = queue, new(0) }
}

// logged is what was logged.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

func TestADeadLetterIsPublishedToItsQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, reversing).run(t)
	i.queue(t, "orders", 2)
	i.queue(t, "dead", 1)
	id, dead := i.subscribe(t, "orders", "g", deadTo("dead")), i.subscribe(t, "dead", "d")
	m := keyed("orders", "k", `"abc"`)
	m.Headers, m.CorrelationID, m.ContentType = map[string]string{"h": "v"}, "c", "text/plain"
	require.NoError(t, i.publishBatch(t, async, false, m)[0].Err)
	i.nack(t, id, i.pull(t, id, 1)[0].AckToken)
	letter := i.pull(t, dead, 5)
	require.Len(t, letter, 1)
	require.Equal(t, []string{`"abc"`, "k", "c", "text/plain"}, []string{string(letter[0].Payload), letter[0].Meta.Key, letter[0].Meta.CorrelationID, letter[0].Meta.ContentType})
	require.True(t, letter[0].Meta.Sealed)
	require.Equal(t, map[string]string{
		"h": "v", "dead-letter-queue": "orders", "dead-letter-group": "g", "dead-letter-message-id": m.ID, "dead-letter-reason": "nack",
		"dead-letter-error": "no", "dead-letter-attempts": "1", "dead-letter-hops": "1",
	}, letter[0].Meta.Headers)
	require.NotEqual(t, m.ID, letter[0].MessageID)
	require.Eventually(t, func() bool { return b.due(t) == 1 }, soon, time.Millisecond) // its lease
	b.requireNoKeysLike(t, "outbox")
	// a retry's entry has what it needs too, and so has a lease that ran out
	_, _, err := i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, MaxRetryAttempts: new(1)})
	require.NoError(t, err)
	topic := i.publish(t, "orders", `"de"`)
	i.nack(t, id, i.pull(t, id, 1)[0].AckToken)
	second := i.pull(t, id, 1)[0]
	b.expire(t, commands.Topic{Config: events.TopicConfig{TopicID: i.topicID(t), Name: "orders"}}, id, "g", second)
	letter = i.pull(t, dead, 5)
	require.Equal(t, []string{`"de"`, topic.MessageID, "lease_expired", "2"}, []string{
		string(letter[0].Payload), letter[0].Meta.Headers[commands.HeaderDeadMessageID], letter[0].Meta.Headers[commands.HeaderDeadReason],
		letter[0].Meta.Headers[commands.HeaderDeadAttempts],
	})
}

// Instances die between the steps, and do them all over again: a dead letter is published
// once.
func TestADeadLetterIsPublishedOnceWhoeverDies(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	i.queue(t, "dead", 1)
	one, two := i.subscribe(t, "orders", "g", deadTo("dead")), i.subscribe(t, "orders", "h", deadTo("dead"))
	for n := range 5 {
		i.publish(t, "orders", fmt.Sprint(n))
	}
	i.nack(t, one, tokens(i.pull(t, one, 10))...)
	i.nack(t, two, tokens(i.pull(t, two, 10))...)
	// given instances that die before and after they have published
	var handed []events.DueForward
	for step := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		on := b.instance(t)
		n := 0
		b.makeDue(t)
		on.log.RunDue(ctx, redis.DueWork{Expired: on.ExpireLeases, Tick: on.Tick, Forward: func(ctx context.Context, shard int, letter events.DueForward) error {
			if n++; n > step+1 {
				cancel()
				return errors.New("dead")
			}
			handed = append(handed, letter)
			if step%2 == 0 {
				require.NoError(t, on.ForwardDeadLetter(context.WithoutCancel(ctx), shard, letter))
			}
			cancel()
			return errors.New("dead")
		}})
		cancel()
	}
	require.NotEmpty(t, handed)
	b.makeDue(t)
	for range 3 {
		b.instance(t).run(t)
	}
	require.Eventually(t, func() bool { return b.due(t) == 0 }, 20*time.Second, time.Millisecond)
	for _, letter := range handed { // and whoever is late does no harm
		require.NoError(t, i.ForwardDeadLetter(t.Context(), 0, letter))
	}
	dead := i.subscribe(t, "dead", "d")
	seen := map[string]int{}
	for _, m := range i.drain(t, dead) {
		seen[m.Meta.Headers[commands.HeaderDeadGroup]+" "+m.Meta.Headers[commands.HeaderDeadMessageID]]++
	}
	require.Len(t, seen, 10)
	for letter, n := range seen {
		require.Equal(t, 1, n, letter)
	}
}

func TestADeadLetterWaitsForRoomAndNotForAQueueThatIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.bounded(t, 3)
	var log logged
	i.Dispatcher = dispatcher(i.log, func(c *commands.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	i.run(t)
	for _, name := range []string{"orders", "dead"} {
		i.queue(t, name, 1)
	}
	id, dead := i.subscribe(t, "orders", "g", deadTo("dead")), i.subscribe(t, "dead", "d")
	for n := range 3 {
		require.NoError(t, i.publishBatch(t, async, false, message("dead", fmt.Sprint(n)))[0].Err)
	}
	i.publish(t, "orders", "10")
	i.publish(t, "orders", "11")
	i.nack(t, id, tokens(i.pull(t, id, 2))...)
	require.Equal(t, int64(3), i.state(t, "dead").Unsettled["d"])
	require.Equal(t, []string{"0", "1", "2"}, payloads(i.drain(t, dead)))
	var letters []string
	require.Eventually(t, func() bool {
		b.makeDue(t)
		letters = append(letters, payloads(i.drain(t, dead))...)
		return len(letters) == 2
	}, 20*time.Second, 5*time.Millisecond)
	require.ElementsMatch(t, []string{"10", "11"}, letters)
	// without a queue it is left, with a word
	_, err := i.DeleteQueue(t.Context(), async, "dead", nil)
	require.NoError(t, err)
	lost := i.publish(t, "orders", "12")
	i.nack(t, id, i.pull(t, id, 1)[0].AckToken)
	require.Eventually(t, func() bool { return b.due(t) == 0 }, soon, time.Millisecond)
	b.requireNoKeysLike(t, "outbox")
	require.True(t, log.has("dead letter is not published to its queue") && log.has(lost.MessageID))
	// and a subscription that wants no queue any more has none
	_, _, err = i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, DeadLetterQueue: new("")})
	require.NoError(t, err)
	require.NoError(t, i.ForwardDeadLetter(t.Context(), 0, events.DueForward{Event: events.MessageDeadLettered{Delivery: events.Delivery{SubscriptionID: id}}}))
	require.True(t, log.has("no deadLetterQueue any more"))
	require.NoError(t, i.ForwardDeadLetter(t.Context(), 0, events.DueForward{Event: events.MessageDeadLettered{Delivery: events.Delivery{SubscriptionID: newID()}}}))
	require.True(t, log.has("the subscription is gone"))
}

func TestDeadLettersDoNotComeBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var log logged
	i := b.instance(t, func(c *commands.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, name := range []string{"a", "b", "c", "d"} {
		i.queue(t, name, 1)
	}
	refused := func(queue, to, why string) {
		t.Helper()
		cmd := commands.CreateSubscription{ID: newID(), Queue: queue, ConsumerGroup: "loop", DeadLetterQueue: to}
		_, _, err := i.CreateSubscription(t.Context(), async, cmd)
		p := refusalOf(t, err, commands.CodeValidationFailed).Problems[0]
		require.Equal(t, "deadLetterQueue", p.Field)
		require.Contains(t, p.Text, why)
		cmd.DeadLetterQueue = ""
		s, _, err := i.CreateSubscription(t.Context(), async, cmd)
		require.NoError(t, err)
		_, _, err = i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: s.Config.SubscriptionID, DeadLetterQueue: &to})
		require.Contains(t, refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Text, why)
		i.unsubscribe(t, s.Config.SubscriptionID)
	}
	refused("a", "a", "leads back")
	refused("a", "none", "is no queue")
	refused("a", otherTenant+":x", "")
	i.subscribe(t, "a", "g", deadTo("b"))
	refused("b", "a", "leads back")
	i.subscribe(t, "b", "g", deadTo("c"))
	refused("c", "a", "leads back")
	refused("c", "b", "leads back")
	i.subscribe(t, "c", "g", deadTo("d"))
	i.subscribe(t, "a", "h", deadTo("d")) // two ways to one place are none back
	// a chain has an end
	last := "e0"
	i.queue(t, last, 1)
	for n := 1; n <= 20; n++ {
		next := fmt.Sprint("e", n)
		i.queue(t, next, 1)
		_, _, err := i.CreateSubscription(t.Context(), async, commands.CreateSubscription{ID: newID(), Queue: next, ConsumerGroup: "g", DeadLetterQueue: last})
		if n > 17 {
			require.Contains(t, refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Text, "leads through more", n)
			break
		}
		require.NoError(t, err, n)
		last = next
	}
	// and a letter that has gone far enough goes no further
	id := i.subscribe(t, "d", "g", deadTo("e0"))
	letter := events.DueForward{
		Event:   events.MessageDeadLettered{Delivery: events.Delivery{SubscriptionID: id, MessageID: newID()}},
		Message: events.Leased{Payload: json.RawMessage(`1`), Meta: events.DeliveryMeta{Headers: map[string]string{commands.HeaderDeadHops: "15"}}},
	}
	require.NoError(t, i.ForwardDeadLetter(t.Context(), 0, letter))
	require.Equal(t, int64(1), i.state(t, "e0").Partitions[0].NextOffset)
	letter.Message.Meta.Headers[commands.HeaderDeadHops] = "16"
	require.NoError(t, i.ForwardDeadLetter(t.Context(), 0, letter))
	require.True(t, log.has("too many dead-letter queues"))
	require.Equal(t, int64(1), i.state(t, "e0").Partitions[0].NextOffset)
}
