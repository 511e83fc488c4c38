package commands

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// billing is a subscription that consumes.
func billing() Subscription {
	return Subscription{TenantID: tenantID, Version: 1, Queue: "orders", QueueTenantID: tenantID, Config: events.SubscriptionConfig{
		SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "billing", ConsumerName: "billing-1",
		MaxPollRecords: 500, SessionTimeoutMs: 30_000, MaxRetryAttempts: 3, RetryDelayMs: 1000, Status: StatusActive,
	}}
}

func TestPullLimits(t *testing.T) {
	t.Parallel()
	type c = Pull
	cases := between("maxMessages", 1, 500, func(c *c, n int64) { c.MessagesMax = new(int(n)) })
	cases = append(cases, between("waitMs", 0, 20_000, func(c *c, n int64) { c.WaitMs = int(n) })...)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := c{SubscriptionID: subscriptionID}
			tc.when(&cmd)
			most, err := decidePull(billing(), cmd, 0)
			requireLimit(t, err, tc.field, tc.limit)
			if cmd.MessagesMax != nil {
				require.Equal(t, *cmd.MessagesMax, most)
			}
		})
	}
}

func TestPullTakesFiftyOrWhatTheSubscriptionAllows(t *testing.T) {
	t.Parallel()
	for allowed, want := range map[int]int{500: 50, 50: 50, 49: 49, 1: 1} {
		s := billing()
		s.Config.MaxPollRecords = allowed
		most, err := decidePull(s, Pull{}, 0)
		require.NoError(t, err)
		require.Equal(t, want, most)
	}
}

func TestPullFromASubscriptionThatRests(t *testing.T) {
	t.Parallel()
	for _, status := range []string{StatusPaused, StatusStopped} {
		s := billing()
		s.Config.Status = status
		_, err := decidePull(s, Pull{}, 0)
		require.Contains(t, requireRefusal(t, err, CodeConsumerError).Reason, status)
	}
}

func TestFailuresAreRetriedUntilNoAttemptIsLeft(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		maxRetryAttempts, attempt int
		dead                      bool
	}{
		{0, 1, true},
		{0, 2, true},
		{1, 1, false},
		{1, 2, true},
		{3, 1, false},
		{3, 3, false},
		{3, 4, true},
		{3, 5, true},
		{1000, 1000, false},
		{1000, 1001, true},
	} {
		t.Run(fmt.Sprintf("attempt %d of 1+%d", tc.attempt, tc.maxRetryAttempts), func(t *testing.T) {
			t.Parallel()
			s := billing()
			s.Config.MaxRetryAttempts = tc.maxRetryAttempts
			a := s.delivery(delivery{SubscriptionID: subscriptionID, MessageID: messageID, Attempt: tc.attempt})
			e := decideFailure(s, a, failure{Reason: events.ReasonNack, Error: "no", DelayMs: new(int64(5))})
			if tc.dead {
				require.Equal(t, events.MessageDeadLettered{Delivery: a, Reason: events.ReasonNack, Error: "no"}, e)
				require.Equal(t, "dead_letter", failureStatus(e))
				return
			}
			require.Equal(t, events.MessageFailed{Delivery: a, Reason: events.ReasonNack, Error: "no", RetryDelayMs: 5}, e)
			require.Equal(t, "retrying", failureStatus(e))
		})
	}
}

func TestBackoffDoublesWithFullJitterUpToACap(t *testing.T) {
	t.Parallel()
	const hour, almost = 3_600_000, 1 - 1e-9
	for _, tc := range []struct {
		retryDelayMs, attempt int
		// ceiling is what a chance of almost one gives, rounded down.
		ceiling int64
	}{
		{1000, 1, 1000},
		{1000, 2, 2000},
		{1000, 3, 4000},
		{1000, 11, 1_024_000},
		{1000, 12, 2_048_000},
		{1000, 13, hour},
		{1000, 1000, hour},
		{1, 1, 1},
		{0, 1, 0},
		{0, 1000, 0},
		// a delay that is itself longer than an hour is kept, and does not grow
		{hour + 1, 1, hour + 1},
		{86_400_000, 1, 86_400_000},
		{86_400_000, 9, 86_400_000},
	} {
		t.Run(fmt.Sprintf("attempt %d after %d ms", tc.attempt, tc.retryDelayMs), func(t *testing.T) {
			t.Parallel()
			s := billing()
			s.Config.RetryDelayMs, s.Config.MaxRetryAttempts = tc.retryDelayMs, 1000
			delay := func(chance float64) int64 {
				e := decideFailure(s, s.delivery(delivery{Attempt: tc.attempt}), failure{Reason: events.ReasonLeaseExpired, Rand: chance})
				return e.(events.MessageFailed).RetryDelayMs
			}
			require.Zero(t, delay(0), "full jitter begins at nothing")
			require.Equal(t, tc.ceiling/2, delay(0.5))
			require.InDelta(t, tc.ceiling, delay(almost), 1)
			require.LessOrEqual(t, delay(almost), tc.ceiling)
			require.LessOrEqual(t, delay(math.Nextafter(1, 0)), tc.ceiling)
		})
	}
}

func TestNackDelayGoesBeforeBackoff(t *testing.T) {
	t.Parallel()
	for _, delay := range []int64{0, 1, NackDelayMsMax} {
		e := decideFailure(billing(), events.Delivery{Attempt: 3}, failure{Reason: events.ReasonNack, DelayMs: &delay, Rand: 0.9})
		require.Equal(t, delay, e.(events.MessageFailed).RetryDelayMs)
	}
}

func TestDeliveriesNameTheSubscriptionsConsumer(t *testing.T) {
	t.Parallel()
	require.Equal(t, events.Delivery{
		MessageID: messageID, TopicID: topicID, SubscriptionID: subscriptionID, ConsumerGroup: "billing", Consumer: "billing-1",
		Partition: 2, Offset: 7, Attempt: 4, LeasedAtMs: 99,
	}, billing().delivery(delivery{SubscriptionID: subscriptionID, MessageID: messageID, Partition: 2, Offset: 7, Attempt: 4, LeasedAtMs: 99}))
}
