package redis

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestSlowHandlerKeepsItsMessage(t *testing.T) {
	t.Parallel()
	const idle = 500 * time.Millisecond
	f := newGroupFixture(t)
	quick := func(c *SubscriberConfig) { c.ClaimIdle = idle }
	// given two consumers, and a message that one of them has
	a, b := f.subscribe(t, f.subscriber(t, "a", quick)), f.subscribe(t, f.subscriber(t, "b", quick))
	f.publish(t, "slow")
	var m *message.Message
	select {
	case m = <-a:
	case m = <-b:
	}
	// when it takes three times as long as a dead consumer is given
	require.Never(t, func() bool { return came(a) || came(b) }, 3*idle, 5*time.Millisecond, "the message was delivered twice")
	// then it is still its first consumer's, at its first delivery
	pending := f.pending(t)
	require.Len(t, pending, 1)
	require.Equal(t, deliveryOf(t, m).Consumer, pending[0].Consumer)
	require.Equal(t, int64(1), pending[0].RetryCount)
	require.Less(t, pending[0].Idle, idle)
	require.NoError(t, m.Context().Err())
	m.Ack()
	f.settled(t)
	require.ErrorIs(t, m.Context().Err(), context.Canceled)
}

func TestEntriesOfADeadConsumerAreTakenOver(t *testing.T) {
	t.Parallel()
	const idle = 300 * time.Millisecond
	f := newGroupFixture(t)
	f.publish(t, "1", "2", "3", "4")
	f.readAs(t, "dead", 3)
	died := time.Now()
	ch := f.subscribe(t, f.subscriber(t, "alive", func(c *SubscriberConfig) { c.ClaimIdle = idle }))
	// what is new does not wait
	receiveAll(t, ch, "4")
	for _, want := range []string{"1", "2", "3"} {
		m := receive(t, ch)
		require.Equal(t, want, string(m.Payload))
		require.Equal(t, int64(2), deliveryOf(t, m).Count)
		require.GreaterOrEqual(t, time.Since(died), idle-10*time.Millisecond)
		m.Ack()
	}
	f.settled(t)
	// and consumers are never deleted
	consumers, err := f.client.XInfoConsumers(t.Context(), f.stream, "g").Result()
	require.NoError(t, err)
	require.Len(t, consumers, 2)
}

func TestPendingEntriesAreTakenUpAtRestartInOrder(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	f.publish(t, "1", "2", "3", "4", "5")
	f.readAs(t, "c", 3)
	ch := f.subscribe(t, f.subscriber(t, "c", func(c *SubscriberConfig) { c.Window = 1 }))
	receiveAll(t, ch, "1", "2", "3", "4", "5")
	f.settled(t)
}

func TestUndecodableEntryDoesNotEndTheSubscription(t *testing.T) {
	t.Parallel()
	const idle = 500 * time.Millisecond
	f := newGroupFixture(t)
	s := f.subscriber(t, "c", func(c *SubscriberConfig) { c.Window, c.ClaimIdle = 1, idle })
	ch := f.subscribe(t, s)
	f.publish(t, "1")
	for _, fields := range [][]any{
		{"something", "else"},
		{fieldUUID, "x", fieldMetadata, "not msgpack", fieldPayload, "x"},
	} {
		require.NoError(t, f.client.XAdd(t.Context(), &goredis.XAddArgs{Stream: f.stream, Values: fields}).Err())
	}
	f.publish(t, "2")
	// given two entries that are no messages, then what is around them is delivered
	receiveAll(t, ch, "1", "2")
	require.Eventually(t, func() bool { return len(f.pending(t)) == 2 }, receiveLimit, 5*time.Millisecond)
	// and they stay pending, kept from the other consumers, and are logged once
	other := f.subscribe(t, f.subscriber(t, "other", func(c *SubscriberConfig) { c.ClaimIdle = idle }))
	require.Never(t, func() bool {
		return f.logs.count("level=ERROR") != 2 || len(f.pending(t)) != 2 || came(other)
	}, 3*idle, 20*time.Millisecond)
	for _, p := range f.pending(t) {
		require.Equal(t, "c", p.Consumer)
	}
	// and once settled by hand they are gone
	for _, p := range f.pending(t) {
		require.NoError(t, f.client.XAck(t.Context(), f.stream, "g", p.ID).Err())
	}
	f.publish(t, "3")
	var m *message.Message
	select {
	case m = <-ch:
	case m = <-other:
	}
	require.Equal(t, "3", string(m.Payload))
}

func TestNackedMessageComesBackAfterItsDelay(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	ch := f.subscribe(t, f.subscriber(t, "c", func(c *SubscriberConfig) {
		c.Window, c.NackDelay, c.NackDelayMax = 1, 40*time.Millisecond, 100*time.Millisecond
	}))
	f.publish(t, "first", "second")
	delays := []time.Duration{0, 40 * time.Millisecond, 80 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond}
	nacked := time.Now()
	for n, delay := range delays {
		m := receive(t, ch)
		require.GreaterOrEqual(t, time.Since(nacked), delay)
		// with a window of one, nothing overtakes
		require.Equal(t, "first", string(m.Payload))
		require.Equal(t, int64(n+1), deliveryOf(t, m).Count)
		// what a handler did to a message is not there the next time
		require.Empty(t, m.Metadata)
		m.Metadata.Set("changed", "yes")
		if n == len(delays)-1 {
			m.Ack()
			continue
		}
		nacked = time.Now()
		m.Nack()
	}
	receiveAll(t, ch, "second")
	f.settled(t)
}

