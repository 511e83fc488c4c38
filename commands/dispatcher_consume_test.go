package commands_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// The session timeout of tests in which leases run out.
const shortMs = commands.SessionTimeoutMsMin

func short(c *commands.CreateSubscription) { c.SessionTimeoutMs = new(shortMs) }

func (i *instance) ack(t testing.TB, id string, tokens ...string) []commands.Settled {
	t.Helper()
	out, err := i.Ack(t.Context(), async, id, tokens)
	require.NoError(t, err)
	require.Len(t, out, len(tokens))
	return out
}

func (i *instance) nack(t testing.TB, id string, tokens ...string) []commands.Settled {
	t.Helper()
	out, err := i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: tokens, DelayMs: new(int64(0)), Error: "no"})
	require.NoError(t, err)
	require.Len(t, out, len(tokens))
	return out
}

func TestAckEndsADelivery(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	published := i.publish(t, "orders", `{"a" : 1}`)
	before := time.Now().UnixMilli()
	m := i.pull(t, id, 10)[0]
	require.Equal(t, published.MessageID, m.MessageID)
	require.Equal(t, `{"a" : 1}`, string(m.Payload))
	require.Equal(t, 1, m.Attempt)
	require.Equal(t, published.Position, m.Position)
	require.Equal(t, m.LeasedAtMs+30_000, m.LeaseExpiresAtMs)
	require.InDelta(t, before, m.LeasedAtMs, 5000)
	// leased to one, it is nobody else's
	i.requireNothing(t, id)
	// when it is acked on another instance, it is over, once
	require.Equal(t, commands.Settled{AckToken: m.AckToken, Status: "acked"}, b.instance(t).ack(t, id, m.AckToken)[0])
	again := i.ack(t, id, m.AckToken)[0]
	requireRefusal(t, again.Err, commands.CodeLeaseLost)
	require.Empty(t, again.Status)
	requireRefusal(t, i.nack(t, id, m.AckToken)[0].Err, commands.CodeLeaseLost)
	i.requireNothing(t, id)
	// and the log says so
	e := i.history(t, b, "orders", 4)[3].Event.(events.MessageConsumed)
	require.Equal(t, m.MessageID, e.MessageID)
	require.Equal(t, id, e.SubscriptionID)
	require.Equal(t, m.LeasedAtMs, e.LeasedAtMs)
}

func TestATokenTwiceInOneRequestSettlesOnce(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publish(t, "orders", "1")
	token := i.pull(t, id, 1)[0].AckToken
	out := i.ack(t, id, token, token)
	require.NoError(t, out[0].Err)
	requireRefusal(t, out[1].Err, commands.CodeLeaseLost)
}

func TestForgedTokensAreRefusedOneByOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id, other := i.subscribe(t, "orders", "g"), i.subscribe(t, "orders", "h")
	i.publish(t, "orders", "1")
	good := i.pull(t, id, 1)[0].AckToken
	theirs := i.pull(t, other, 1)[0].AckToken
	foreign := b.instance(t, func(c *commands.Config) { c.TokenKey = []byte("another key") })
	_, err := foreign.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{good}})
	require.NoError(t, err)
	forged := []string{"", "x", good[:len(good)-1], good + "A", strings.Repeat("A", 100_000), theirs, strings.ToUpper(good)}
	settle := map[string]func(tokens []string) ([]commands.Settled, error){
		"ack": func(tokens []string) ([]commands.Settled, error) { return i.Ack(t.Context(), async, id, tokens) },
		"nack": func(tokens []string) ([]commands.Settled, error) {
			return i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: tokens})
		},
		"extend": func(tokens []string) ([]commands.Settled, error) {
			return i.Extend(t.Context(), async, id, tokens, 60_000)
		},
	}
	for _, what := range []string{"extend", "nack", "ack"} {
		// forged ones alone, and around a good one
		for _, tokens := range [][]string{forged, append(append([]string{}, forged...), good)} {
			out, err := settle[what](tokens)
			require.NoError(t, err)
			for n := range forged {
				r := refusalOf(t, out[n].Err, commands.CodeValidationFailed)
				require.Equal(t, fmt.Sprintf("ackTokens[%d]", n), r.Problems[0].Field)
				require.Empty(t, out[n].Status)
				require.Equal(t, forged[n], out[n].AckToken)
			}
			if len(tokens) > len(forged) && what != "ack" {
				require.NoError(t, out[len(forged)].Err, what)
			}
		}
	}
	// the other subscription's delivery is untouched
	require.NoError(t, i.ack(t, other, theirs)[0].Err)
}

