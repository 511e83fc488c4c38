package webhook

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Bounds of an answer.
const (
	// AnswerHeaderMax bounds the bytes of the status line and the headers.
	AnswerHeaderMax = 32 << 10
	// AnswerBodyMax and AnswerBodyTime bound what is read of a body, so that the
	// connection can be used again. Where there is more, the connection (in HTTP/2 the
	// stream) is closed.
	AnswerBodyMax  = 64 << 10
	AnswerBodyTime = time.Second
	// RetryAfterMax bounds what a receiver can ask for.
	RetryAfterMax = 24 * time.Hour
)

// drop reads what is left of an answer, within its bounds, and closes it. cancel ends
// the request.
func drop(res *http.Response, cancel context.CancelFunc) {
	defer func() { _ = res.Body.Close() }() // the answer is known already
	if res.StatusCode == http.StatusSwitchingProtocols {
		return // its body is the connection itself, which cancel does not end
	}
	late := time.AfterFunc(AnswerBodyTime, cancel)
	defer late.Stop()
	_, _ = io.CopyN(io.Discard, res.Body, AnswerBodyMax)
}

// retryAfter is how long a Retry-After header (RFC 9110, 10.2.3) asks to wait: seconds or
// a date. 0 for none, a date that has passed, or what is neither.
func retryAfter(text string, now time.Time) time.Duration {
	text = strings.Trim(text, " \t")
	if text == "" {
		return 0
	}
	if strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(RetryAfterMax/time.Second) {
			return RetryAfterMax
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), RetryAfterMax)
}
