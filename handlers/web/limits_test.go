package web

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/limits"
)

// frozen is a limiter for which no time passes.
type frozen struct {
	*limits.Limiter

	at time.Time
}

func (f frozen) Admit(tenant string, bodyBytes int64, _ time.Time) (state string, err error) {
	return f.Limiter.Admit(tenant, bodyBytes, f.at)
}

func (f frozen) Spend(tenant string, bytes int64, _ time.Time) {
	f.Limiter.Spend(tenant, bytes, f.at)
}

// limited is an edge with a limiter; the tenant is in a header.
func limited(t testing.TB, r limits.Rates) (*echo.Echo, frozen) {
	t.Helper()
	now := time.Now()
	inner, err := limits.NewLimiter(r, now)
	require.NoError(t, err)
	limiter := frozen{inner, now}
	e := echo.New()
	e.HTTPErrorHandler = ErrorHandler(slog.New(slog.DiscardHandler))
	e.Use(RateLimit(limiter, func(c echo.Context) string { return c.Request().Header.Get("Tenant") }))
	e.POST("/", func(c echo.Context) error {
		if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	})
	return e, limiter
}

func send(e *echo.Echo, tenant, body string, length int64) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.ContentLength = length
	r.Header.Set("Tenant", tenant)
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, r)
	return rec
}

func TestRateLimitAnswers(t *testing.T) {
	t.Parallel()
	e, _ := limited(t, limits.Rates{Requests: limits.Rate{PerSecond: 1, Burst: 3}, Bytes: limits.Rate{PerSecond: 1, Burst: 100}})
	// given what is allowed, then the answer says what is left
	for left := 2; left >= 0; left-- {
		rec := send(e, "a", "0123456789", 10)
		require.Equal(t, http.StatusNoContent, rec.Code)
		require.Equal(t, `"requests";q=3;w=3, "bytes";q=100;qu="content-bytes";w=100`, rec.Header().Get(headerRateLimitPolicy))
		require.Contains(t, rec.Header().Get(headerRateLimit), fmt.Sprintf(`"requests";r=%d;t=`, left))
		require.Empty(t, rec.Header().Get("Retry-After"))
	}
	// when there is none, then the refusal names the limit and when to come again
	rec := send(e, "a", "", 0)
	require.Equal(t, http.StatusTooManyRequests, rec.Code)
	require.Equal(t, "1", rec.Header().Get("Retry-After"))
	require.Contains(t, rec.Header().Get(headerRateLimit), `"requests";r=0;t=1`)
	var refusal Error
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &refusal))
	require.Equal(t, Error{
		Code: CodeRateLimited, Message: "too many requests per second; allowed: at most 1, at once at most 3", RetryAfterS: 1,
		Details: []Detail{{Field: "requests per second", Limit: "at most 1, at once at most 3", Problem: "are used up"}},
	}, refusal)
	// and another tenant, or nobody's request, goes on
	require.Equal(t, http.StatusNoContent, send(e, "b", "", 0).Code)
	rec = send(e, "", "", 0)
	require.Equal(t, http.StatusNoContent, rec.Code)
	require.Empty(t, rec.Header().Get(headerRateLimit))
}

func TestRateLimitChargesBodies(t *testing.T) {
	t.Parallel()
	e, limiter := limited(t, limits.Rates{Bytes: limits.Rate{PerSecond: 1, Burst: 100}})
	left := func() int64 { return limiter.Take("a", 0, limiter.at).BytesLeft }
	// given a body that says its length, then that is charged
	require.Equal(t, http.StatusNoContent, send(e, "a", strings.Repeat("x", 60), 60).Code)
	require.EqualValues(t, 40, left())
	// given one that does not, then what was read is, beyond what there was
	require.Equal(t, http.StatusNoContent, send(e, "a", strings.Repeat("x", 90), -1).Code)
	require.Zero(t, left())
	rec := send(e, "a", "x", -1)
	require.Equal(t, http.StatusTooManyRequests, rec.Code)
	require.Contains(t, rec.Body.String(), "body bytes per second")
	require.Equal(t, "51", rec.Header().Get("Retry-After"))
}

