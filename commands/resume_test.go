package commands_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

func TestASuccessorResumesWhatItsPredecessorHad(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	var want []string
	for _, payload := range []string{"1", "2", "3"} {
		want = append(want, i.publish(t, "orders", payload).MessageID)
	}
	had := i.pull(t, id, 10)
	i.ack(t, id, had[0].AckToken)
	// when another instance goes on, it has the rest at once, in order
	successor := b.instance(t)
	resumed, err := successor.Resume(t.Context(), async, id)
	require.NoError(t, err)
	require.Len(t, resumed, 2)
	for n, m := range resumed {
		require.Equal(t, want[n+1], m.MessageID)
		require.Equal(t, had[n+1].Lease, m.Lease)
		require.Equal(t, 1, m.Attempt, "it is the same attempt")
		require.Equal(t, m.LeasedAtMs+30_000, m.LeaseExpiresAtMs)
	}
	successor.requireNothing(t, id)
	// whose token comes first settles it, for both
	require.Equal(t, "acked", i.ack(t, id, had[1].AckToken)[0].Status)
	requireRefusal(t, successor.ack(t, id, resumed[0].AckToken)[0].Err, commands.CodeLeaseLost)
	require.Equal(t, "acked", successor.ack(t, id, resumed[1].AckToken)[0].Status)
	resumed, err = successor.Resume(t.Context(), async, id)
	require.NoError(t, err)
	require.Empty(t, resumed)
}

func TestWhoMayNotPullMayNotResume(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	_, err := i.Resume(t.Context(), commands.Caller{TenantID: otherTenant}, id)
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	_, err = i.Resume(t.Context(), async, newID())
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	resting := i.subscribe(t, "orders", "resting", func(c *commands.CreateSubscription) { c.Status = commands.StatusPaused })
	_, err = i.Resume(t.Context(), async, resting)
	requireRefusal(t, err, commands.CodeConsumerError)
}

// Another instance changed the subscription: what was known of it is read anew.
func TestResumeDecidesAgainOnANewVersion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t), b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publish(t, "orders", "1")
	i.pull(t, id, 1)
	_, err := other.Resume(t.Context(), async, id)
	require.NoError(t, err)
	_, _, err = i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, SessionTimeoutMs: new(60_000)})
	require.NoError(t, err)
	resumed, err := other.Resume(t.Context(), async, id)
	require.NoError(t, err)
	require.Len(t, resumed, 1)
	require.Equal(t, resumed[0].LeasedAtMs+60_000, resumed[0].LeaseExpiresAtMs)
}

func TestDeadLetterSparesNoAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) { c.MaxRetryAttempts = new(commands.RetryAttemptsMax) })
	i.publish(t, "orders", "1")
	m := i.pull(t, id, 1)[0]
	_, err := i.DeadLetter(t.Context(), async, id, []string{m.AckToken}, strings.Repeat("x", commands.NackErrorMax+1))
	requireRefusal(t, err, commands.CodeValidationFailed)
	out, err := i.DeadLetter(t.Context(), async, id, []string{m.AckToken, "x"}, "refused: 400")
	require.NoError(t, err)
	require.Equal(t, "dead_letter", out[0].Status)
	requireRefusal(t, out[1].Err, commands.CodeValidationFailed)
	i.requireNothing(t, id)
	last := i.history(t, b, "orders", 4)[3]
	dead, ok := last.Event.(events.MessageDeadLettered)
	require.True(t, ok)
	require.Equal(t, m.MessageID, dead.MessageID)
	require.Equal(t, events.ReasonNack, dead.Reason)
	require.Equal(t, "refused: 400", dead.Error)
}
