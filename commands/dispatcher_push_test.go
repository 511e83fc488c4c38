package commands_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

func TestMessagesOfAShortLifeExpire(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// given that an instance's clock says that all is well
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	short := message("orders", "1")
	short.TTLMs = new(int64(1))
	early := b.instance(t, func(c *commands.Config) { c.Now = func() time.Time { return time.Now().Add(-time.Hour) } })
	hour := message("orders", "2")
	hour.TTLMs = new(time.Hour.Milliseconds())
	for _, m := range []commands.Publish{short, hour} {
		require.NoError(t, early.publishBatch(t, async, false, m)[0].Err)
	}
	i.publish(t, "orders", "3")
	m := early.pull(t, id, 10)
	require.Equal(t, []string{"3"}, payloads(m))
	expired := map[string]events.MessageExpired{}
	for _, r := range i.all(t, b, "orders") {
		if e, ok := r.Event.(events.MessageExpired); ok {
			expired[e.MessageID] = e
		}
	}
	require.Len(t, expired, 2)
	require.LessOrEqual(t, expired[hour.ID].ExpiredAtMs, expired[hour.ID].LeasedAtMs)
	require.Equal(t, []any{id, "g", 1, int64(1)}, []any{expired[hour.ID].SubscriptionID, expired[hour.ID].ConsumerGroup, expired[hour.ID].Attempt, expired[hour.ID].Offset})
	require.Equal(t, int64(1), i.state(t, "orders").Unsettled["g"])
	// a retry is over too when its time has come
	retried := message("orders", "4")
	retried.TTLMs = new(int64(500))
	require.NoError(t, i.publishBatch(t, async, false, retried)[0].Err)
	m = i.pull(t, id, 10)
	require.Equal(t, []string{"4"}, payloads(m))
	i.park(t, id, m[0].AckToken, 600*time.Millisecond)
	expires := func() bool {
		i.requireNothing(t, id)
		records := i.all(t, b, "orders")
		e, ok := records[len(records)-1].Event.(events.MessageExpired)
		return ok && e.MessageID == retried.ID && e.Attempt == 2
	}
	require.Eventually(t, expires, soon, 10*time.Millisecond)
	require.Equal(t, int64(1), i.state(t, "orders").Unsettled["g"])
}

// failed is the last event of a queue, which is a failure.
func (i *instance) failed(t testing.TB, b *testBundle) events.MessageFailed {
	t.Helper()
	records := i.all(t, b, "orders")
	e, ok := records[len(records)-1].Event.(events.MessageFailed)
	require.True(t, ok, "%T", records[len(records)-1].Event)
	return e
}

func TestWhenFailedDeliveriesComeAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, func(c *commands.Config) { c.Rand = func() float64 { return 1 } }).run(t)
	topic := i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) {
		c.HandlerConfig, c.MaxRetryAttempts, c.RetryDelayMs = json.RawMessage(`{"retryScheduleMs":[3600000,7200000]}`), new(3), new(1000)
	})
	settle := func(o commands.Outcome) string {
		t.Helper()
		out, err := i.Settle(t.Context(), id, []commands.Outcome{o})
		require.NoError(t, err)
		require.NoError(t, out[0].Err)
		return out[0].Status
	}
	take := func() commands.Pulled {
		t.Helper()
		b.makeDue(t)
		out, err := i.Take(t.Context(), id, 1, 10*time.Second)
		require.NoError(t, err)
		require.Len(t, out, 1)
		return out[0]
	}
	i.publish(t, "orders", "1")
	// a schedule says each delay, and its last one again
	for n, want := range []int64{3_600_000, 7_200_000, 7_200_000} {
		m := take()
		require.Equal(t, []int{n + 1, 0}, []int{m.Attempt, m.AttemptsBefore})
		require.Equal(t, "retrying", settle(commands.Outcome{AckToken: m.AckToken, StatusCode: 503, Error: "busy"}))
		e := i.failed(t, b)
		require.Equal(t, []any{want, events.ReasonWebhook, "busy", 503}, []any{e.RetryDelayMs, e.Reason, e.Error, e.StatusCode})
	}
	require.Equal(t, "dead_letter", settle(commands.Outcome{AckToken: take().AckToken, Reason: "timeout", StatusCode: 504}))
	records := i.all(t, b, "orders")
	dead := records[len(records)-1].Event.(events.MessageDeadLettered)
	require.Equal(t, []any{"timeout", 504, 4}, []any{dead.Reason, dead.StatusCode, dead.Attempt})
	// a message may say otherwise, and is heard when its lease runs out, too
	own := message("orders", "2")
	own.MaxRetryAttempts, own.RetryDelayMs = new(1), new(5_000_000)
	require.NoError(t, i.publishBatch(t, async, false, own)[0].Err)
	settle(commands.Outcome{AckToken: take().AckToken})
	require.Equal(t, int64(5_000_000), i.failed(t, b).RetryDelayMs)
	b.expire(t, topic, id, "g", take())
	require.Eventually(t, func() bool {
		records = i.all(t, b, "orders")
		dead, _ = records[len(records)-1].Event.(events.MessageDeadLettered)
		return dead.MessageID == own.ID && dead.Reason == events.ReasonLeaseExpired && dead.Attempt == 2
	}, soon, time.Millisecond)
	own = message("orders", "3")
	own.RetryDelayMs = new(5_000_000)
	require.NoError(t, i.publishBatch(t, async, false, own)[0].Err)
	b.expire(t, topic, id, "g", take())
	require.Eventually(t, func() bool {
		records = i.all(t, b, "orders")
		e, _ := records[len(records)-1].Event.(events.MessageFailed)
		return e.MessageID == own.ID && e.RetryDelayMs == 5_000_000
	}, soon, time.Millisecond)
	// an endpoint may ask for more time, not for less; and may say that it never will
	settle(commands.Outcome{AckToken: take().AckToken, NotBeforeMs: 9_000_000_000})
	require.Equal(t, int64(commands.NackDelayMsMax), i.failed(t, b).RetryDelayMs)
	settle(commands.Outcome{AckToken: take().AckToken, NotBeforeMs: 1})
	require.Equal(t, int64(5_000_000), i.failed(t, b).RetryDelayMs, "not doubled: it is more than an hour")
	require.Equal(t, "dead_letter", settle(commands.Outcome{AckToken: take().AckToken, Dead: true, StatusCode: 410}))
	i.publish(t, "orders", "4")
	require.Equal(t, "acked", settle(commands.Outcome{AckToken: take().AckToken, OK: true, StatusCode: 204}))
	records = i.all(t, b, "orders")
	require.Equal(t, 204, records[len(records)-1].Event.(events.MessageConsumed).StatusCode)
	require.Zero(t, i.state(t, "orders").Unsettled["g"])
	// what was taken and not delivered goes back unharmed
	i.publish(t, "orders", "5")
	m := take()
	require.NoError(t, i.ReleaseTokens(t.Context(), id, []string{m.AckToken}, 60_000))
	e := i.failed(t, b)
	require.Equal(t, []any{events.ReasonReleased, int64(60_000)}, []any{e.Reason, e.RetryDelayMs})
}

// What a consumer's handlerConfig says is its own, but for what is ours.
func TestAConsumersHandlerConfigIsItsOwn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) {
		c.HandlerConfig = json.RawMessage(`{"url":5,"headers":"x","timeoutMs":"30s","ordered":true}`)
	})
	i.publishKeyed(t, "k", "1")
	i.publishKeyed(t, "k", "2")
	require.Equal(t, []string{"1"}, payloads(i.pull(t, id, 10)))
	for _, raw := range []string{`{"ordered":"yes"}`, `{"retryScheduleMs":[-1]}`, `{"retryScheduleMs":5}`, `[]`} {
		_, _, err := i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, HandlerConfig: json.RawMessage(raw)})
		requireRefusal(t, err, commands.CodeValidationFailed)
	}
}

func TestASubscriptionThatItsServiceEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	for range 2 {
		require.NoError(t, i.Suspend(t.Context(), id, "it fails"))
	}
	require.Equal(t, events.SubscriptionPaused{SubscriptionID: id, TopicID: i.topicID(t), Reason: "it fails"}, i.last(t, b, 3))
	require.Len(t, i.all(t, b, "orders"), 3)
	_, err := i.Take(t.Context(), id, 1, 0)
	requireRefusal(t, err, commands.CodeConsumerError)
	require.NoError(t, i.Stop(t.Context(), id, "gone"), "what is paused stays so")
	_, _, err = i.ResumeSubscription(t.Context(), async, id, nil)
	require.NoError(t, err)
	require.NoError(t, i.Stop(t.Context(), id, "gone"))
	s, err := i.Load(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, commands.StatusStopped, s.Config.Status)
}

