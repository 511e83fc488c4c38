package delivery

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

func TestWhatAnAnswerMeans(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		result Result
		want   commands.Outcome
	}{
		"200":                        {Result{Status: 200}, commands.Outcome{OK: true, StatusCode: 200}},
		"299":                        {Result{Status: 299}, commands.Outcome{OK: true, StatusCode: 299}},
		"a redirect is a failure":    {Result{Status: 301}, commands.Outcome{StatusCode: 301, Error: "HTTP 301 Moved Permanently"}},
		"400 is not for ever":        {Result{Status: 400}, commands.Outcome{StatusCode: 400, Error: "HTTP 400 Bad Request"}},
		"a status without a name":    {Result{Status: 599}, commands.Outcome{StatusCode: 599, Error: "HTTP 599"}},
		"429 says when":              {Result{Status: 429, RetryAfter: time.Minute}, commands.Outcome{StatusCode: 429, Error: "HTTP 429 Too Many Requests", NotBeforeMs: 60_000}},
		"503 says when":              {Result{Status: 503, RetryAfter: time.Minute}, commands.Outcome{StatusCode: 503, Error: "HTTP 503 Service Unavailable", NotBeforeMs: 60_000}},
		"not for longer than that":   {Result{Status: 503, RetryAfter: 9 * time.Hour}, commands.Outcome{StatusCode: 503, Error: "HTTP 503 Service Unavailable", NotBeforeMs: RetryAfterMax.Milliseconds()}},
		"500 does not say when":      {Result{Status: 500, RetryAfter: time.Minute}, commands.Outcome{StatusCode: 500, Error: "HTTP 500 Internal Server Error"}},
		"no answer":                  {Result{Err: errConnect}, commands.Outcome{Error: "connection refused"}},
		"a stray cancellation":       {Result{Err: context.Canceled}, commands.Outcome{Error: "context canceled"}},
		"never again":                {Result{Err: &PermanentError{errors.New("cannot be signed")}}, commands.Outcome{Dead: true, Error: "cannot be signed"}},
		"what is cancelled is never": {Result{Err: &PermanentError{context.Canceled}}, commands.Outcome{Error: "context canceled"}},
		"a long error":               {Result{Err: errors.New(strings.Repeat("ü\n", 1000))}, commands.Outcome{Error: strings.Repeat("ü ", errorCharsMax/2-1) + "ü…"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, senderFunc(func(context.Context, Request) Result { return c.result }), func(t *testing.T, s *store, p *Pusher, _ func()) {
				s.put("a", hook(nil))
				s.publish("a", messages("m", 1)...)
				after(100 * time.Millisecond)
				got := s.settled()
				require.Len(t, got, 1)
				c.want.AckToken, c.want.Reason = "1", "webhook"
				require.LessOrEqual(t, len([]rune(got[0].Error)), errorCharsMax)
				require.Equal(t, c.want, got[0])
				require.Zero(t, p.Status()[0].InFlight)
				require.Equal(t, c.want.OK, p.Status()[0].Delivered == 1)
				require.Empty(t, s.back())
				require.Empty(t, p.requests)
			})
		})
	}
}

func TestAPanicFailsTheAttempt(t *testing.T) {
	t.Parallel()
	tries := 0
	sender := senderFunc(func(context.Context, Request) Result {
		if tries++; tries == 1 {
			panic("secret detail")
		}
		return Result{Status: 200}
	})
	bubble(t, sender, func(t *testing.T, s *store, _ *Pusher, _ func()) {
		s.put("a", hook(nil))
		s.publish("a", messages("m", 1)...)
		after(3 * time.Second)
		got := s.settled()
		require.Len(t, got, 2)
		require.False(t, got[0].OK)
		require.Equal(t, "the delivery failed for an internal reason", got[0].Error)
		require.True(t, got[1].OK)
	})
}

func TestGoneStopsTheSubscription(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: answers(http.StatusGone)}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.put("a", hook(map[string]any{"concurrency": 1}))
		s.publish("a", messages("m", 3)...)
		after(time.Hour)
		require.Equal(t, []string{"stop a: the endpoint answered HTTP 410 Gone"}, s.said())
		require.Equal(t, 1, sender.count(), "the next ones are not tried")
		require.Len(t, s.settled(), 1)
		require.Equal(t, 410, s.settled()[0].StatusCode)
		require.Empty(t, p.Status())
	})
}

func TestGoneStopsTheSubscriptionOnce(t *testing.T) {
	t.Parallel()
	bubble(t, senderFunc(func(context.Context, Request) Result {
		<-time.After(time.Second)
		return Result{Status: http.StatusGone, Sent: true}
	}), func(t *testing.T, s *store, _ *Pusher, _ func()) {
		s.put("a", hook(map[string]any{"concurrency": 8}))
		s.publish("a", messages("m", 8)...)
		after(time.Minute)
		require.Len(t, s.settled(), 8)
		require.Len(t, s.said(), 1)
	})
}

