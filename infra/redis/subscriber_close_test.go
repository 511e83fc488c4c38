package redis

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// closing closes a subscriber and tells when that is done.
func closing(s *Subscriber) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Close() }()
	return done
}

func waitClosed(t testing.TB, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(receiveLimit):
		require.FailNow(t, "Close did not return")
	}
}

func TestCloseWaitsForWhatIsInFlight(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	s := f.subscriber(t, "c", func(c *SubscriberConfig) { c.DrainTimeout = receiveLimit })
	ch := f.subscribe(t, s)
	f.publish(t, "1")
	m := receive(t, ch)
	done := closing(s)
	require.Never(t, func() bool { return len(done) > 0 || m.Context().Err() != nil }, 200*time.Millisecond, 5*time.Millisecond)
	m.Ack()
	waitClosed(t, done)
	requireClosed(t, ch)
	require.Empty(t, f.pending(t))
	// and it may be called again, nothing more can be subscribed, and the client is open
	require.NoError(t, s.Close())
	_, err := s.Subscribe(t.Context(), f.stream)
	require.ErrorIs(t, err, ErrSubscriberClosed)
	require.NoError(t, f.client.Ping(t.Context()).Err())
}

func TestCloseGivesUpAtItsLimit(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	s := f.subscriber(t, "c", nil)
	ch := f.subscribe(t, s)
	f.publish(t, "1")
	m := receive(t, ch)
	waitClosed(t, closing(s))
	requireClosed(t, ch)
	require.ErrorIs(t, m.Context().Err(), context.Canceled)
	require.Equal(t, 1, f.logs.count("messages in flight"))
	require.Len(t, f.pending(t), 1)
	// and the message comes again
	ch = f.subscribe(t, f.subscriber(t, "c", nil))
	again := receive(t, ch)
	require.Equal(t, m.UUID, again.UUID)
	require.Equal(t, int64(2), deliveryOf(t, again).Count)
}

func TestTheLimitHoldsWhileAReadIsUnderWay(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	// given a read that waits for longer than Close may, and a message in flight
	s := f.subscriber(t, "c", func(c *SubscriberConfig) { c.Block, c.DrainTimeout = 500*time.Millisecond, 10*time.Millisecond })
	ch := f.subscribe(t, s)
	f.publish(t, "1")
	m := receive(t, ch)
	waitClosed(t, closing(s))
	requireClosed(t, ch)
	require.ErrorIs(t, m.Context().Err(), context.Canceled)
}

func TestWhatWasNotHandedOutCanBeHadByOthersAtOnce(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	s := f.subscriber(t, "c", nil)
	ch := f.subscribe(t, s)
	f.publish(t, "1", "2", "3", "4")
	receiveAll(t, ch, "1")
	require.Eventually(t, func() bool { return len(f.pending(t)) == 3 }, receiveLimit, 5*time.Millisecond)
	waitClosed(t, closing(s))
	// then another consumer has the rest, although a dead one's would take an hour
	ch = f.subscribe(t, f.subscriber(t, "other", nil))
	for _, want := range []string{"2", "3", "4"} {
		m := receive(t, ch)
		require.Equal(t, want, string(m.Payload))
		require.Equal(t, int64(1), deliveryOf(t, m).Count, "it was not delivered before")
		m.Ack()
	}
}

func TestNackAtTheEndGivesBackAfterTheDelay(t *testing.T) {
	t.Parallel()
	const delay = 300 * time.Millisecond
	f := newGroupFixture(t)
	s := f.subscriber(t, "c", func(c *SubscriberConfig) { c.NackDelay, c.DrainTimeout = delay, receiveLimit })
	ch := f.subscribe(t, s)
	f.publish(t, "1")
	nacked := time.Now()
	receive(t, ch).Nack()
	waitClosed(t, closing(s))
	again := receive(t, f.subscribe(t, f.subscriber(t, "other", nil)))
	require.Equal(t, int64(2), deliveryOf(t, again).Count)
	require.GreaterOrEqual(t, time.Since(nacked), delay-10*time.Millisecond)
}

func TestSubscriptionEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	s := f.subscriber(t, "c", func(c *SubscriberConfig) { c.DrainTimeout = receiveLimit })
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "value"))
	ch, err := s.Subscribe(ctx, f.stream)
	require.NoError(t, err)
	f.publish(t, "1", "2")
	m := receive(t, ch)
	require.Equal(t, "value", m.Context().Value(key{}))
	cancel()
	// what is in flight may finish
	require.NoError(t, m.Context().Err())
	m.Ack()
	var rest []*message.Message
	for m := range ch { // the second may have been on its way
		rest = append(rest, m)
		m.Nack()
	}
	require.LessOrEqual(t, len(rest), 1)
	// and the subscriber goes on for others
	receiveAll(t, f.subscribe(t, s), "2")
}

func TestRouterClosesGracefully(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: receiveLimit}, nil)
	require.NoError(t, err)
	handling, release := make(chan *message.Message, 1), make(chan struct{})
	sub := f.subscriber(t, "c", func(c *SubscriberConfig) { c.DrainTimeout = receiveLimit })
	router.AddHandler("h", f.stream, sub, f.stream+":out", f.publisher(t), func(m *message.Message) ([]*message.Message, error) {
		handling <- m
		<-release
		return messagesOf("produced"), m.Context().Err()
	})
	go func() { _ = router.Run(context.Background()) }()
	f.publish(t, "1")
	m := <-handling
	// when the router is closed while a handler works, the handler may finish and
	// publish what it produced
	closed := make(chan error, 1)
	go func() { closed <- router.Close() }()
	require.Never(t, func() bool { return len(closed) > 0 || m.Context().Err() != nil }, 100*time.Millisecond, 5*time.Millisecond)
	close(release)
	waitClosed(t, closed)
	require.Equal(t, int64(1), f.client.XLen(t.Context(), f.stream+":out").Val())
	require.Empty(t, f.pending(t))
}
