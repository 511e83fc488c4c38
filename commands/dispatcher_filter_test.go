package commands_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// multiples is a filter for tests: it drops payloads that are multiples of a number.
type multiples int

func (f multiples) Match(_ string, _ map[string]string, payload []byte) (bool, string) {
	n, err := strconv.Atoi(string(payload))
	return err != nil || n%int(f) != 0, fmt.Sprintf("is a multiple of %d", int(f))
}

// fakeFilter compiles {"drop": n}.
func fakeFilter(c *commands.Config) {
	c.Filter = func(raw []byte) (commands.Filter, error) {
		var f struct {
			Drop int `json:"drop"`
		}
		if err := json.Unmarshal(raw, &f); err != nil || f.Drop == 0 {
			return nil, errors.New("has no drop")
		}
		return multiples(f.Drop), nil
	}
}

func dropSevens(c *commands.CreateSubscription) { c.MessageFilter = json.RawMessage(`{"drop":7}`) }

func TestWhatDoesNotPassIsSettledUnseen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, fakeFilter).run(t)
	i.queue(t, "orders", 1)
	id, plain := i.subscribe(t, "orders", "g", dropSevens), i.subscribe(t, "orders", "plain")
	for n := range 20 {
		i.publish(t, "orders", fmt.Sprint(7*n))
	}
	// a pull that does not wait goes past what is filtered, with answers of any size
	i.publish(t, "orders", "1")
	pulled, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, MessagesMax: new(2)})
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, payloads(pulled))
	i.ack(t, id, pulled[0].AckToken)
	require.Zero(t, i.state(t, "orders").Unsettled["g"])
	e, ok := i.history(t, b, "orders", 3+21+1)[24].Event.(events.MessageFiltered)
	require.True(t, ok)
	require.Equal(t, []any{"is a multiple of 7", int64(1), id, "g", int64(0), 1}, []any{e.Why, e.Version, e.SubscriptionID, e.ConsumerGroup, e.Offset, e.Attempt})
	require.Len(t, i.pull(t, plain, 50), 21)
	// with nothing but such, a pull that does not wait ends, and one that waits goes on waiting
	i.publish(t, "orders", "14")
	i.requireNothing(t, id)
	waiting := i.poll(t, async, plain)
	require.Equal(t, "14", string(await(t, waiting).messages[0].Payload))
	done := make(chan []commands.Pulled, 1)
	go func() {
		got, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, WaitMs: 10_000})
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	filtered := func() bool { return i.state(t, "orders").Unsettled["g"] == 0 }
	for n := range 3 {
		i.publish(t, "orders", fmt.Sprint(21+7*n))
		require.Eventually(t, filtered, soon, time.Millisecond)
	}
	require.Empty(t, done)
	i.publish(t, "orders", "2")
	require.Equal(t, []string{"2"}, payloads(<-done))
	// nor is a wait that sees only such longer than it was to be
	i.publish(t, "orders", "7")
	began := time.Now()
	got, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, WaitMs: 50})
	require.NoError(t, err)
	require.Empty(t, got)
	require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
	require.Less(t, time.Since(began), soon)
}

// counted counts how often a filter is asked, to see that nobody spins.
type counted struct{ n *atomic.Int64 }

func (c counted) Match(string, map[string]string, []byte) (bool, string) {
	c.n.Add(1)
	return false, "no"
}

func TestFiltersAreAskedOncePerMessage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var asked, compiled atomic.Int64
	i := b.instance(t, func(c *commands.Config) {
		c.Filter = func([]byte) (commands.Filter, error) { compiled.Add(1); return counted{&asked}, nil }
	}).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", dropSevens)
	for range 30 {
		i.publish(t, "orders", "1")
	}
	got, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, MessagesMax: new(4), WaitMs: 100})
	require.NoError(t, err)
	require.Empty(t, got)
	require.Equal(t, int64(30), asked.Load())
	require.Equal(t, int64(2), compiled.Load(), "when it is set and when it is first used")
}

