package queries

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/postgres"
)

// asking is a world in which one is asked what became of messages.
type asking struct {
	*world

	topicID string
}

func newAsking(t *testing.T) *asking {
	t.Helper()
	w := newWorld(t)
	return &asking{w, w.queue("orders", 1, true)}
}

// explain folds all and explains a message, as the tenant sees it.
func (a *asking) explain(tenantID, subscriptionID, messageID string, live func(context.Context, Question) *LiveMessage) (Explanation, error) {
	a.t.Helper()
	a.foldAll(a.topicID)
	db := postgres.ForTenant(a.pool, tenantID)
	s, err := SubscriptionByID(a.t.Context(), db, tenantID, subscriptionID)
	require.NoError(a.t, err)
	topic, err := TopicByID(a.t.Context(), db, s.TopicID)
	require.NoError(a.t, err)
	return Explain(a.t.Context(), db, s, topic, messageID, time.Now(), live)
}

// requireVerdict explains a message without the log, and returns what was said.
func (a *asking) requireVerdict(verdict, reason, subscriptionID, messageID string) Explanation {
	a.t.Helper()
	x, err := a.explain(tenantID(1), subscriptionID, messageID, nil)
	require.NoError(a.t, err)
	require.Equal(a.t, verdict, x.Verdict, x.Reason)
	require.Regexp(a.t, "^"+reason+"$", x.Reason)
	for _, e := range x.Events {
		require.NotContains(a.t, string(e.Data), `"payload"`)
	}
	if x.Message != nil {
		require.Nil(a.t, x.Message.Payload)
	}
	return x
}

func kindsOf(list []Event) []string {
	kinds := make([]string, len(list))
	for i, e := range list {
		kinds[i] = e.Kind
	}
	return kinds
}

func (a *asking) pull(subscriptionID string) commands.Pulled {
	a.t.Helper()
	var pulled []commands.Pulled
	require.Eventually(a.t, func() bool {
		var err error
		pulled, err = a.Pull(a.t.Context(), a.caller, commands.Pull{SubscriptionID: subscriptionID, MessagesMax: new(1)})
		require.NoError(a.t, err)
		return len(pulled) == 1
	}, 10*time.Second, time.Millisecond)
	return pulled[0]
}

func latest(c *commands.CreateSubscription) { c.OffsetResetPolicy = "latest" }

const at = `20\d\d-\d\d-\d\dT[\d:.]{12}Z`

func TestALifeIsExplained(t *testing.T) {
	t.Parallel()
	a, ctx := newAsking(t), t.Context()
	sub := a.subscribe(a.caller, "orders", "g")
	m := a.publish(commands.Publish{}).MessageID
	x := a.requireVerdict(VerdictWaiting, "The message was not delivered yet.", sub, m)
	require.Equal(t, []string{"subscription.created", "message.published"}, kindsOf(x.Events))
	require.Equal(t, "published", x.Message.Status)
	require.Equal(t, int64(0), *x.Offset)

	p := a.pull(sub)
	_, err := a.Nack(ctx, a.caller, commands.Nack{SubscriptionID: sub, AckTokens: []string{p.AckToken}, DelayMs: new(int64(1)), Error: "no time"})
	require.NoError(t, err)
	x = a.requireVerdict(VerdictRetrying, `Attempt 1 failed at `+at+` \(nack: no time\); the next one is due at `+at+`\.`, sub, m)
	require.Len(t, x.Attempts, 1)

	p = a.pull(sub)
	_, err = a.DeadLetter(ctx, a.caller, sub, []string{p.AckToken}, "broken")
	require.NoError(t, err)
	x = a.requireVerdict(VerdictDeadLetter, `Attempt 2 failed at `+at+` \(nack: broken\), and no attempt was left\.`, sub, m)
	require.Equal(t, 2, x.DeadLetter.Attempts)
	require.Zero(t, x.DeadLetter.RedrivenAt)
	letters, more, err := DeadLetters(ctx, postgres.ForTenant(a.pool, tenantID(1)), tenantID(1), a.topicID, "g", DeadLetterFilter{}, Page{Limit: 1})
	require.NoError(t, err)
	require.False(t, more)
	require.Equal(t, m, letters[0].MessageID)
	require.Equal(t, 2, letters[0].Attempts)

	attempt, err := a.ReserveAttempt(ctx, sub)
	require.NoError(t, err)
	_, err = a.Redrive(ctx, commands.Redrive{SubscriptionID: sub, JobID: "job", Attempt: attempt, Messages: []commands.Redriven{{
		MessageID: m, Meta: p.Meta, Payload: p.Payload, Position: p.Position, DeadLetters: 1,
	}}})
	require.NoError(t, err)
	x = a.requireVerdict(VerdictWaiting, `The message came to the group once more at `+at+`, and was not delivered since\.`, sub, m)
	require.False(t, x.DeadLetter.RedrivenAt.IsZero())

	p = a.pull(sub)
	_, err = a.Ack(ctx, a.caller, sub, []string{p.AckToken})
	require.NoError(t, err)
	x = a.requireVerdict(VerdictConsumed, fmt.Sprintf(`Attempt %d was acknowledged at `+at+`\.`, attempt), sub, m)
	require.Equal(t, []string{"subscription.created", "message.published", "message.failed", "message.dead_lettered", "message.redriven", "message.consumed"}, kindsOf(x.Events))
	require.Len(t, x.Attempts, 3)

	// and what the group's other members and other groups did is told apart
	member, other := a.subscribe(a.caller, "orders", "g"), a.subscribe(a.caller, "orders", "other", latest)
	a.requireVerdict(VerdictConsumed, `Attempt \d+ was acknowledged at `+at+` by subscription `+sub+` of the same group\.`, member, m)
	x = a.requireVerdict(VerdictNotSubscribed, `The message was published at `+at+`, before the consumer group began at `+at+` with offsetResetPolicy latest\.`, other, m)
	require.Empty(t, x.Attempts)

	_, err = a.Seek(ctx, a.caller, commands.Seek{SubscriptionID: member, To: "earliest"})
	require.NoError(t, err)
	a.requireVerdict(VerdictWaiting, `The group was moved back to earliest at `+at+` and gets the message once more; it was not delivered since\.`, sub, m)
	_, err = a.Seek(ctx, a.caller, commands.Seek{SubscriptionID: sub, To: "1"})
	require.NoError(t, err)
	a.requireVerdict(VerdictSkippedBySeek, `The group had not settled the message when it was moved to 1 at `+at+`, which is behind the message\.`, sub, m)
	_, err = a.Seek(ctx, a.caller, commands.Seek{SubscriptionID: sub, To: time.Now().Add(-time.Minute).Format(time.RFC3339Nano)})
	require.NoError(t, err)
	_, err = a.PurgeQueue(ctx, a.caller, "orders", nil)
	require.NoError(t, err)
	a.requireVerdict(VerdictPurged, `The queue was purged at `+at+`, when the group had not settled the message\.`, sub, m)
}