func TestNoRateLimit(t *testing.T) {
	t.Parallel()
	e, _ := limited(t, limits.Rates{})
	rec := send(e, "a", "x", 1)
	require.Equal(t, http.StatusNoContent, rec.Code)
	require.NotContains(t, rec.Header(), headerRateLimit)
	require.NotContains(t, rec.Header(), headerRateLimitPolicy)
}

func TestRateLimitedLeavesOtherErrorsAlone(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	require.Equal(t, other, RateLimited(other))
	require.NoError(t, RateLimited(nil))
	_, err := limits.NewGate("waiting pulls", 1, 1).Enter("a")
	require.NoError(t, RateLimited(err))
	gate := limits.NewGate("waiting pulls", 1, 1)
	_, err = gate.Enter("a")
	require.NoError(t, err)
	_, err = gate.Enter("a")
	answer, ok := errors.AsType[*Error](RateLimited(fmt.Errorf("pull: %w", err)))
	require.True(t, ok)
	require.Equal(t, http.StatusTooManyRequests, answer.Status)
	require.Equal(t, []Detail{{Field: "waiting pulls per tenant", Limit: "at most 1", Problem: "are used up"}}, answer.Details)
	require.Equal(t, 1, answer.RetryAfterS)
}

func TestHeaderNamesAreCanonical(t *testing.T) {
	t.Parallel()
	require.Equal(t, headerRateLimit, http.CanonicalHeaderKey("RateLimit"))
	require.Equal(t, headerRateLimitPolicy, http.CanonicalHeaderKey("RateLimit-Policy"))
}

// slowServer is a server with short times, which reads bodies to their end.
func slowServer(t *testing.T, bytesPerSecond int64, grace time.Duration) (addr string, results <-chan error) {
	t.Helper()
	read := make(chan error, 100)
	e := echo.New()
	e.HTTPErrorHandler = ErrorHandler(slog.New(slog.DiscardHandler))
	e.Use(SlowBodies(bytesPerSecond, grace))
	e.POST("/", func(c echo.Context) error {
		_, err := io.Copy(io.Discard, c.Request().Body)
		read <- err
		if err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	})
	// What takes longer than any body may, with its body read and with none.
	long := func(c echo.Context) error {
		if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
			return err
		}
		select {
		case <-time.After(3 * grace):
			return c.NoContent(http.StatusNoContent)
		case <-c.Request().Context().Done():
			return c.Request().Context().Err()
		}
	}
	e.POST("/long", long)
	e.GET("/long", long)
	e.POST("/refuse", func(echo.Context) error { return Invalid(Detail{Field: "body", Problem: "is not wanted"}) })
	server := &http.Server{Handler: e, ReadHeaderTimeout: grace, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String(), read
}

// drip writes a piece every so often until the connection ends, and returns what was answered.
func drip(t *testing.T, addr, head, piece string, every time.Duration) (answer string, took time.Duration) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	began := time.Now()
	_, err = io.WriteString(conn, head)
	require.NoError(t, err)
	ended := make(chan string)
	go func() {
		all, _ := io.ReadAll(conn)
		ended <- string(all)
	}()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case answer := <-ended:
			return answer, time.Since(began)
		case <-ticker.C:
			_, _ = io.WriteString(conn, piece)
		}
	}
}

const testGrace = 500 * time.Millisecond

