package delivery

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

func TestAShutdownLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: &gauge{takes: Grace / 2}}
	bubble(t, sender, func(t *testing.T, s *store, _ *Pusher, stop func()) {
		s.put("a", hook(map[string]any{"concurrency": 2, "timeoutMs": 20_000}))
		s.publish("a", messages("m", 5)...)
		after(time.Second)
		began := time.Now()
		stop()
		require.Equal(t, Grace/2-time.Second+debounce, time.Since(began))
		require.Len(t, s.settled(), 2)
		for _, o := range s.settled() {
			require.True(t, o.OK)
		}
		require.Equal(t, 2, sender.count(), "no new ones")
		s.do(func() { require.Empty(t, s.leases) })
	})
}

func TestAShutdownCutsOffWhatLasts(t *testing.T) {
	t.Parallel()
	sender := senderFunc(func(ctx context.Context, r Request) Result { return blocked(ctx, r.ID == "seen0") })
	bubble(t, sender, func(t *testing.T, s *store, _ *Pusher, stop func()) {
		s.put("a", hook(map[string]any{"timeoutMs": 25_000}))
		s.publish("a", append(messages("seen", 1), messages("unseen", 1)...)...)
		after(time.Second)
		began := time.Now()
		stop()
		require.Equal(t, Grace, time.Since(began))
		require.Equal(t, []string{"unseen0"}, s.back(), "nobody has seen it")
		require.Equal(t, []commands.Outcome{{AckToken: "1", Reason: "webhook", Error: errCutOff.Error()}}, s.settled(), "it may have been seen")
		s.do(func() { require.Empty(t, s.leases) })
	})
}

func TestAShutdownWithoutAStoreEnds(t *testing.T) {
	t.Parallel()
	bubble(t, answers(200), func(t *testing.T, s *store, _ *Pusher, stop func()) {
		for i := range 50 {
			s.put(fmt.Sprint(i), hook(nil))
			s.publish(fmt.Sprint(i), messages("m", 4)...)
		}
		s.do(func() { s.away = true })
		after(2 * time.Second)
		began := time.Now()
		stop()
		require.LessOrEqual(t, time.Since(began), Grace+settleGrace)
	})
}

// A sender that hangs does not keep the service from ending. (The Router waits with its
// locks held, so the time of a bubble would stand still.)
func TestAShutdownDoesNotWaitForASenderThatHangs(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	sender := senderFunc(func(context.Context, Request) Result {
		close(begun)
		<-release
		return Result{Status: 200, Sent: true}
	})
	s, how := newStore(), quick()
	how.grace, how.settleGrace = 20*time.Millisecond, 20*time.Millisecond
	p, err := build(s.config(sender), how)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	s.put("a", hook(nil))
	s.publish("a", messages("m", 1)...)
	<-begun
	cancel()
	require.ErrorContains(t, <-ended, "close the router")
	close(release)
	eventually(t, func() bool { return len(p.requests) == 0 })
}

// A change ends a handler as a shutdown does, and the next begins only then: the webhook's
// concurrency holds for both.
func TestAChangeLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	g := &gauge{takes: 3 * time.Second}
	bubble(t, g, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.put("a", hook(map[string]any{"concurrency": 1}))
		s.publish("a", messages("m", 3)...)
		after(time.Second)
		s.put("a", hook(map[string]any{"concurrency": 2}))
		after(time.Second)
		require.Equal(t, StateEnding, p.Status()[0].State)
		require.EqualValues(t, 1, g.most.Load())
		after(2 * time.Second)
		require.EqualValues(t, 2, g.most.Load())
		require.Equal(t, StateActive, p.Status()[0].State)
		after(5 * time.Second)
		require.Len(t, s.settled(), 3)
		require.Empty(t, s.back())
	})
}