// What never reached its consumer is not a try, however often that happens.
func TestReleasedAttemptsAreNoTries(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) { c.MaxRetryAttempts, c.RetryDelayMs = new(1), new(0) })
	i.publish(t, "orders", "1")
	for attempt := 1; attempt <= 5; attempt++ {
		pulled := i.pull(t, id, 1)
		require.Equal(t, attempt, pulled[0].Attempt)
		require.NoError(t, i.Release(t.Context(), async, id, pulled))
	}
	pulled := i.pull(t, id, 1)
	settled, err := i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{pulled[0].AckToken}})
	require.NoError(t, err)
	require.Equal(t, "retrying", settled[0].Status, "the first try of two")
	pulled = i.pull(t, id, 1)
	require.Equal(t, 7, pulled[0].Attempt)
	settled, err = i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{pulled[0].AckToken}})
	require.NoError(t, err)
	require.Equal(t, "dead_letter", settled[0].Status)
}

// What the service delivers by itself, it delivers as to whoever asked for it.
func TestWhoMayNotConsumeIsPushedNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	public := true
	consumers := []string{"b"}
	_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: "orders", IsPublic: public, AllowedConsumers: consumers})
	require.NoError(t, err)
	foreign := commands.Caller{TenantID: otherTenant, Subject: "b", Async: true}
	s, _, err := i.CreateSubscription(t.Context(), foreign, commands.CreateSubscription{
		ID: newID(), Queue: tenant + ":orders", ConsumerGroup: "g", SubscriptionType: commands.TypeWebhook, HandlerConfig: []byte(`{"url":"https://example.com"}`),
	})
	require.NoError(t, err)
	i.publish(t, "orders", "1")
	taken, err := i.Take(t.Context(), s.Config.SubscriptionID, 1, commands.PullWaitMsMax*time.Millisecond)
	require.NoError(t, err)
	require.Len(t, taken, 1)
	i.publish(t, "orders", "2")
	_, _, err = i.UpdateQueue(t.Context(), async, commands.UpdateQueue{Queue: "orders", AllowedConsumers: &[]string{"x"}})
	require.NoError(t, err)
	_, err = i.Take(t.Context(), s.Config.SubscriptionID, 1, 0)
	requireRefusal(t, err, commands.CodeForbidden)
	_, err = i.Redrive(t.Context(), commands.Redrive{SubscriptionID: s.Config.SubscriptionID, JobID: "j", Attempt: 5, Messages: []commands.Redriven{redriven(taken[0], 0)}})
	requireRefusal(t, err, commands.CodeForbidden)
	// what it has is settled all the same
	settled, err := i.Settle(t.Context(), s.Config.SubscriptionID, []commands.Outcome{{AckToken: taken[0].AckToken, OK: true}})
	require.NoError(t, err)
	require.Equal(t, "acked", settled[0].Status)
}

func TestAScheduleEndsWithItsOwnersPermission(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, func(c *commands.Config) {
		c.NextTick = func(_, _ string, after time.Time) (time.Time, error) { return after.Add(time.Hour), nil }
	})
	owner := commands.Caller{TenantID: tenant, Subject: "p", Async: true}
	i.queue(t, "orders", 1)
	s, _, err := i.CreateSchedule(t.Context(), owner, commands.CreateSchedule{ID: newID(), Queue: "orders", Cron: "* * * * *", Payload: []byte("1")})
	require.NoError(t, err)
	state, err := json.Marshal(s)
	require.NoError(t, err)
	tick := func(ms int64) {
		t.Helper()
		_, err := i.Tick(t.Context(), 0, events.DueTick{ScheduleID: s.Config.ScheduleID, TickMs: ms, State: state})
		require.NoError(t, err)
	}
	tick(1000)
	require.Equal(t, int64(1), i.state(t, "orders").Partitions[0].NextOffset)
	_, _, err = i.UpdateQueue(t.Context(), async, commands.UpdateQueue{Queue: "orders", AllowedProducers: &[]string{"somebody"}})
	require.NoError(t, err)
	tick(2000)
	require.Equal(t, int64(1), i.state(t, "orders").Partitions[0].NextOffset)
}
