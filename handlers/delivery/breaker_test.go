package delivery

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnEndpointThatFailsIsLeftAlone(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(500)
	sender := &sent{Sender: senderFunc(func(context.Context, Request) Result {
		return Result{Status: int(status.Load()), Sent: true}
	})}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.do(func() { s.retryAfter = 10 * time.Millisecond })
		s.put("a", hook(map[string]any{"breakerFailures": 3, "concurrency": 1}))
		s.publish("a", messages("m", 20)...)
		after(100 * time.Millisecond)
		require.Equal(t, 3, sender.count(), "it rests after three failures")
		is := p.Status()[0]
		require.Equal(t, StateResting, is.State)
		require.Equal(t, 3, is.Failures)
		require.Equal(t, "HTTP 500 Internal Server Error", is.LastError)
		require.WithinRange(t, is.Until, is.Since.Add(RestMin), is.Since.Add(RestMin*3/2+time.Second))
		takes := s.asked("a")
		after(RestMin / 2)
		require.Equal(t, takes, s.asked("a"), "nothing is leased meanwhile")

		// One at a time, and twice as long each time.
		after(10 * time.Minute)
		at := sender.at
		least := RestMin
		for i := 3; i < len(at); i++ {
			require.WithinRange(t, at[i], at[i-1].Add(least), at[i-1].Add(least*3/2+2*time.Millisecond), "attempt %d", i)
			least = min(2*least, RestMax*2/3)
		}
		require.Equal(t, RestMax*2/3, least)
		require.Empty(t, s.back())
		require.Len(t, s.settled(), len(at))

		// It is well again: all the rest goes at once.
		status.Store(200)
		after(RestMax)
		require.Equal(t, StateActive, p.Status()[0].State)
		require.Zero(t, p.Status()[0].Failures)
		require.EqualValues(t, 20, p.Status()[0].Delivered)

		// And the next time begins with the least again.
		status.Store(500)
		s.publish("a", messages("n", 5)...)
		after(100 * time.Millisecond)
		is = p.Status()[0]
		require.Equal(t, StateResting, is.State)
		require.Less(t, is.Until.Sub(is.Since), 2*RestMin)
	})
}

func TestWhileProbingOneRequestIsUnderWay(t *testing.T) {
	t.Parallel()
	var underWay, most atomic.Int32
	var isWell atomic.Bool
	sender := senderFunc(func(context.Context, Request) Result {
		if isWell.Load() {
			most.Store(max(most.Load(), underWay.Add(1)))
			defer underWay.Add(-1)
			<-time.After(2 * time.Second)
			return Result{Status: 500, Sent: true}
		}
		return Result{Err: errConnect}
	})
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.put("a", hook(map[string]any{"breakerFailures": 4, "concurrency": 4}))
		s.publish("a", messages("m", 20)...)
		after(100 * time.Millisecond)
		require.Equal(t, StateResting, p.Status()[0].State)
		isWell.Store(true)
		after(2*RestMin + 100*time.Millisecond)
		require.Equal(t, StateProbing, p.Status()[0].State)
		require.Equal(t, 1, p.Status()[0].InFlight)
		after(10 * time.Second)
		require.EqualValues(t, 1, most.Load())
	})
}

// What is in hand when a rest begins goes back, and is no failure.
func TestWhatIsInHandGoesBackWhenARestBegins(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: senderFunc(func(_ context.Context, r Request) Result {
		if r.ID == "slow0" {
			<-time.After(2 * time.Second)
			return Result{Status: 503, RetryAfter: time.Minute, Sent: true}
		}
		return Result{Status: 200, Sent: true}
	})}
	bubbleWith(t, sender, func(how *pace) { how.requestsMax = 1 }, func(t *testing.T, s *store, p *Pusher) {
		s.put("a", hook(nil))
		// Both are leased; the second waits for the only place.
		s.publish("a", append(messages("slow", 1), messages("m", 1)...)...)
		after(time.Second)
		require.Equal(t, []string{"slow0"}, sender.ids())
		require.Equal(t, 2, p.Status()[0].InFlight)
		after(2 * time.Second)
		require.Equal(t, []string{"slow0"}, sender.ids())
		require.Equal(t, []string{"m0"}, s.back())
		require.Equal(t, StateResting, p.Status()[0].State)
		require.Equal(t, 1, p.Status()[0].Failures)
		after(time.Minute)
		require.Contains(t, sender.ids(), "m0")
		for _, o := range s.settled() {
			require.True(t, o.OK || o.StatusCode == http.StatusServiceUnavailable)
		}
	})
}

func TestRetryAfterRestsTheEndpoint(t *testing.T) {
	t.Parallel()
	tries := atomic.Int32{}
	sender := &sent{Sender: senderFunc(func(context.Context, Request) Result {
		if tries.Add(1) == 1 {
			return Result{Status: http.StatusTooManyRequests, RetryAfter: 90 * time.Second, Sent: true}
		}
		return Result{Status: 200, Sent: true}
	})}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.put("a", hook(map[string]any{"concurrency": 1}))
		s.publish("a", messages("m", 3)...)
		after(time.Second)
		is := p.Status()[0]
		require.Equal(t, StateResting, is.State)
		require.Equal(t, is.Since.Add(90*time.Second), is.Until)
		after(88 * time.Second)
		require.Equal(t, 1, sender.count())
		after(3 * time.Second)
		require.Equal(t, 4, sender.count())
		require.Equal(t, StateActive, p.Status()[0].State)
	})
}

func TestFailuresThatLastPauseTheSubscription(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: answers(502)}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		began := time.Now()
		s.put("a", hook(map[string]any{"breakerFailures": 2, "pauseAfterMs": 600_000}))
		s.publish("a", messages("m", 20)...)
		after(9 * time.Minute)
		require.Empty(t, s.said())
		after(3 * time.Minute)
		require.Equal(t, []string{
			"suspend a: deliveries fail since " + began.UTC().Format(time.RFC3339) + ": HTTP 502 Bad Gateway",
		}, s.said())
		require.Empty(t, p.Status())
		n := sender.count()
		after(time.Hour)
		require.Equal(t, n, sender.count())
	})
}

// A message now and then that fails is not an endpoint that fails.
func TestASuccessBetweenFailuresStartsTheClockAnew(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	sender := senderFunc(func(context.Context, Request) Result {
		if n.Add(1)%3 == 0 {
			return Result{Status: 200, Sent: true}
		}
		return Result{Status: 500, Sent: true}
	})
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.do(func() { s.retryAfter = time.Minute })
		s.put("a", hook(map[string]any{"breakerFailures": 3, "pauseAfterMs": 100_000, "concurrency": 1}))
		s.publish("a", messages("m", 30)...)
		after(time.Hour)
		require.Empty(t, s.said())
		require.Equal(t, StateActive, p.Status()[0].State)
		require.EqualValues(t, 30, p.Status()[0].Delivered)
	})
}

// Few failures that last are not enough: the rate of messages says nothing about the endpoint.
func TestFewFailuresDoNotPauseTheSubscription(t *testing.T) {
	t.Parallel()
	bubble(t, answers(500), func(t *testing.T, s *store, _ *Pusher, _ func()) {
		s.do(func() { s.retryAfter = time.Hour })
		s.put("a", hook(map[string]any{"breakerFailures": 5, "pauseAfterMs": 1000}))
		s.publish("a", messages("m", 1)...)
		after(3*time.Hour + time.Minute)
		require.Len(t, s.settled(), 4)
		require.Empty(t, s.said())
		after(time.Hour)
		require.Len(t, s.said(), 1)
	})
}
