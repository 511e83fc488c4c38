package handover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// headerToken is where services of the platform show that they are.
const headerToken = "X-Service-Token"

// Limits of a link's connections.
const (
	connectTimeout    = 5 * time.Second
	idleTimeout       = time.Minute
	answerHeaderMax   = 64 << 10
	keepAliveInterval = 15 * time.Second
	tlsHandshakeLimit = 5 * time.Second
	statusMultiple    = http.StatusMultipleChoices
)

// link is the way to one service, for one kind of things.
type link struct {
	url, token string
	client     *http.Client
	timeout    time.Duration
	// slots has a place for each request under way: waiting for one is not part of a
	// request's time.
	slots  chan struct{}
	health health
}

// link returns a way to a service. It uses no proxy, which would see the token.
func (f *Forwarder) link(name, to string) *link {
	transport := &http.Transport{
		DialContext:     (&net.Dialer{Timeout: connectTimeout, KeepAlive: keepAliveInterval}).DialContext,
		MaxConnsPerHost: ConnectionsMax, MaxIdleConnsPerHost: ConnectionsMax, IdleConnTimeout: idleTimeout,
		TLSHandshakeTimeout: tlsHandshakeLimit, MaxResponseHeaderBytes: answerHeaderMax, DisableCompression: true, ForceAttemptHTTP2: true,
	}
	return &link{
		url: to, token: f.cfg.Token, timeout: f.pace.timeout, slots: make(chan struct{}, ConnectionsMax),
		health: health{logger: f.cfg.Logger, state: TargetStatus{Name: name, State: StateStandby, Since: time.Now()}},
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// answer is what a service said: a status, or err that it said nothing.
type answer struct {
	status     int
	retryAfter time.Duration
	err        error
}

func (a answer) isTaken() bool {
	return a.err == nil && a.status >= http.StatusOK && a.status < statusMultiple
}

// isRefused says that the service does not want this message, and will hardly want it
// later. What may be a wrong address, a wrong token or a service that is being moved is
// none: it is tried for as long as it lasts, and loses nothing.
func (a answer) isRefused() bool {
	switch a.status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return a.err == nil
	default:
		return false
	}
}

// problem is why it was not taken.
func (a answer) problem() error {
	switch {
	case a.err != nil:
		return a.err
	case a.isTaken():
		return nil
	default:
		return fmt.Errorf("%w %s", errAnswered, strings.TrimSpace(strconv.Itoa(a.status)+" "+http.StatusText(a.status)))
	}
}

var errAnswered = errors.New("the service answered")

// post offers something to the service. Its answer's body says nothing to us.
func (l *link) post(ctx context.Context, header http.Header, body []byte) answer {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return answer{err: withoutURL(err)}
	}
	req.Header = header
	if l.token != "" {
		req.Header.Set(headerToken, l.token)
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return answer{err: withoutURL(err)}
	}
	// The rest of it, if any, costs the connection.
	_, _ = io.CopyN(io.Discard, resp.Body, AnswerBytesMax)
	_ = resp.Body.Close()
	return answer{status: resp.StatusCode, retryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// withoutURL takes the URL, which may hold a secret, out of an error.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// retryAfter reads Retry-After (RFC 9110, section 10.2.3): seconds or a date. What is
// neither is 0.
func retryAfter(text string, now time.Time) time.Duration {
	if s, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(max(s, 0), int64(RetryAfterMax/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), RetryAfterMax)
	}
	return 0
}

// backoff is how long to pause before the next try.
type backoff struct{ pauses, least, most, askedMost time.Duration }

func (f *Forwarder) backoff() *backoff {
	return &backoff{pauses: f.pace.backoffMin, least: f.pace.backoffMin, most: f.pace.backoffMax, askedMost: f.pace.retryAfterMax}
}

// next doubles from try to try, with jitter, up to a cap; what the service asked for is
// obeyed where that is longer.
func (b *backoff) next(asked time.Duration) time.Duration {
	d := b.pauses/2 + rand.N(b.pauses/2+1) //nolint:gosec // not a secret
	b.pauses = min(2*b.pauses, b.most)
	return max(d, min(asked, b.askedMost))
}

func (b *backoff) reset() { b.pauses = b.least }

// pause waits and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
