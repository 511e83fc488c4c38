package handover

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

func TestWhatAnswersMean(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		200: "taken", 202: "taken", 204: "taken", 299: "taken", 301: "again", 308: "again", 400: "refused", 401: "again", 403: "again", 404: "again",
		408: "again", 409: "refused", 413: "refused", 415: "refused", 422: "refused", 429: "again", 499: "again", 500: "again", 503: "again", 599: "again", 600: "again", 199: "again",
	} {
		got := "again"
		a := answer{status: status}
		switch {
		case a.isTaken():
			got = "taken"
		case a.isRefused():
			got = "refused"
		}
		require.Equal(t, want, got, "%d", status)
		require.Equal(t, want != "taken", a.problem() != nil)
	}
	broken := answer{err: errors.New("broken")}
	require.False(t, broken.isTaken() || broken.isRefused())
}

func TestRetryAfterIsObeyedWithinBounds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "99999999999": RetryAfterMax, "9999999999999999999999": 0, "soon": 0, "1.5": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute,
		now.Add(-time.Hour).Format(http.TimeFormat):  0,
		now.Add(time.Hour).Format(http.TimeFormat):   RetryAfterMax,
	} {
		require.Equal(t, want, retryAfter(text, now), text)
	}
	b := New(Config{}).backoff()
	require.Equal(t, time.Minute, b.next(time.Minute))
	for range 20 {
		require.LessOrEqual(t, b.next(0), BackoffMax)
	}
	require.GreaterOrEqual(t, b.next(0), BackoffMax/2)
	b.reset()
	require.LessOrEqual(t, b.next(0), backoffMin+1)
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("7")
	f.Add("Fri, 02 Jan 2026 03:04:05 GMT")
	f.Fuzz(func(t *testing.T, text string) {
		got := retryAfter(text, time.Unix(1_800_000_000, 0))
		require.True(t, got >= 0 && got <= RetryAfterMax)
	})
}

// Whatever a producer chose, a header stays one line of printable ASCII.
func FuzzMessageHeader(f *testing.F) {
	f.Add("key", "name", "value", "application/json", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("a\r\nb", "x\r\nEvil: 1", "\x00\xff", "application/json; a=\"\r\n\"", "\n")
	f.Fuzz(func(t *testing.T, key, name, value, contentType, traceparent string) {
		h := messageHeader("q", commands.Pulled{Leased: events.Leased{MessageID: "m", Meta: events.DeliveryMeta{
			Key: key, ContentType: contentType, TraceParent: traceparent, CorrelationID: value, Headers: map[string]string{name: value},
		}}})
		require.LessOrEqual(t, len(h), 13)
		for header, values := range h {
			require.Regexp(t, `^(Ce-[A-Za-z]+|Content-Type|Traceparent|X-Message-[A-Za-z0-9._-]+)$`, header)
			require.Len(t, values, 1)
			require.Regexp(t, `^[ -~]*$`, values[0])
		}
	})
}

func TestErrorsTellNoSecrets(t *testing.T) {
	t.Parallel()
	f := New(Config{EventsURL: "http://user:secret@127.0.0.1:1/path?key=secret"})
	a := f.events.link.post(t.Context(), http.Header{}, nil)
	require.Error(t, a.err)
	require.NotContains(t, a.err.Error(), "secret")
	a = New(Config{EventsURL: "http://127.0.0.1:1\x7f/secret"}).events.link.post(t.Context(), http.Header{}, nil)
	require.Error(t, a.err)
	require.NotContains(t, a.err.Error(), "secret")
	text := brief(errors.New("two\nlines\x00 " + strings.Repeat("é", errorCharsMax)))
	require.NotContains(t, text, "\n")
	require.LessOrEqual(t, len(text), errorCharsMax+len("…"))
}

// A status is as bad as the worst that it stands for.
func TestStatusIsFailingUntilAllIsOver(t *testing.T) {
	t.Parallel()
	f := New(Config{EventsURL: "http://127.0.0.1:1", Logger: discard()})
	l := f.events.link
	state := func() State { return f.Status()[0].State }
	require.Equal(t, StateStandby, state())
	l.health.begin()
	require.Equal(t, StateIdle, state())
	l.health.inHand(2)
	require.Equal(t, StateOK, state())
	one, two := l.trouble(), l.trouble()
	one.say(errors.New("first"))
	since := f.Status()[0].Since
	two.say(errors.New("second"))
	two.say(errors.New("third"))
	one.over()
	one.over()
	require.Equal(t, StateFailing, state())
	require.Equal(t, since, f.Status()[0].Since)
	two.over()
	require.Equal(t, StateOK, state())
	l.health.inHand(-2)
	require.Equal(t, StateIdle, state())
	require.Equal(t, "third", f.Status()[0].LastError)
	l.health.standBy("lost")
	require.Equal(t, StateStandby, state())
	require.Equal(t, "lost", f.Status()[0].LastError)
}
