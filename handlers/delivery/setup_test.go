package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

const tenant = "00000000-0000-0000-0000-000000000001"

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

var errAway = fmt.Errorf("the store is away: %w", commands.ErrUnavailable)

// senderFunc is a Sender.
type senderFunc func(ctx context.Context, r Request) Result

func (f senderFunc) Send(ctx context.Context, r Request) Result { return f(ctx, r) }

// answers is a Sender that says always the same.
func answers(status int) senderFunc {
	return func(context.Context, Request) Result { return Result{Status: status, Sent: true} }
}

// blocked is a request that never gets an answer.
func blocked(ctx context.Context, isSent bool) Result {
	<-ctx.Done()
	return Result{Err: fmt.Errorf("no answer: %w", ctx.Err()), Sent: isSent}
}

// sent is a Sender that keeps what it was given.
type sent struct {
	Sender

	mu       sync.Mutex
	requests []Request
	at       []time.Time
}

func (s *sent) Send(ctx context.Context, r Request) Result {
	s.mu.Lock()
	s.requests, s.at = append(s.requests, r), append(s.at, time.Now())
	s.mu.Unlock()
	return s.Sender.Send(ctx, r)
}

func (s *sent) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, len(s.requests))
	for i, r := range s.requests {
		ids[i] = r.ID
	}
	return ids
}

func (s *sent) count() int { return len(s.ids()) }

func (s *store) config(sender Sender) Config {
	return Config{
		Commands: s, List: s.list, Changed: s.changes, Sender: sender,
		Concurrency: 4, Timeout: 5 * time.Second, Logger: discard(),
	}
}

// bubble runs a test in time that passes at once, with a pusher on a store.
func bubble(t *testing.T, sender Sender, test func(t *testing.T, s *store, p *Pusher, stop func())) {
	t.Helper()
	inBubble(t, sender, func(*pace) {}, test)
}

// bubbleWith is bubble at another pace.
func bubbleWith(t *testing.T, sender Sender, change func(*pace), test func(t *testing.T, s *store, p *Pusher)) {
	t.Helper()
	inBubble(t, sender, change, func(t *testing.T, s *store, p *Pusher, _ func()) { test(t, s, p) })
}

func inBubble(t *testing.T, sender Sender, change func(*pace), test func(t *testing.T, s *store, p *Pusher, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		how := usual()
		change(&how)
		p, err := build(s.config(sender), how)
		require.NoError(t, err)
		stop := run(t, p)
		synctest.Wait()
		test(t, s, p, stop)
		stop()
		s.do(func() {
			for _, l := range s.leases {
				l.expires.Stop()
			}
		})
	})
}

// run runs a pusher; it ends when stop is called, or with the test.
func run(t testing.TB, p *Pusher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// after lets time pass until everything that happens in it has happened.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func hook(more map[string]any) map[string]any {
	out := map[string]any{"url": "https://example.com/hook"}
	maps.Copy(out, more)
	return out
}

var errConnect = errors.New("connection refused")
