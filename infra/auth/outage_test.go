package auth

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// faults are the ways in which an auth service can fail.
var faults = map[string]http.HandlerFunc{
	"500":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	"404":       http.NotFound,
	"204":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	"garbage":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Wait a moment") },
	"empty set": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys":[]}`) },
	"hangs up":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"cut": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "9000")
		_, _ = io.WriteString(w, `{"keys":[`)
	},
	"too large": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"keys":[],"x":"`+strings.Repeat("x", SetBytesMax)+`"}`)
	},
	"huge header": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 2*headerBytesMax))
	},
	"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, strings.Repeat(" ", SetBytesMax+1))
		_ = z.Close()
	},
	"endless": func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
				return
			}
		}
	},
	"redirects": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
}

func TestNoSetYet(t *testing.T) {
	t.Parallel()
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 0)
			require.ErrorIs(t, b.Ready(), ErrUnavailable)
			b.service.do(fault)
			for range 3 {
				b.requireError(t, signers[0].token(nil, nil), ErrUnavailable, "since 2026-01-31T08:00:00Z: fetch keys")
			}
			require.ErrorIs(t, b.Ready(), ErrUnavailable)
			require.Error(t, b.Degraded())
			require.EqualValues(t, 1, b.service.fetches.Load())
			// What needs no key to be refused is refused.
			b.requireError(t, "x.y.z", ErrInvalid, "not a JWT")
		})
	}
}

func TestLastGoodSetStays(t *testing.T) {
	t.Parallel()
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 5*time.Millisecond)
			b.run(t)
			require.Eventually(t, func() bool { return b.Ready() == nil }, 5*time.Second, time.Millisecond)
			require.NoError(t, b.Degraded())
			healthy := *b.service.answer.Load()

			b.service.do(fault)
			require.Eventually(t, func() bool { return b.Degraded() != nil }, 5*time.Second, time.Millisecond)
			// Failures are retried, and said once.
			seen := b.service.fetches.Load()
			require.Eventually(t, func() bool { return b.service.fetches.Load() > seen+1 }, 10*time.Second, time.Millisecond)
			b.clock.forward(30 * time.Minute)
			for _, s := range signers {
				b.requireGood(t, s.token(nil, nil))
			}
			require.NoError(t, b.Ready())
			// It may be the key of a rotation that we could not hear of.
			b.requireError(t, signer{"new", jwt.SigningMethodEdDSA, edOther}.token(nil, nil), ErrUnavailable, "since")

			b.service.do(healthy)
			require.Eventually(t, func() bool { return b.Degraded() == nil }, 10*time.Second, time.Millisecond)
			require.Equal(t, 1, b.logs.count(logGone))
			require.Equal(t, 1, b.logs.count(logBack))
			require.Equal(t, 1, b.logs.count(logChanged))
		})
	}
}

func TestAuthServiceThatStartsAfterUs(t *testing.T) {
	t.Parallel()
	b := setup(t, RefreshDefault)
	healthy := *b.service.answer.Load()
	b.service.fail()
	b.run(t)
	require.Eventually(t, func() bool { return b.Degraded() != nil }, 5*time.Second, time.Millisecond)
	b.service.do(healthy)
	require.Eventually(t, func() bool { return b.Ready() == nil }, 20*time.Second, time.Millisecond)
	b.requireGood(t, signers[0].token(nil, nil))
}

func TestPause(t *testing.T) {
	t.Parallel()
	for failures, want := range []time.Duration{RefreshDefault, RetryMin, 2 * RetryMin, 4 * RetryMin, 8 * RetryMin, 16 * RetryMin, RetryMax, RetryMax} {
		require.Equal(t, want, pause(RefreshDefault, failures))
	}
	require.Equal(t, RetryMax, pause(RefreshDefault, 1<<40))
	require.Equal(t, time.Millisecond, pause(time.Millisecond, 3))
}

func TestLargestAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	body, err := json.Marshal(map[string]any{"keys": []any{signers[0].jwk(nil)}})
	require.NoError(t, err)
	b.service.say(string(body) + strings.Repeat(" ", SetBytesMax-len(body)))
	b.requireGood(t, signers[0].token(nil, nil))
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	t.Cleanup(elsewhere.Close)
	for _, client := range []*http.Client{nil, {}} {
		service := newAuthService(t)
		service.do(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		})
		v := New(Config{URL: service.url, Client: client})
		_, err := v.Verify(t.Context(), signers[0].token(nil, nil))
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorContains(t, err, "status is 307")
		require.True(t, client == nil || client.CheckRedirect == nil, "the given client is left alone")
	}
	require.Zero(t, followed.Load())
}

func TestHangingAuthService(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	left := make(chan struct{})
	b.service.do(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(left) })

	// A caller that leaves does not wait, and does not end the fetch for the others.
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := b.Verify(ctx, signers[0].token(nil, nil))
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)

	began := time.Now()
	b.requireError(t, signers[0].token(nil, nil), ErrUnavailable, "deadline exceeded")
	require.Less(t, time.Since(began), FetchTimeout+2*time.Second)
	<-left
	require.EqualValues(t, 1, b.service.fetches.Load())
}

// watchedContext says when somebody begins to wait for it.
type watchedContext struct {
	context.Context //nolint:containedctx // it is one

	asked func()
}

func (w watchedContext) Done() <-chan struct{} {
	w.asked()
	return w.Context.Done()
}

func TestRunEndsItsFetch(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	b.requireGood(t, signers[0].token(nil, nil))
	arrived := make(chan struct{})
	b.service.do(func(_ http.ResponseWriter, r *http.Request) { close(arrived); <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	<-arrived
	joined, refused := make(chan struct{}), make(chan error)
	go func() {
		waiting := watchedContext{t.Context(), sync.OnceFunc(func() { close(joined) })}
		_, err := b.Verify(waiting, signer{"new", jwt.SigningMethodEdDSA, edOther}.token(nil, nil))
		refused <- err
	}()
	<-joined
	began := time.Now()
	cancel()
	<-done
	require.ErrorIs(t, <-refused, ErrUnavailable, "nobody knows whether its key is good")
	require.Less(t, time.Since(began), FetchTimeout/2)
	require.Zero(t, b.logs.count(logGone), "an end is no fault of the auth service")
}