func TestSlowClientsAreCutOffAndOthersAreNot(t *testing.T) {
	t.Parallel()
	const rate = 10_000
	addr, results := slowServer(t, rate, testGrace)
	var wg sync.WaitGroup
	for name, tc := range map[string]struct{ head, piece, answer string }{
		"headers":      {"POST / HTTP/1.1\r\nHost: a\r\nX-Slow: ", "x", ""},
		"body":         {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", "x", "came too slowly"},
		"chunked body": {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", "came too slowly"},
		"fast first":   {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 100*rate-1000), "", "came too slowly"},
		"unread":       {"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", "x", "is not wanted"},
	} {
		wg.Go(func() {
			answer, took := drip(t, addr, tc.head, tc.piece, testGrace/20)
			if !strings.Contains(answer, tc.answer) || (tc.answer != "" && !strings.HasPrefix(answer, "HTTP/1.1 400 ")) {
				t.Errorf("%s: answer %q", name, answer)
			}
			if took < testGrace-testGrace/10 || took > 50*testGrace {
				t.Errorf("%s: cut off after %s", name, took)
			}
		})
	}
	wg.Go(func() {
		// A body faster than the rate may take longer than the grace.
		answer, took := drip(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n", strings.Repeat("x", 500), testGrace/20)
		if !strings.HasPrefix(answer, "HTTP/1.1 204 ") || took < 3*testGrace/2 {
			t.Errorf("a body at its pace: %s %q", took, answer)
		}
	})
	wg.Wait()
	tooLate := 0
	for range 4 {
		if err := <-results; errors.Is(err, os.ErrDeadlineExceeded) {
			tooLate++
		}
	}
	require.Equal(t, 3, tooLate)
	res, err := http.Post("http://"+addr+"/", "text/plain", strings.NewReader("x"))
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, res.StatusCode)
	require.NoError(t, res.Body.Close())
}

func TestADeadlineForBodiesEndsWithThem(t *testing.T) {
	t.Parallel()
	addr, _ := slowServer(t, 1, testGrace/2)
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	answers := bufio.NewReader(conn)
	// given answers that take longer than a body may, on one connection, and between
	// them one whose body nobody read
	for _, tc := range []struct {
		request string
		status  int
	}{
		{"POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", http.StatusNoContent},
		{"POST /long HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", http.StatusNoContent},
		{"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", http.StatusBadRequest},
		{"GET /long HTTP/1.1\r\nHost: a\r\n\r\n", http.StatusNoContent},
	} {
		_, err = io.WriteString(conn, tc.request)
		require.NoError(t, err)
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err, tc.request)
		require.Equal(t, tc.status, res.StatusCode, tc.request)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	}
}

func TestTheTimeForABody(t *testing.T) {
	t.Parallel()
	began := time.Now()
	for _, tc := range []struct {
		bytes     int64
		now, want time.Duration
	}{
		{0, 0, BodyGrace},
		{16 << 10, 5 * time.Second, BodyGrace + time.Second},
		{16 << 20, 1000 * time.Second, 1010 * time.Second}, // the pause counts
		{16 << 20, 1030 * time.Second, 1034 * time.Second}, // the rate does
	} {
		b := &timedBody{started: began, bytesPerSecond: BodyBytesPerSecondMin, grace: BodyGrace, bytes: tc.bytes}
		require.Equal(t, tc.want, b.deadline(began.Add(tc.now)).Sub(began), tc)
	}
}

func TestSlowBodiesWithoutDeadlines(t *testing.T) {
	t.Parallel()
	e := echo.New()
	e.Use(SlowBodies(0, 0))
	e.POST("/", func(c echo.Context) error {
		_, err := io.Copy(io.Discard, c.Request().Body)
		return errors.Join(err, c.NoContent(http.StatusNoContent))
	})
	require.Equal(t, http.StatusNoContent, send(e, "", "x", 1).Code)
}

func TestRawUnavailableIsAnAnswer(t *testing.T) {
	t.Parallel()
	raw := RawUnavailable("too many connections")
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(raw))), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
	require.True(t, res.Close)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	var e Error
	require.NoError(t, json.Unmarshal(body, &e))
	require.Equal(t, Error{Code: CodeUnavailable, Message: "too many connections", RetryAfterS: 1}, e)
}

func BenchmarkRateLimit(b *testing.B) {
	limiter, err := limits.NewLimiter(limits.Rates{
		Requests: limits.Rate{PerSecond: limits.PerSecondMax}, Bytes: limits.Rate{PerSecond: limits.PerSecondMax},
	}, time.Now())
	require.NoError(b, err)
	e := echo.New()
	handler := RateLimit(limiter, func(echo.Context) string { return "00000000-0000-0000-0000-000000000001" })(func(echo.Context) error { return nil })
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("0123456789"))
	c := e.NewContext(r, httptest.NewRecorder())
	b.ReportAllocs()
	for b.Loop() {
		if err := handler(c); err != nil {
			b.Fatal(err)
		}
	}
}
