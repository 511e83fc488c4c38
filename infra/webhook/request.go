package webhook

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Bounds of [Request].
const (
	// TimeoutMin and TimeoutMax bound Request.Timeout; what is outside is moved to the
	// nearer one.
	TimeoutMin = time.Second
	TimeoutMax = 60 * time.Second
	// IDMax bounds the bytes of Request.ID.
	IDMax = 255
)

// Request is one delivery.
type Request struct {
	// URL is the endpoint's, as CheckURL allows.
	URL string
	// Timeout bounds the attempt, from TimeoutMin to TimeoutMax.
	Timeout time.Duration
	// ID is the message's id, the same for every attempt: 1 to IDMax visible ASCII
	// characters without a full stop, which would make another message of the signed
	// text possible.
	ID string
	// Secrets are the endpoint's, current first, at most SecretsMax, each "whsec_" and
	// the base64 of 24 to 64 bytes. None: the delivery is unsigned.
	Secrets []string
	// ContentType is the body's; "" sends none.
	ContentType string
	// Header is sent besides. Fields that CheckHeader refuses are left out.
	Header http.Header
	// Body is not changed. It must not be changed by the caller either, not even after
	// Send: the connection may still be reading it when the answer is there.
	Body []byte
}

// request is r as net/http sends it.
func (c *Client) request(ctx context.Context, r Request, now time.Time) (*http.Request, error) {
	u, err := c.parse(r.URL)
	if err != nil {
		return nil, err
	}
	if !validID(r.ID) {
		return nil, &failure{"the message's id cannot be sent", ErrRequest}
	}
	if !validFieldValue(r.ContentType) {
		return nil, &failure{"the content type cannot be sent", ErrRequest}
	}
	header := make(http.Header, len(r.Header)+5)
	for name, values := range r.Header {
		for _, value := range values {
			if CheckHeader(name, value) == nil {
				header.Add(name, value)
			}
		}
	}
	header.Set("User-Agent", c.userAgent)
	if r.ContentType != "" {
		header.Set("Content-Type", r.ContentType)
	}
	header.Set("Webhook-Id", r.ID)
	header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	if len(r.Secrets) > 0 {
		signatures, err := sign(r.Secrets, r.ID, now, r.Body)
		if err != nil {
			return nil, err
		}
		header.Set("Webhook-Signature", signatures)
	}
	req := &http.Request{
		Method: http.MethodPost,
		URL:    u,
		Host:   u.Host,
		Header: header,
		// net/http repeats a request by itself where the connection was closed under
		// it, or a stream refused, if the body is absent or GetBody yields another,
		// and the method or an Idempotency-Key says that it may be repeated
		// (persistConn.shouldRetryRequest, http2shouldRetryRequest). So GetBody is nil
		// and Body is not, even where it is empty. What is left of its retries is a
		// connection found unusable before a byte was written. An empty body thus goes out
		// chunked, for net/http takes a length of 0 for an unknown one.
		Body:          io.NopCloser(bytes.NewReader(r.Body)),
		ContentLength: int64(len(r.Body)),
	}
	return req.WithContext(ctx), nil
}

func validID(id string) bool {
	if len(id) == 0 || len(id) > IDMax {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' || id[i] == '.' {
			return false
		}
	}
	return true
}