func TestWhyAMessageIsNotDelivered(t *testing.T) {
	t.Parallel()
	a, ctx := newAsking(t), t.Context()
	before := a.publish(commands.Publish{}).MessageID
	sub := a.subscribe(a.caller, "orders", "g", latest)
	filtering := a.subscribe(a.caller, "orders", "f", func(c *commands.CreateSubscription) { c.MessageFilter = json.RawMessage(`{}`) })
	a.requireVerdict(VerdictNotSubscribed, `The message was published at .* latest\.`, sub, before)
	a.requireVerdict(VerdictWaiting, `The consumer group began after the message was published, with what the queue held, .*`, filtering, before)

	late := a.publish(commands.Publish{DelayMs: new(int64(1_000_000))}).MessageID
	a.requireVerdict(VerdictScheduled, `The message is to be published at `+at+`\.`, sub, late)
	_, err := a.CancelMessage(ctx, a.caller, late)
	require.NoError(t, err)
	a.requireVerdict(VerdictCancelled, `The message was cancelled at `+at+`, before it was published\.`, sub, late)

	even := a.publish(commands.Publish{Payload: json.RawMessage(`2`)}).MessageID
	brief := a.publish(commands.Publish{TTLMs: new(int64(1))}).MessageID
	last := a.publish(commands.Publish{}).MessageID
	require.Eventually(t, func() bool {
		pulled, err := a.Pull(ctx, a.caller, commands.Pull{SubscriptionID: filtering, MessagesMax: new(1)})
		require.NoError(t, err)
		return len(pulled) == 1 && pulled[0].MessageID == last
	}, 10*time.Second, time.Millisecond)
	a.requireVerdict(VerdictFiltered, `At `+at+` the filter that the subscription had in version 1 did not let the message pass: is even\.`, filtering, even)
	a.requireVerdict(VerdictExpired, `The message's time was over at `+at+`, before the group got it\.`, filtering, brief)

	_, _, err = a.PauseSubscription(ctx, a.caller, sub, nil)
	require.NoError(t, err)
	a.requireVerdict(VerdictWaiting, `The message was not delivered yet\. The subscription is paused since `+at+`\.`, sub, even)
	a.requireVerdict(VerdictWaiting, `.* Its time was over at `+at+`: when its turn comes, it is not delivered\.`, sub, brief)

	_, err = a.PurgeQueue(ctx, a.caller, "orders", nil)
	require.NoError(t, err)
	a.requireVerdict(VerdictPurged, `The queue was purged at .*`, sub, even)
	for message, verdict := range map[string]string{even: VerdictFiltered, brief: VerdictExpired, late: VerdictCancelled} {
		a.requireVerdict(verdict, `.*`, filtering, message) // what is settled stays so
	}

	elsewhere := a.queue("others", 1, false)
	require.NotEqual(t, a.topicID, elsewhere)
	foreign := a.publish(commands.Publish{Queue: "others"}).MessageID
	a.requireVerdict(VerdictNotSubscribed, `The message was published to the queue others; the subscription is of the queue orders\.`, sub, foreign)
	_, err = a.explain(tenantID(1), sub, newID(), nil)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestTheLogSaysWhatHistoryCannot(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	old := a.publish(commands.Publish{}).MessageID
	sub := a.subscribe(a.caller, "orders", "g")
	m := a.publish(commands.Publish{}).MessageID
	expires, retry, ahead := time.UnixMilli(1_800_000_000_000), time.UnixMilli(1_800_000_001_000), int64(1)
	for _, tc := range []struct {
		message         string
		live            *LiveMessage
		verdict, reason string
	}{
		{m, nil, VerdictWaiting, "The message was not delivered yet."},
		{m, &LiveMessage{State: LiveWaiting, Ahead: &ahead}, VerdictWaiting, "The message was not delivered yet. 1 of its partition come before it."},
		{m, &LiveMessage{State: LiveInFlight, LeaseExpiresAt: &expires}, VerdictInFlight, "A consumer has the message, until 2027-01-15T08:00:00.000Z, and has not settled it."},
		{m, &LiveMessage{State: LiveRetrying, NextRetryAt: &retry}, VerdictRetrying, "The message is to be tried again, at 2027-01-15T08:00:01.000Z."},
		{m, &LiveMessage{State: LiveHeld, Behind: old}, VerdictWaiting, "The message is held behind message " + old + " of the same key."},
		{m, &LiveMessage{State: LiveHeld}, VerdictWaiting, "The message is held behind another one of the same key."},
		{m, &LiveMessage{}, VerdictUnknown, "The consumer group does not have the message any more, and .*"},
		{old, &LiveMessage{}, VerdictNotSubscribed, "The message was published at " + at + "; when the consumer group began at " + at + ", the queue did not hold it any more."},
	} {
		asked := 0
		x, err := a.explain(tenantID(1), sub, tc.message, func(_ context.Context, q Question) *LiveMessage {
			asked++
			require.Equal(t, Question{Topic: q.Topic, Group: "g", MessageID: tc.message, Offset: q.Offset}, q)
			return tc.live
		})
		require.NoError(t, err)
		require.Equal(t, 1, asked)
		require.Equal(t, tc.verdict, x.Verdict)
		require.Regexp(t, "^"+tc.reason+"$", x.Reason)
		if tc.live != nil && tc.live.State != LiveNone {
			require.Equal(t, tc.live, x.Live)
		} else {
			require.Nil(t, x.Live)
		}
	}
	// where the matter is closed it is not asked
	_, err := a.Ack(t.Context(), a.caller, sub, []string{a.pull(sub).AckToken})
	require.NoError(t, err)
	x, err := a.explain(tenantID(1), sub, old, func(context.Context, Question) *LiveMessage { panic("asked") })
	require.NoError(t, err)
	require.Equal(t, VerdictConsumed, x.Verdict)
}

// A subscriber of another tenant's queue is told what its group did, and no more.
func TestAnotherTenantsQueueIsExplainedAsFarAsItIsSeen(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	theirs := commands.Caller{TenantID: tenantID(2), Async: true}
	sub := a.subscribe(theirs, tenantID(1)+":orders", "g")
	own := a.subscribe(a.caller, "orders", "g")
	m := a.publish(commands.Publish{Key: "k"}).MessageID
	_, err := a.explain(tenantID(2), sub, m, nil)
	require.ErrorIs(t, err, ErrNotFound)
	pulled, err := a.Pull(t.Context(), theirs, commands.Pull{SubscriptionID: sub})
	require.NoError(t, err)
	_, err = a.DeadLetter(t.Context(), theirs, sub, []string{pulled[0].AckToken}, "no")
	require.NoError(t, err)
	x, err := a.explain(tenantID(2), sub, m, nil)
	require.NoError(t, err)
	require.Equal(t, VerdictDeadLetter, x.Verdict)
	require.Nil(t, x.Message)
	require.Equal(t, int64(0), *x.Offset)
	require.Equal(t, []string{"subscription.created", "message.dead_lettered"}, kindsOf(x.Events))
	letters, _, err := DeadLetters(t.Context(), postgres.ForTenant(a.pool, tenantID(2)), tenantID(2), a.topicID, tenantID(2)+":g", DeadLetterFilter{}, Page{Limit: 5})
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Nil(t, letters[0].Key, "the record is the other tenant's")
	// and the owner's group of the same name is another one
	a.requireVerdict(VerdictWaiting, "The message was not delivered yet.", own, m)
}

// A group that ended and began anew is not what it was.
func TestAGroupThatBeganAnew(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	first := a.subscribe(a.caller, "orders", "g")
	done, open := a.publish(commands.Publish{}).MessageID, a.publish(commands.Publish{}).MessageID
	_, err := a.Ack(t.Context(), a.caller, first, []string{a.pull(first).AckToken})
	require.NoError(t, err)
	_, err = a.DeleteSubscription(t.Context(), a.caller, first, nil)
	require.NoError(t, err)
	second := a.subscribe(a.caller, "orders", "g", latest)
	a.requireVerdict(VerdictConsumed, `.* by subscription `+first+` of the same group\.`, second, done)
	a.requireVerdict(VerdictNotSubscribed, `The message was published at `+at+`, before the consumer group began .*`, second, open)
}
