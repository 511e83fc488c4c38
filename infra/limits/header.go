package limits

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Names of the limits, as refusals give them.
const (
	requestsLimit = "requests per second"
	bytesLimit    = "body bytes per second"
)

// Policy is the value of the RateLimit-Policy header field (Internet-Draft
// ietf-httpapi-ratelimit-headers-11): of each limit the burst, as its quota, and the
// seconds in which that comes back, as its window. It never changes; "" is no limit.
func (l *Limiter) Policy() string { return l.policy }

func (l *Limiter) policyField() string {
	var items []string
	if b := l.requests; b.limited() {
		items = append(items, fmt.Sprintf(`"requests";q=%d;w=%d`, b.left(b.full), seconds(time.Duration(b.full))))
	}
	if b := l.bytes; b.limited() {
		items = append(items, fmt.Sprintf(`"bytes";q=%d;qu="content-bytes";w=%d`, b.left(b.full), seconds(time.Duration(b.full))))
	}
	return strings.Join(items, ", ")
}

// Admit is [Limiter.Take] for an HTTP edge: state is the value of the RateLimit
// header field, "" where there is no limit, and err a *[Refusal] or nil.
//
// Its "r" may be used at once. Its "t" is the seconds in which r comes back, so that
// who spreads r over t keeps to the rate; where r is 0, the seconds until there is
// more; and in a refusal, never past the time to try again.
func (l *Limiter) Admit(tenant string, bodyBytes int64, now time.Time) (state string, err error) {
	d := l.Take(tenant, bodyBytes, now)
	if d.Refusal != nil {
		return l.stateField(d), d.Refusal
	}
	return l.stateField(d), nil
}

// stateBytesMax is room for the longest state.
const stateBytesMax = 96

func (l *Limiter) stateField(d Decision) string {
	var room [stateBytesMax]byte
	out := room[:0]
	if l.requests.limited() {
		out = append(out, `"requests"`...)
		out = appendState(out, d.RequestsLeft, window(l.requests, d.RequestsLeft, d.requestsWait, d.Refusal))
	}
	if l.bytes.limited() {
		if len(out) > 0 {
			out = append(out, ", "...)
		}
		out = append(out, `"bytes"`...)
		out = appendState(out, d.BytesLeft, window(l.bytes, d.BytesLeft, d.bytesWait, d.Refusal))
	}
	return string(out)
}

func appendState(out []byte, left, window int64) []byte {
	out = append(out, ";r="...)
	out = strconv.AppendInt(out, left, 10)
	out = append(out, ";t="...)
	return strconv.AppendInt(out, window, 10)
}

func window(b bucket, left int64, wait time.Duration, refusal *Refusal) int64 {
	if left > 0 {
		wait = time.Duration(b.cost(left))
	}
	if refusal != nil {
		wait = min(wait, refusal.retryAfter)
	}
	return seconds(wait)
}

// seconds rounds up, to at least one: the unit of Retry-After and of the windows.
func seconds(d time.Duration) int64 {
	return max(1, int64((d+time.Second-1)/time.Second))
}

func inWords(b bucket) string {
	if !b.limited() {
		return ""
	}
	return fmt.Sprintf("at most %d, at once at most %d", b.perSecond, b.left(b.full))
}