func TestAFilterThatDoesNotCompileDeliversNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, fakeFilter).run(t)
	i.queue(t, "orders", 1)
	_, _, err := i.CreateSubscription(t.Context(), async, commands.CreateSubscription{ID: newID(), Queue: "orders", ConsumerGroup: "bad", MessageFilter: json.RawMessage(`{}`)})
	require.Equal(t, "messageFilter", refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field)
	id := i.subscribe(t, "orders", "g", dropSevens)
	_, _, err = i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, MessageFilter: json.RawMessage(`{"drop":0}`)})
	requireRefusal(t, err, commands.CodeValidationFailed)
	i.publish(t, "orders", "1")
	// given an instance that does not understand it any more
	other := b.instance(t, func(c *commands.Config) {
		c.Filter = func([]byte) (commands.Filter, error) { return nil, errors.New("unknown language") }
	})
	_, err = other.Pull(t.Context(), async, commands.Pull{SubscriptionID: id})
	require.Contains(t, refusalOf(t, err, commands.CodeConsumerError).Reason, "unknown language")
	// then nothing was delivered and nothing happened: another one gets it as its first attempt
	m := i.pull(t, id, 1)[0]
	require.Equal(t, 1, m.Attempt)
	// and where the filter is another one it is that from then on
	i.publish(t, "orders", "5")
	_, _, err = i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, MessageFilter: json.RawMessage(`{"drop":5}`)})
	require.NoError(t, err)
	i.requireNothing(t, id)
}

func TestAFilterCanBeTried(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, fakeFilter)
	i.queue(t, "orders", 1)
	id, plain := i.subscribe(t, "orders", "g", dropSevens), i.subscribe(t, "orders", "plain")
	try := func(c commands.TestFilter) (bool, string) {
		passes, why, err := i.TestFilter(t.Context(), async, c)
		require.NoError(t, err)
		return passes, why
	}
	passes, why := try(commands.TestFilter{SubscriptionID: id, Payload: json.RawMessage(`14`)})
	require.Equal(t, []any{false, "is a multiple of 7"}, []any{passes, why})
	passes, _ = try(commands.TestFilter{SubscriptionID: id, Payload: json.RawMessage(`14`), MessageFilter: json.RawMessage(`{"drop":5}`)})
	require.True(t, passes)
	passes, why = try(commands.TestFilter{SubscriptionID: id, Payload: json.RawMessage(`14`)}) // its own stays
	require.Equal(t, []any{false, "is a multiple of 7"}, []any{passes, why})
	passes, why = try(commands.TestFilter{SubscriptionID: plain, Payload: json.RawMessage(`14`)})
	require.Equal(t, []any{true, "the subscription has no filter"}, []any{passes, why})
	for field, c := range map[string]commands.TestFilter{
		"payload":       {},
		"key":           {Payload: json.RawMessage(`1`), Key: strings.Repeat("k", commands.MessageKeyMax+1)},
		"messageFilter": {Payload: json.RawMessage(`1`), MessageFilter: json.RawMessage(`{}`)},
	} {
		c.SubscriptionID = id
		_, _, err := i.TestFilter(t.Context(), async, c)
		require.Equal(t, field, refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field)
	}
	_, _, err := i.TestFilter(t.Context(), commands.Caller{TenantID: otherTenant}, commands.TestFilter{SubscriptionID: id, Payload: json.RawMessage(`1`)})
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
}

// A successor takes up what is there, past what does not pass any more.
func TestResumingGoesPastWhatIsFiltered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, fakeFilter).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) { c.MaxPollRecords = new(3) })
	for _, payload := range []string{"7", "14", "21", "28", "1", "2"} {
		i.publish(t, "orders", payload)
	}
	for range 2 {
		require.Len(t, i.pull(t, id, 3), 3)
	}
	_, _, err := i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, MessageFilter: json.RawMessage(`{"drop":7}`)})
	require.NoError(t, err)
	pulled, err := i.Resume(t.Context(), async, id)
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2"}, payloads(pulled))
	i.ack(t, id, tokens(pulled)...)
	pulled, err = i.Resume(t.Context(), async, id)
	require.NoError(t, err)
	require.Empty(t, pulled)
}
