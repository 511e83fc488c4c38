package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Times of fetching.
const (
	// RefreshDefault is the time between background fetches.
	RefreshDefault = 5 * time.Minute
	// DemandInterval is the least time between two fetches for unknown keys.
	DemandInterval = 10 * time.Second
	// RetryMin and RetryMax bound the time after which a failed background fetch is
	// tried again; it doubles.
	RetryMin = time.Second
	RetryMax = 30 * time.Second
)

// keySource holds the current set and fetches the next one.
type keySource struct {
	url        string
	client     *http.Client
	ownsClient bool
	now        func() time.Time
	log        *slog.Logger
	every      time.Duration

	set atomic.Pointer[keySet]

	mu         sync.Mutex
	flight     *flight   // the fetch that is under way
	demandedAt time.Time // when the last fetch for an unknown key began
	fault      error     // of the last fetch; nil if it was good
	faultSince time.Time
}

// flight is one fetch, which many may wait for.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
	err    error // to be read after done
}

func newKeySource(cfg Config) *keySource {
	s := &keySource{
		url: strings.TrimRight(cfg.URL, "/") + "/.well-known/jwks.json",
		now: cfg.Now, log: cfg.Logger, every: cmp.Or(max(cfg.RefreshEvery, 0), RefreshDefault),
		ownsClient: cfg.Client == nil, client: newClient(cfg.Client),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s
}

func (s *keySource) current() *keySet { return s.set.Load() }

// find returns a key of the current set, which it fetches if it lacks the key and
// that is allowed.
func (s *keySource) find(ctx context.Context, kid string) (key, *keySet, error) {
	set := s.current()
	if k, ok := set.find(kid); ok {
		return k, set, nil
	}
	var failed error
	if f := s.demand(); f != nil {
		select {
		case <-f.done:
			failed = f.err
		case <-ctx.Done():
			return key{}, nil, &unavailableError{cause: ctx.Err()}
		}
	}
	set = s.current()
	if k, ok := set.find(kid); ok {
		return k, set, nil
	}
	// The key may be a new one that we could not hear of.
	if err := cmp.Or(s.degraded(), s.ready(), failed); err != nil {
		return key{}, nil, &unavailableError{cause: err}
	}
	return key{}, nil, reasonError("its key is not known")
}

// demand returns the fetch that an unknown key must wait for: the one under way, a
// new one, or nil if the last was too short a time ago.
func (s *keySource) demand() *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight
	}
	now := s.now()
	// Abs: a clock that was set back must not stop fetches for longer.
	if !s.demandedAt.IsZero() && now.Sub(s.demandedAt).Abs() < DemandInterval {
		return nil
	}
	s.demandedAt = now
	return s.launch()
}

// launch needs the lock. The fetch has a time of its own: those who wait for it may
// leave before it ends.
func (s *keySource) launch() *flight {
	ctx, cancel := context.WithTimeout(context.Background(), FetchTimeout)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	s.flight = f
	go func() {
		defer cancel()
		set, ignored, err := fetch(ctx, s.client, s.url)
		s.land(f, set, ignored, err)
	}()
	return f
}

// land takes what a fetch brought.
func (s *keySource) land(f *flight, set *keySet, ignored []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	s.flight, f.err = nil, err
	before := s.fault
	switch {
	case errors.Is(err, context.Canceled): // by us, at the end
		return
	case err != nil:
		s.fault = err
		if before == nil {
			s.faultSince = s.now()
			s.log.Warn("The auth service gives no keys; the last good ones stay in use", "error", err, "keys", s.count())
		}
		return
	case before != nil:
		s.fault = nil
		s.log.Info("The auth service gives keys again", "after", s.now().Sub(s.faultSince))
	}
	if s.current().equal(set) {
		return // the old one remembers good tokens
	}
	s.set.Store(set)
	s.log.Info("The keys of tokens changed", "keys", s.count(), "ignored", ignored)
}

func (s *keySource) count() int {
	if set := s.current(); set != nil {
		return len(set.keys)
	}
	return 0
}

// run fetches until ctx ends, and leaves nothing running.
func (s *keySource) run(ctx context.Context) {
	defer s.stop()
	failures := 0
	for {
		if failures++; s.refresh(ctx) == nil {
			failures = 0
		}
		wait := pause(s.every, failures)
		// Instances that started together do not fetch together.
		wait -= rand.N(wait/10 + 1) //nolint:gosec // nobody gains by guessing it
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// pause is how long to wait after so many failures in a row.
func pause(every time.Duration, failures int) time.Duration {
	if failures == 0 {
		return every
	}
	retry := RetryMin
	for ; failures > 1 && retry < RetryMax; failures-- {
		retry *= 2
	}
	return min(every, retry, RetryMax)
}

// refresh waits for a fetch: the one under way or a new one.
func (s *keySource) refresh(ctx context.Context) error {
	s.mu.Lock()
	f := s.flight
	if f == nil {
		f = s.launch()
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("wait for keys: %w", ctx.Err())
	}
}

func (s *keySource) stop() {
	s.mu.Lock()
	f := s.flight
	s.mu.Unlock()
	if f != nil {
		f.cancel()
		<-f.done
	}
	if s.ownsClient {
		s.client.CloseIdleConnections()
	}
}

func (s *keySource) ready() error {
	if s.current() != nil {
		return nil
	}
	if err := s.degraded(); err != nil {
		return &unavailableError{cause: err}
	}
	return fmt.Errorf("%w: no keys were fetched yet", ErrUnavailable)
}

func (s *keySource) degraded() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil {
		return nil
	}
	return fmt.Errorf("since %s: %w", s.faultSince.UTC().Format(time.RFC3339), s.fault)
}
