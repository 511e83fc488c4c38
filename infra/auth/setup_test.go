package auth

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authService stands in for the platform's, over real HTTP.
type authService struct {
	url     string
	fetches atomic.Int64
	answer  atomic.Pointer[http.HandlerFunc]
}

func newAuthService(tb testing.TB, keys ...map[string]any) *authService {
	a := &authService{}
	a.publish(keys...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/jwks.json" {
			http.NotFound(w, r)
			return
		}
		a.fetches.Add(1)
		(*a.answer.Load())(w, r)
	}))
	tb.Cleanup(server.Close)
	a.url = server.URL
	return a
}

func (a *authService) publish(keys ...map[string]any) {
	data, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	a.say(string(data))
}

func (a *authService) say(body string) {
	a.do(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
}

func (a *authService) fail() {
	a.do(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
}

func (a *authService) do(h http.HandlerFunc) { a.answer.Store(&h) }

// clock is a time that stands still until it is moved.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(testNow.UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

// logs is what was logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), message)
}

type bundle struct {
	*Verifier

	service *authService
	clock   *clock
	logs    *logs
}

// setup gives a verifier whose auth service publishes every signer's key.
func setup(tb testing.TB, refreshEvery time.Duration) *bundle {
	var keys []map[string]any
	for _, s := range signers {
		keys = append(keys, s.jwk(nil))
	}
	b := &bundle{service: newAuthService(tb, keys...), clock: newClock(), logs: &logs{}}
	b.Verifier = New(Config{
		URL: b.service.url + "/", Issuer: testIssuer, Audience: testAudience, Now: b.clock.now,
		Logger: slog.New(slog.NewTextHandler(b.logs, nil)), RefreshEvery: refreshEvery,
	})
	tb.Cleanup(b.keys.client.CloseIdleConnections)
	return b
}

// run starts the background fetches, and at the end waits for theirs.
func (b *bundle) run(tb testing.TB) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(tb.Context())
	}()
	tb.Cleanup(func() { <-done }) // the test's context ends before
}

func (b *bundle) requireGood(tb testing.TB, token string) {
	_, err := b.Verify(tb.Context(), token)
	require.NoError(tb, err)
}

// requireError also holds an error's text against the token's parts.
func (b *bundle) requireError(tb testing.TB, token string, target error, text string) {
	claims, err := b.Verify(tb.Context(), token)
	require.ErrorIs(tb, err, target)
	require.ErrorContains(tb, err, text)
	require.Zero(tb, claims)
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 {
			require.NotContains(tb, err.Error(), part)
		}
	}
}