func TestSettleLimits(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	refused := func(err error, field string) {
		t.Helper()
		require.Equal(t, field, refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field)
	}
	for _, n := range []int{0, 1001} {
		tokens := make([]string, n)
		_, err := i.Ack(t.Context(), async, id, tokens)
		refused(err, "ackTokens")
		_, err = i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: tokens})
		refused(err, "ackTokens")
		_, err = i.Extend(t.Context(), async, id, tokens, 1000)
		refused(err, "ackTokens")
	}
	require.Len(t, i.ack(t, id, make([]string, 1000)...), 1000)
	for delay, field := range map[int64]string{-1: "delayMs", 0: "", 86_400_000: "", 86_400_001: "delayMs"} {
		_, err := i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{"x"}, DelayMs: &delay})
		if field != "" {
			refused(err, field)
		} else {
			require.NoError(t, err)
		}
	}
	_, err := i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{"x"}, Error: strings.Repeat("é", 2001)})
	refused(err, "error")
	for lease, field := range map[int64]string{999: "leaseMs", 1000: "", 43_200_000: "", 43_200_001: "leaseMs"} {
		_, err := i.Extend(t.Context(), async, id, []string{"x"}, lease)
		if field != "" {
			refused(err, field)
		} else {
			require.NoError(t, err)
		}
	}
}

func TestNackBringsTheMessageBackUntilItIsADeadLetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 2)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) { c.MaxRetryAttempts = new(2) })
	published := i.publish(t, "orders", "1")
	for attempt := 1; attempt <= 3; attempt++ {
		m := i.pull(t, id, 1)[0]
		require.Equal(t, attempt, m.Attempt)
		require.Equal(t, published.MessageID, m.MessageID)
		require.Equal(t, published.Offset, m.Offset)
		require.Equal(t, published.Partition, m.Partition)
		out := i.nack(t, id, m.AckToken)[0]
		require.NoError(t, out.Err)
		require.Equal(t, map[bool]string{true: "dead_letter", false: "retrying"}[attempt == 3], out.Status)
		requireRefusal(t, i.ack(t, id, m.AckToken)[0].Err, commands.CodeLeaseLost)
	}
	i.requireNothing(t, id)
	records := i.history(t, b, "orders", 6)
	require.Equal(t, events.KindMessageFailed, records[4].Event.Kind())
	dead := records[5].Event.(events.MessageDeadLettered)
	require.Equal(t, 3, dead.Attempt)
	require.Equal(t, events.ReasonNack, dead.Reason)
	require.Equal(t, "no", dead.Error)
}

func TestNackWithADelayComesBackLater(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publish(t, "orders", "1")
	m := i.pull(t, id, 1)[0]
	nacked := time.Now()
	out, err := i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{m.AckToken}, DelayMs: new(int64(300))})
	require.NoError(t, err)
	require.Equal(t, "retrying", out[0].Status)
	again := i.pull(t, id, 1)[0]
	require.Equal(t, 2, again.Attempt)
	require.GreaterOrEqual(t, time.Since(nacked), 299*time.Millisecond)
}

func TestALeaseThatRunsOutIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", short)
	i.publish(t, "orders", "1")
	i.publish(t, "orders", "2")
	// given two messages, of which one's lease is extended
	pulled := i.pull(t, id, 2)
	lost, kept := pulled[0], pulled[1]
	extended, err := i.Extend(t.Context(), async, id, []string{kept.AckToken}, 60_000)
	require.NoError(t, err)
	require.Equal(t, "extended", extended[0].Status)
	require.InDelta(t, time.Now().UnixMilli()+60_000, extended[0].LeaseExpiresAtMs, 5000)
	// when the consumer says nothing more, the other one comes again
	again := i.pull(t, id, 10)
	require.Len(t, again, 1)
	require.Equal(t, lost.MessageID, again[0].MessageID)
	require.Equal(t, 2, again[0].Attempt)
	require.GreaterOrEqual(t, again[0].LeasedAtMs, lost.LeaseExpiresAtMs)
	// and whoever held it before cannot settle it any more
	for _, settled := range [][]commands.Settled{i.ack(t, id, lost.AckToken), i.nack(t, id, lost.AckToken)} {
		requireRefusal(t, settled[0].Err, commands.CodeLeaseLost)
	}
	extended, err = i.Extend(t.Context(), async, id, []string{lost.AckToken, kept.AckToken}, 60_000)
	require.NoError(t, err)
	requireRefusal(t, extended[0].Err, commands.CodeLeaseLost)
	require.NoError(t, extended[1].Err)
	for _, token := range []string{kept.AckToken, again[0].AckToken} {
		require.NoError(t, i.ack(t, id, token)[0].Err)
	}
	failed := i.history(t, b, "orders", 5)[4]
	require.Equal(t, "system", failed.Meta.Actor)
	e := failed.Event.(events.MessageFailed)
	require.Equal(t, events.ReasonLeaseExpired, e.Reason)
	require.Equal(t, lost.MessageID, e.MessageID)
	require.Equal(t, "g", e.Consumer)
	require.InDelta(t, lost.LeasedAtMs, e.LeasedAtMs, 50)
}

