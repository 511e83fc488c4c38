package web

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// CodeRateLimited says that a limit on what may be sent, or wait, is reached.
const CodeRateLimited = "MQ_RATE_LIMITED"

// Limits on slow bodies. A body of B bytes has B/BodyBytesPerSecondMin seconds and
// the grace.
const (
	// BodyBytesPerSecondMin is how fast a body must come.
	BodyBytesPerSecondMin = 16 << 10
	// BodyGrace is what a body may take longer, and how long it may stand still.
	BodyGrace = 10 * time.Second
)

// The header fields of rate limits, as http.Header keeps them.
const (
	headerRateLimit       = "Ratelimit"
	headerRateLimitPolicy = "Ratelimit-Policy"
)

// RateLimiter decides how much a tenant may send.
type RateLimiter interface {
	// Policy is the value of the RateLimit-Policy header field, "" for none.
	Policy() string
	// Admit charges a request with a body of so many bytes, -1 for not known. It
	// returns the value of the RateLimit header field, and a Limited where the
	// request must not go on.
	Admit(tenant string, bodyBytes int64, now time.Time) (state string, err error)
	// Spend charges what was read of a body of unknown length.
	Spend(tenant string, bytes int64, now time.Time)
}

// Limited is an error that says which limit is reached.
type Limited interface {
	error
	// Limit names the limit and says what it allows.
	Limit() (name, allowed string)
	// RetryAfter is how long to wait before trying again.
	RetryAfter() time.Duration
}

// RateLimited is the 429 for a [Limited] error; another error stays what it is.
func RateLimited(err error) error {
	limited, ok := errors.AsType[Limited](err)
	if !ok {
		return err
	}
	name, allowed := limited.Limit()
	return &Error{
		Status: http.StatusTooManyRequests, Code: CodeRateLimited,
		Message:     "too many " + name + "; allowed: " + allowed,
		Details:     []Detail{{Field: name, Limit: allowed, Problem: "are used up"}},
		RetryAfterS: max(1, int((limited.RetryAfter()+time.Second-1)/time.Second)),
	}
}

// RateLimit holds each tenant to what limiter allows, and tells callers what is left
// with every answer. A request without a tenant, "", passes. It reads no body: one
// that announces its length is charged before its first byte is read.
func RateLimit(limiter RateLimiter, tenantOf func(echo.Context) string) echo.MiddlewareFunc {
	policy := []string{limiter.Policy()}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			tenant := tenantOf(c)
			if tenant == "" {
				return next(c)
			}
			r := c.Request()
			state, err := limiter.Admit(tenant, r.ContentLength, time.Now())
			if state != "" {
				header := c.Response().Header()
				header[headerRateLimitPolicy] = policy
				header[headerRateLimit] = []string{state}
			}
			if err != nil {
				return RateLimited(err)
			}
			if r.ContentLength < 0 {
				r.Body = &meteredBody{ReadCloser: r.Body, spend: func(bytes int64) { limiter.Spend(tenant, bytes, time.Now()) }}
			}
			return next(c)
		}
	}
}

// meteredBody charges a body as it is read.
type meteredBody struct {
	io.ReadCloser

	spend func(bytes int64)
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.spend(int64(n))
	return n, err //nolint:wrapcheck // io.EOF must stay itself
}

// SlowBodies cuts off a client whose body comes slower than bytesPerSecond, after a
// grace, or stands still for longer than the grace: its connection is closed, with a
// 400 if it still listens. It replaces the server's ReadTimeout, which is either too
// short for a large body or too long for a dripping one, and which would also end
// answers that stream: while a body is read its deadline is moved, and when all of it
// is there, none is left. bytesPerSecond is at least 1.
//
// It must stand before whatever refuses requests, for what a handler leaves unread,
// the server reads. Where the connection has no deadlines, nothing is cut off.
func SlowBodies(bytesPerSecond int64, grace time.Duration) echo.MiddlewareFunc {
	bytesPerSecond = max(1, bytesPerSecond)
	limit := fmt.Sprintf("at least %d bytes per second, and no pause longer than %s", bytesPerSecond, grace)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			r := c.Request()
			if r.ContentLength == 0 {
				return next(c)
			}
			b := &timedBody{
				ReadCloser: r.Body, control: http.NewResponseController(c.Response()),
				started: time.Now(), bytesPerSecond: bytesPerSecond, grace: grace,
			}
			if err := b.control.SetReadDeadline(b.started.Add(grace)); err != nil {
				if errors.Is(err, http.ErrNotSupported) {
					return next(c)
				}
				return fmt.Errorf("bound the time for a body: %w", err)
			}
			r.Body = b
			err := next(c)
			if b.late && err != nil && !c.Response().Committed {
				c.Response().Header().Set(echo.HeaderConnection, "close")
				return Invalid(Detail{Field: "body", Limit: limit, Problem: "came too slowly"})
			}
			return err
		}
	}
}

// timedBody gives each read of a body the time that is left for it.
type timedBody struct {
	io.ReadCloser

	control        *http.ResponseController
	started        time.Time
	bytesPerSecond int64
	grace          time.Duration
	bytes          int64
	// late: the time was over before the body was.
	late bool
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		// The server may read on, within the deadline that there is.
		b.late = errors.Is(err, os.ErrDeadlineExceeded)
		return n, err //nolint:wrapcheck // the connection's own
	}
	var deadline time.Time // none
	if err == nil {
		deadline = b.deadline(time.Now())
	}
	if failed := b.control.SetReadDeadline(deadline); failed != nil {
		return n, fmt.Errorf("bound the time for a body: %w", failed)
	}
	return n, err //nolint:wrapcheck // io.EOF must stay itself
}

// deadline is when the next bytes must have come.
func (b *timedBody) deadline(now time.Time) time.Time {
	due := b.started.Add(b.grace + time.Duration(float64(b.bytes)/float64(b.bytesPerSecond)*float64(time.Second)))
	if pause := now.Add(b.grace); pause.Before(due) {
		return pause
	}
	return due
}

// RawUnavailable is a whole HTTP/1.1 answer that says 503, for a connection that is
// closed before its request is read.
func RawUnavailable(message string) []byte {
	body := fmt.Sprintf(`{"code":%q,"message":%q,"retryAfter":1}`, CodeUnavailable, message)
	return []byte(strings.Join([]string{
		"HTTP/1.1 503 Service Unavailable",
		"Content-Type: " + echo.MIMEApplicationJSON,
		fmt.Sprintf("Content-Length: %d", len(body)),
		"Retry-After: 1",
		"Connection: close",
		"", body,
	}, "\r\n"))
}