func TestOthersPassANackedMessageInAWindow(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	ch := f.subscribe(t, f.subscriber(t, "c", func(c *SubscriberConfig) { c.Window, c.NackDelay = 2, time.Minute }))
	f.publish(t, "1", "2", "3", "4")
	require.True(t, receive(t, ch).Nack())
	receiveAll(t, ch, "2", "3", "4")
	require.Eventually(t, func() bool { return len(f.pending(t)) == 1 }, receiveLimit, 5*time.Millisecond)
}

func TestEntryThatAnotherTookIsNotRedelivered(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	ch := f.subscribe(t, f.subscriber(t, "c", func(c *SubscriberConfig) { c.Window, c.ClaimIdle = 1, ClaimIdleMin }))
	f.publish(t, "1", "2")
	m := receive(t, ch)
	// given a consumer that was taken for dead while its handler worked
	require.NoError(t, f.client.XClaim(t.Context(), &goredis.XClaimArgs{
		Stream: f.stream, Group: "g", Consumer: "other", Messages: []string{deliveryOf(t, m).EntryID},
	}).Err())
	m.Nack()
	// then it does not take the message back, and goes on
	receiveAll(t, ch, "2")
	require.NotZero(t, f.logs.count("no longer this consumer's"))
}

func TestWindowBoundsWhatIsInFlight(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	ch := f.subscribe(t, f.subscriber(t, "c", func(c *SubscriberConfig) { c.Window = 3 }))
	f.publish(t, "1", "2", "3", "4", "5")
	held := []*message.Message{receive(t, ch), receive(t, ch), receive(t, ch)}
	require.Never(t, func() bool { return len(f.pending(t)) > 3 }, 150*time.Millisecond, 5*time.Millisecond)
	held[1].Ack()
	receiveAll(t, ch, "4", "5")
}

func TestMissingGroupIsCreatedAgain(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	ch := f.subscribe(t, f.subscriber(t, "c", nil))
	f.publish(t, "1")
	receiveAll(t, ch, "1")
	f.settled(t)
	require.NoError(t, f.client.Del(t.Context(), f.stream).Err())
	created := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return f.logs.count("it has been created") == n }, receiveLimit, 5*time.Millisecond)
	}
	created(1)
	f.publish(t, "2")
	receiveAll(t, ch, "2")
	f.settled(t)
	require.NoError(t, f.client.XGroupDestroy(t.Context(), f.stream, "g").Err())
	created(2)
	// a group that was lost starts where it was told to: at the beginning
	receiveAll(t, ch, "2")
	f.settled(t)
	require.Zero(t, f.logs.count("trying again"))
}

func TestGroupStartsWhereItIsTold(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	f.publish(t, "old")
	s := f.subscriber(t, "c", func(c *SubscriberConfig) { c.Start = "$" })
	require.NoError(t, s.SubscribeInitialize(f.stream))
	f.publish(t, "new")
	receiveAll(t, f.subscribe(t, s), "new")
}

func TestDeletedEntryIsReportedAndLeft(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	f.publish(t, "1", "2")
	f.readAs(t, "c", 1)
	require.NoError(t, f.client.XTrimMaxLen(t.Context(), f.stream, 1).Err())
	ch := f.subscribe(t, f.subscriber(t, "c", nil))
	receiveAll(t, ch, "2")
	f.settled(t)
	require.Equal(t, 1, f.logs.count("were deleted from the stream"))
}

func TestSubscriptionsOfOneStreamShareItsMessages(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	s := f.subscriber(t, "c", func(c *SubscriberConfig) { c.Window = 1 })
	a, b := f.subscribe(t, s), f.subscribe(t, s)
	f.publish(t, "1", "2")
	ma, mb := receive(t, a), receive(t, b)
	require.NotEqual(t, ma.UUID, mb.UUID)
	require.ElementsMatch(t, []string{"c", "c-2"}, []string{deliveryOf(t, ma).Consumer, deliveryOf(t, mb).Consumer})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	client := goredis.NewClient(&goredis.Options{})
	t.Cleanup(func() { _ = client.Close() })
	for name, cfg := range map[string]SubscriberConfig{
		"no client":   {Group: "g", Consumer: "c"},
		"no group":    {Client: client, Consumer: "c"},
		"no consumer": {Client: client, Group: "g"},
		"window":      {Client: client, Group: "g", Consumer: "c", Window: WindowMax + 1},
		"claim idle":  {Client: client, Group: "g", Consumer: "c", ClaimIdle: time.Millisecond},
		"block":       {Client: client, Group: "g", Consumer: "c", Block: time.Nanosecond},
	} {
		_, err := NewSubscriber(cfg)
		require.Error(t, err, name)
	}
	_, err := NewSubscriber(SubscriberConfig{Client: client, Group: "g", Consumer: watermill.NewShortUUID()})
	require.NoError(t, err)
}
