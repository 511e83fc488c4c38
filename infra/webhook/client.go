package webhook

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Bounds of the connections that one Client holds, to all endpoints together.
const (
	// ConnsPerHostMax bounds the connections to one host and port, those being dialled
	// included; a request that finds none waits for one within its timeout.
	ConnsPerHostMax = 128
	// IdleConnsPerHostMax bounds the connections kept for a host's next delivery.
	IdleConnsPerHostMax = 8
	// IdleConnsMax bounds the connections kept for all hosts.
	IdleConnsMax = 1024
	// IdleConnTime is how long a connection is kept without a delivery.
	IdleConnTime = 30 * time.Second

	// DialTime bounds connecting, and then once more the TLS handshake. Both are
	// bounded by the request's timeout too, but a connection that is being made is not
	// given up with its request: the next may use it.
	DialTime = 10 * time.Second

	// pingAfter is how long an HTTP/2 connection with requests under way is silent
	// before it is asked whether it lives, and pingTime how long it has to answer.
	pingAfter = 10 * time.Second
	pingTime  = 5 * time.Second
	// bufferPerConn bounds what the streams of one HTTP/2 connection may send unread.
	bufferPerConn = 1 << 20
)

// DefaultUserAgent is the User-Agent where [Config] names none.
const DefaultUserAgent = "TallyMQ-Webhook"

// Config is what all deliveries have in common.
type Config struct {
	// Allow names the addresses that may be dialled although they are not public: the
	// platform's own services, or loopback in development. It opens these and no more:
	// an IPv4 prefix does not open the IPv6 addresses that translate to it, and no
	// prefix opens 6to4, Teredo, IPv4-mapped, -compatible or -translated addresses or
	// 64:ff9b:1::/48. 64:ff9b::/96, for a network that reaches IPv4 by NAT64, opens
	// those of its addresses whose IPv4 address is public.
	Allow []netip.Prefix
	// UserAgent is sent as it is; "" or no valid value is DefaultUserAgent.
	UserAgent string
}

// Client delivers to any number of endpoints over one pool of connections. It is safe
// for concurrent use.
type Client struct {
	guard     guard
	transport *http.Transport
	userAgent string
}

// New returns a client. It opens nothing yet.
func New(cfg Config) *Client { return newClient(cfg, nil) }

// newClient takes the resolver of names, nil for the system's.
func newClient(cfg Config, resolver *net.Resolver) *Client {
	c := &Client{guard: newGuard(cfg.Allow), userAgent: cfg.UserAgent}
	if c.userAgent == "" || !validFieldValue(c.userAgent) {
		c.userAgent = DefaultUserAgent
	}
	dialer := &net.Dialer{Timeout: DialTime, Resolver: resolver, Control: c.guard.control}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	c.transport = &http.Transport{
		Proxy:                  nil, // a proxy would dial what the guard does not see
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    DialTime,
		DisableCompression:     true, // nobody reads the bodies
		MaxConnsPerHost:        ConnsPerHostMax,
		MaxIdleConnsPerHost:    IdleConnsPerHostMax,
		MaxIdleConns:           IdleConnsMax,
		IdleConnTimeout:        IdleConnTime,
		MaxResponseHeaderBytes: AnswerHeaderMax,
		Protocols:              protocols,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     AnswerBodyMax,
			MaxReceiveBufferPerConnection: bufferPerConn,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTime,
		},
	}
	return c
}

// Close closes the idle connections. Deliveries under way end by their context; a later
// Send connects anew.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Result is what became of a delivery.
type Result struct {
	// Status is the answer's, 0 where none came.
	Status int
	// RetryAfter is how long the receiver asks to be left alone, at most RetryAfterMax;
	// 0 where it does not ask, or has taken the message.
	RetryAfter time.Duration
	// Err says why there is no answer; its text is for the tenant. ErrNotAllowed,
	// ErrRequest and the caller's context's error are told apart by errors.Is.
	Err error
	// Took is the time until the answer's headers were there, or until Err.
	Took time.Duration
}

// OK is whether the receiver has taken the message: it answered 2xx.
func (r Result) OK() bool { return r.Err == nil && r.Status/100 == 2 }

// Send makes one attempt, and returns within the request's timeout.
func (c *Client) Send(ctx context.Context, r Request) Result {
	begun := time.Now()
	timeout := min(max(r.Timeout, TimeoutMin), TimeoutMax)
	attempt, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	req, err := c.request(attempt, r, begun)
	if err != nil {
		return Result{Err: err, Took: time.Since(begun)}
	}
	// A transport alone, not an http.Client: it follows no redirect and has no cookies.
	res, err := c.transport.RoundTrip(req) //nolint:bodyclose // drop closes it
	took := time.Since(begun)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return Result{Err: &failure{"canceled before an answer came", ctx.Err()}, Took: took}
	case attempt.Err() != nil:
		return Result{Err: timedOut(timeout, attempt.Err()), Took: took}
	default:
		return Result{Err: explain(err), Took: took}
	}
	defer drop(res, cancel)

	result := Result{Status: res.StatusCode, Took: took}
	if !result.OK() {
		result.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	return result
}
