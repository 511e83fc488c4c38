package delivery

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

// gauge is a Sender that takes a while and knows how many requests were under way.
type gauge struct {
	takes     time.Duration
	now, most atomic.Int32
}

func (g *gauge) Send(context.Context, Request) Result {
	now := g.now.Add(1)
	defer g.now.Add(-1)
	for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); {
		most = g.most.Load()
	}
	<-time.After(g.takes)
	return Result{Status: 200, Sent: true}
}

func TestConcurrencyIsKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		concurrency int
		want        int
	}{"the webhook's": {3, 3}, "the service's": {0, 4}, "the largest": {commands.WebhookConcurrencyMax, commands.WebhookConcurrencyMax}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &gauge{takes: time.Second}
			bubble(t, g, func(t *testing.T, s *store, p *Pusher, _ func()) {
				s.put("a", hook(map[string]any{"concurrency": c.concurrency}))
				s.publish("a", messages("m", 4*c.want)...)
				after(500 * time.Millisecond)
				require.Equal(t, c.want, p.Status()[0].InFlight)
				s.do(func() { require.Len(t, s.leases, c.want, "leases are for requests that have begun") })
				after(3600 * time.Millisecond)
				require.EqualValues(t, c.want, g.most.Load())
				require.Len(t, s.settled(), 4*c.want)
				s.do(func() { require.Equal(t, c.want, s.mostAsked) })
			})
		})
	}
}

func TestTheRateIsKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rate  float64
		burst int
		for10 int
	}{
		"slower than one":  {0.5, 1, 6},
		"one":              {1, 1, 11},
		"with a burst":     {5, 5, 55},
		"not a whole rate": {2.5, 2, 27},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender := &sent{Sender: answers(200)}
			bubble(t, sender, func(t *testing.T, s *store, _ *Pusher, _ func()) {
				s.put("a", hook(map[string]any{"ratePerSecond": c.rate, "concurrency": 64}))
				s.publish("a", messages("m", 100)...)
				after(debounce + time.Millisecond)
				require.Equal(t, c.burst, sender.count())
				after(10*time.Second + 10*time.Millisecond)
				require.InDelta(t, c.for10, sender.count(), 1)
				s.do(func() { require.Empty(t, s.leases, "what waits for its turn is not leased") })
			})
		})
	}
}

func TestRequestsOfAllSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	g := &gauge{takes: time.Second}
	bubbleWith(t, g, func(how *pace) { how.requestsMax = 10 }, func(t *testing.T, s *store, p *Pusher) {
		for i := range 20 {
			id := fmt.Sprint("sub", i)
			s.put(id, hook(map[string]any{"concurrency": 2}))
			s.publish(id, messages(id, 5)...)
		}
		after(time.Minute)
		require.EqualValues(t, 10, g.most.Load())
		require.Len(t, s.settled(), 100)
		require.Empty(t, s.lapsed())
		require.Empty(t, p.requests)
	})
}

func TestTheBoundOfRequests(t *testing.T) {
	t.Parallel()
	p, err := New(newStore().config(answers(200)))
	require.NoError(t, err)
	require.Equal(t, RequestsMax, cap(p.requests))
}

// A message that finds no place goes back in time, and is no failure.
func TestWhatFindsNoPlaceGoesBack(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: &gauge{takes: 9 * time.Second}}
	bubbleWith(t, sender, func(how *pace) { how.requestsMax = 1 }, func(t *testing.T, s *store, _ *Pusher) {
		s.put("a", hook(map[string]any{"timeoutMs": 20_000}))
		s.publish("a", messages("m", 2)...)
		after(admitMax + time.Second)
		require.Equal(t, []string{"m1"}, s.back())
		require.Equal(t, []string{"m0"}, sender.ids())
		after(20 * time.Second)
		require.Equal(t, []string{"m0", "m1"}, sender.ids())
		require.Len(t, s.settled(), 2)
		require.Empty(t, s.lapsed())
	})
}

func TestIdleSubscriptionsCostNextToNothing(t *testing.T) { //nolint:paralleltest // it counts goroutines
	const many = 1000
	sender := &sent{Sender: answers(200)}
	before := runtime.NumGoroutine()
	inBubble(t, sender, func(*pace) {}, func(t *testing.T, s *store, p *Pusher, _ func()) {
		for i := range many {
			s.put(fmt.Sprint("sub", i), hook(nil))
		}
		after(2 * time.Second)
		require.Len(t, p.Status(), many)
		after(takeWait / 2)
		s.do(func() {
			require.Equal(t, many, s.waiting)
			for id, n := range s.takes {
				require.Equal(t, 1, n, id)
			}
		})
		goroutines := runtime.NumGoroutine() - before
		require.LessOrEqual(t, goroutines, 4*many+50)
		s.publish("sub500", messages("m", 1)...)
		after(time.Millisecond)
		require.Equal(t, 1, sender.count())
		after(2 * takeWait)
		require.LessOrEqual(t, s.asked("sub1"), 4)
	})
}