func TestStoppingIsTriedUntilTheStoreAnswers(t *testing.T) {
	t.Parallel()
	var s *store
	sender := senderFunc(func(context.Context, Request) Result {
		s.do(func() { s.away = true })
		time.AfterFunc(8*time.Second, func() { s.do(func() { s.away = false }) })
		return Result{Status: http.StatusGone, Sent: true}
	})
	bubble(t, sender, func(t *testing.T, made *store, _ *Pusher, _ func()) {
		s = made
		s.put("a", hook(nil))
		s.publish("a", messages("m", 1)...)
		after(30 * time.Second)
		require.Len(t, s.settled(), 1)
		require.Len(t, s.said(), 1)
	})
}

func TestARequestEndsBeforeItsLease(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sessionMs, timeoutMs int
		want                 time.Duration
	}{
		"the service's":            {30_000, 0, 5 * time.Second},
		"the webhook's":            {30_000, 20_000, 20 * time.Second},
		"a second is left":         {10_000, 20_000, 9 * time.Second},
		"a short lease":            {1600, 20_000, 600 * time.Millisecond},
		"the shortest":             {1000, 20_000, RequestTimeMin},
		"the service's, no longer": {4000, 0, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var began time.Time
			took := make(chan time.Duration, 10)
			sender := senderFunc(func(ctx context.Context, r Request) Result {
				began = time.Now()
				defer func() { took <- time.Since(began) }()
				if r.Timeout != c.want {
					return Result{Err: errors.New("a timeout of " + r.Timeout.String())}
				}
				return blocked(ctx, true)
			})
			bubble(t, sender, func(t *testing.T, s *store, _ *Pusher, _ func()) {
				s.put("a", hook(map[string]any{"timeoutMs": c.timeoutMs}), func(s *commands.Subscription) { s.Config.SessionTimeoutMs = c.sessionMs })
				s.publish("a", messages("m", 1)...)
				after(c.want + 100*time.Millisecond)
				require.Equal(t, c.want, <-took)
				require.Empty(t, s.lapsed())
				require.Len(t, s.settled(), 1)
				require.Equal(t, "no answer within "+c.want.String(), s.settled()[0].Error)
			})
		})
	}
}

func TestSettlingGoesOnUntilItWorks(t *testing.T) {
	t.Parallel()
	var s *store
	sender := &sent{Sender: senderFunc(func(context.Context, Request) Result {
		s.do(func() { s.away = true })
		return Result{Status: 200, Sent: true}
	})}
	bubble(t, sender, func(t *testing.T, made *store, p *Pusher, _ func()) {
		s = made
		s.put("a", hook(nil))
		s.publish("a", messages("m", 1)...)
		after(20 * time.Second)
		require.Equal(t, 1, p.Status()[0].InFlight)
		require.Empty(t, s.settled())
		s.do(func() { s.away = false })
		after(6 * time.Second)
		require.Len(t, s.settled(), 1)
		require.True(t, s.settled()[0].OK)
		require.Zero(t, p.Status()[0].InFlight)
		require.Equal(t, 1, sender.count())
		require.Empty(t, s.lapsed())
	})
}

// The endpoint never sees more attempts than the log has.
func TestSettlingEndsWithTheLease(t *testing.T) {
	t.Parallel()
	var s *store
	sender := &sent{Sender: senderFunc(func(context.Context, Request) Result {
		s.do(func() { s.away = true })
		return Result{Status: 200, Sent: true}
	})}
	bubble(t, sender, func(t *testing.T, made *store, p *Pusher, _ func()) {
		s = made
		s.put("a", hook(nil))
		s.publish("a", messages("m", 1)...)
		after(31 * time.Second)
		require.Equal(t, []string{"m0"}, s.lapsed())
		require.Zero(t, p.Status()[0].InFlight)
		require.Equal(t, 1, sender.count())
		s.do(func() { s.away = false })
		after(6 * time.Second)
		require.Equal(t, 2, sender.count())
	})
}

func TestALeaseThatIsLostIsFine(t *testing.T) {
	t.Parallel()
	var s *store
	sender := senderFunc(func(context.Context, Request) Result {
		s.do(func() { clear(s.leases) })
		return Result{Status: 200, Sent: true}
	})
	bubble(t, sender, func(t *testing.T, made *store, p *Pusher, _ func()) {
		s = made
		s.put("a", hook(nil))
		s.publish("a", messages("m", 1)...)
		after(100 * time.Millisecond)
		require.Zero(t, p.Status()[0].InFlight)
		require.Empty(t, s.settled())
	})
}