// Nobody has seen a message that is handed back, so it is no dead letter, whatever
// attempts are left.
func TestReleasedMessagesAreDeliveredAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) { c.MaxRetryAttempts = new(0) })
	i.publish(t, "orders", "1")
	for attempt := 1; attempt <= 3; attempt++ {
		pulled := i.pull(t, id, 1)
		require.Equal(t, attempt, pulled[0].Attempt)
		require.NoError(t, i.Release(t.Context(), async, id, pulled))
	}
	require.Equal(t, events.ReasonReleased, i.history(t, b, "orders", 4)[3].Event.(events.MessageFailed).Reason)
	m := i.pull(t, id, 1)[0]
	require.Equal(t, "dead_letter", i.nack(t, id, m.AckToken)[0].Status)
}

func TestOtherTenantsSubscriptionsAreNotThere(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publish(t, "orders", "1")
	token := i.pull(t, id, 1)[0].AckToken
	theirs := commands.Caller{TenantID: otherTenant, Async: true}
	for name, try := range map[string]func(id string) error{
		"pull": func(id string) error {
			_, err := i.Pull(t.Context(), theirs, commands.Pull{SubscriptionID: id})
			return err
		},
		"ack": func(id string) error {
			_, err := i.Ack(t.Context(), theirs, id, []string{token})
			return err
		},
		"nack": func(id string) error {
			_, err := i.Nack(t.Context(), theirs, commands.Nack{SubscriptionID: id, AckTokens: []string{token}})
			return err
		},
		"extend": func(id string) error {
			_, err := i.Extend(t.Context(), theirs, id, []string{token}, 60_000)
			return err
		},
	} {
		missing := newID()
		want := refusalOf(t, try(missing), commands.CodeSubscriptionNotFound)
		got := refusalOf(t, try(id), commands.CodeSubscriptionNotFound)
		require.Equal(t, strings.ReplaceAll(want.Reason, missing, id), got.Reason, name)
	}
	require.NoError(t, i.ack(t, id, token)[0].Err)
}

func TestGroupsShareAndSubscriptionsOfOtherGroupsDoNot(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 2)
	named := func(name string) func(*commands.CreateSubscription) {
		return func(c *commands.CreateSubscription) { c.ConsumerName = name }
	}
	first, second := i.subscribe(t, "orders", "g", named("a")), i.subscribe(t, "orders", "g", named("b"))
	other := i.subscribe(t, "orders", "h")
	for range 6 {
		i.publish(t, "orders", "1")
	}
	seen := map[string]int{}
	for _, pulled := range [][]commands.Pulled{i.pull(t, first, 2), i.pull(t, second, 2), i.pull(t, first, 10)} {
		for _, m := range pulled {
			seen[m.MessageID]++
		}
	}
	require.Len(t, seen, 6)
	i.requireNothing(t, second)
	require.Len(t, i.pull(t, other, 10), 6)
}

// A pull whose consumer left, or whose service stops, ends at once and without an
// error: what it waited for was not refused.
func TestAPullEndsWithItsContext(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	ctx, cancel := context.WithCancel(t.Context())
	type answer struct {
		pulled []commands.Pulled
		err    error
	}
	done := make(chan answer)
	go func() {
		pulled, err := i.Pull(ctx, async, commands.Pull{SubscriptionID: id, WaitMs: commands.PullWaitMsMax})
		done <- answer{pulled, err}
	}()
	cancel()
	require.Equal(t, answer{pulled: []commands.Pulled{}}, <-done)
	// even where nothing of the subscription is cached, and with what is there
	i.publish(t, "orders", "1")
	i.log.Forget(id)
	pulled, err := i.Pull(ctx, async, commands.Pull{SubscriptionID: id, WaitMs: commands.PullWaitMsMax})
	require.NoError(t, err)
	require.Len(t, pulled, 1)
}
