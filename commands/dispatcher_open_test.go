package commands_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// A key that cannot be had now costs no message its last attempt: nobody has seen it.
func TestWhatCannotBeOpenedNowComesAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var isAway, isGone atomic.Bool
	reversed := func(_ context.Context, _, _, _ string, payload []byte) ([]byte, error) {
		out := bytes.Clone(payload)
		slices.Reverse(out)
		return out, nil
	}
	i := b.instance(t, func(c *commands.Config) {
		c.Seal = reversed
		c.Open = func(ctx context.Context, tenantID, topicID, messageID string, payload []byte) ([]byte, error) {
			if isAway.Load() {
				return nil, errors.New("away")
			}
			if isGone.Load() {
				return nil, commands.ErrUnreadable
			}
			return reversed(ctx, tenantID, topicID, messageID, payload)
		}
	}).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) { c.MaxRetryAttempts = new(0) })
	i.publish(t, "orders", "12")
	i.publish(t, "orders", "34")
	// given a store of keys that is away
	isAway.Store(true)
	_, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id})
	require.ErrorIs(t, err, commands.ErrUnavailable)
	failed := i.last(t, b, 6)
	require.Equal(t, events.ReasonReleased, failed.(events.MessageFailed).Reason)
	// when it is back, both come
	isAway.Store(false)
	b.makeDue(t)
	var got []string
	for len(got) < 2 {
		for _, m := range i.pull(t, id, 2) {
			got = append(got, string(m.Payload))
			require.Equal(t, 2, m.Attempt)
		}
	}
	require.ElementsMatch(t, []string{"12", "34"}, got)
	// what can never be opened ends as the policy says, and holds nothing up
	i.publish(t, "orders", "56")
	isGone.Store(true)
	i.requireNothing(t, id)
	dead := i.last(t, b, 8)
	require.Equal(t, events.ReasonUnreadable, dead.(events.MessageDeadLettered).Reason)
}

// Other tenants' groups do not fill a queue that is theirs no more.
func TestAQueueMadePrivateHasRoomAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.bounded(t, 3)
	_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: "orders", IsPublic: true})
	require.NoError(t, err)
	mine := i.subscribe(t, "orders", "g")
	_, _, err = i.CreateSubscription(t.Context(), as(otherTenant, "reader"), commands.CreateSubscription{ID: newID(), Queue: tenant + ":orders", ConsumerGroup: "g"})
	require.NoError(t, err)
	for range 3 {
		i.publish(t, "orders", "1")
	}
	for _, m := range i.pull(t, mine, 3) {
		_, err := i.Ack(t.Context(), async, mine, []string{m.AckToken})
		require.NoError(t, err)
	}
	requireRefusal(t, i.publishBatch(t, async, false, message("orders", "1"))[0].Err, commands.CodeQueueFull)
	i.update(t, commands.UpdateQueue{IsPublic: new(false)})
	i.publish(t, "orders", "1")
}
