package delivery

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// post is a plain Sender over HTTP.
type post struct{ client *http.Client }

func newPost(t testing.TB) post {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return post{client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (p post) Send(ctx context.Context, r Request) Result {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return Result{Err: &PermanentError{err}}
	}
	req.Header = r.Header
	req.Header.Set("Content-Type", r.ContentType)
	req.Header.Set("Webhook-Id", r.ID)
	resp, err := p.client.Do(req)
	if err != nil {
		return Result{Err: err, Sent: true}
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return Result{Status: resp.StatusCode, Sent: true, RetryAfter: time.Duration(seconds) * time.Second}
}

// quick is a pace at which tests see everything happen.
func quick() pace {
	how := usual()
	how.grace, how.settleGrace, how.restMin, how.restMax = 2*time.Second, time.Second, 10*time.Millisecond, 50*time.Millisecond
	how.debounce, how.retryMin, how.retryMax = time.Millisecond, time.Millisecond, 20*time.Millisecond
	return how
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	require.Eventually(t, is, 20*time.Second, 2*time.Millisecond)
}

func TestReceiversGetMessagesOverHTTP(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string]int{}
	var n atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if n.Add(1)%5 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		got[r.Header.Get("Webhook-Id")+string(body)]++
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(receiver.Close)
	s := newStore()
	s.retryAfter = time.Millisecond
	p, err := build(s.config(newPost(t)), quick())
	require.NoError(t, err)
	run(t, p)
	s.put("a", map[string]any{"url": receiver.URL, "concurrency": 8})
	s.publish("a", messages("m", 200)...)
	eventually(t, func() bool { return delivered(p) == 200 })
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, got, 200)
	for id, times := range got {
		require.Equal(t, 1, times, id)
	}
	require.Len(t, s.settled(), int(n.Load()), "each request is an attempt of the log")
}

func TestAReceiverThatIsGoneOrAwayOverHTTP(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }))
	t.Cleanup(gone.Close)
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	elsewhere := httptest.NewServer(http.RedirectHandler(gone.URL, http.StatusTemporaryRedirect))
	t.Cleanup(elsewhere.Close)
	s := newStore()
	s.retryAfter = time.Millisecond
	p, err := build(s.config(newPost(t)), quick())
	require.NoError(t, err)
	run(t, p)
	for id, url := range map[string]string{"gone": gone.URL, "away": away.URL, "elsewhere": elsewhere.URL} {
		s.put(id, map[string]any{"url": url, "breakerFailures": 2, "pauseAfterMs": 1000})
		s.publish(id, messages(id, 5)...)
	}
	eventually(t, func() bool { return len(s.said()) == 3 && len(p.Status()) == 0 })
	require.Contains(t, s.said(), "stop gone: the endpoint answered HTTP 410 Gone")
	for _, o := range s.settled() {
		require.False(t, o.OK)
	}
}

// noDelay is a Sender that takes everything at once.
type noDelay struct{}

func (noDelay) Send(context.Context, Request) Result { return Result{Status: 204, Sent: true} }

func BenchmarkDeliveries(b *testing.B) {
	for _, concurrency := range []int{1, 8, 64} {
		b.Run(strconv.Itoa(concurrency), func(b *testing.B) {
			s := newStore()
			p, err := New(s.config(noDelay{}))
			require.NoError(b, err)
			run(b, p)
			s.publish("a", messages("m", b.N)...)
			b.ReportAllocs()
			b.ResetTimer()
			s.put("a", hook(map[string]any{"concurrency": concurrency}))
			for {
				if is := p.Status(); len(is) == 1 && is[0].Delivered == int64(b.N) {
					break
				}
				<-time.After(100 * time.Microsecond)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// delivered is how many messages the only subscription's endpoint has taken.
func delivered(p *Pusher) int64 {
	if is := p.Status(); len(is) == 1 {
		return is[0].Delivered
	}
	return 0
}
