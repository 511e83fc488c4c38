package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// attempt is a leased message on its way through the chain.
type attempt struct {
	t *target
	m commands.Pulled
	// leaseEnd is when there is no more use in settling it.
	leaseEnd time.Time
	// ctx ends before the lease does. It is the message's to begin with: later ones of
	// the message end with the middleware that made them.
	ctx    context.Context //nolint:containedctx // a message carries it anyway
	cancel context.CancelFunc
	// status is what was answered, 0 for nothing.
	status int
}

type attemptKey struct{}

func (t *target) newAttempt(m commands.Pulled, takenAt time.Time) *attempt {
	a := &attempt{t: t, m: m, leaseEnd: takenAt.Add(t.lease)}
	ctx, cancel := context.WithDeadline(t.requests.ctx, takenAt.Add(t.leased))
	a.ctx, a.cancel = context.WithValue(ctx, attemptKey{}, a), cancel
	return a
}

func (a *attempt) message() *message.Message {
	msg := message.NewMessageWithContext(a.ctx, a.m.MessageID, a.m.Payload)
	if a.m.Meta.CorrelationID != "" {
		middleware.SetCorrelationID(a.m.Meta.CorrelationID, msg)
	}
	return msg
}

// attemptOf returns a message's attempt.
func attemptOf(msg *message.Message) *attempt {
	a, _ := msg.Context().Value(attemptKey{}).(*attempt)
	return a
}

// end gives back what the attempt occupies.
func (a *attempt) end() {
	a.cancel()
	<-a.t.p.requests
	a.t.gate.leave(1)
}

// outcome is how the attempt ended, with err.
func (a *attempt) outcome(err error) commands.Outcome {
	return commands.Outcome{
		AckToken: a.m.AckToken, OK: err == nil, Reason: events.ReasonWebhook, Error: brief(err), StatusCode: a.status,
	}
}

// failedError is a failed attempt.
type failedError struct {
	status     int
	retryAfter time.Duration
	err        error
}

func (e *failedError) Error() string { return e.err.Error() }

// Unwrap returns why.
func (e *failedError) Unwrap() error { return e.err }

// unsentError is a delivery that was called off before its request began.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return "not sent: " + e.err.Error() }

// Unwrap returns why.
func (e *unsentError) Unwrap() error { return e.err }

func isUnsent(err error) bool {
	_, ok := errors.AsType[*unsentError](err)
	return ok
}

// isPermanent reports that no other attempt will succeed. What is cancelled never is.
func isPermanent(err error) bool {
	_, ok := errors.AsType[*PermanentError](err)
	return ok && !errors.Is(err, context.Canceled)
}

// isEndpoints reports that a failure says something about the endpoint.
func isEndpoints(err error) bool {
	return err != nil && !isUnsent(err) && !isPermanent(err) && !errors.Is(err, errCutOff)
}

// post is the handler's function: one request.
func (t *target) post(msg *message.Message) error {
	a, ctx := attemptOf(msg), msg.Context()
	if ctx.Err() != nil {
		return &unsentError{context.Cause(ctx)}
	}
	r := t.request(a.m, middleware.MessageCorrelationID(msg), time.Now())
	deadline, _ := ctx.Deadline()
	r.Timeout = min(t.timeout, time.Until(deadline))
	result := t.p.cfg.Sender.Send(ctx, r)
	a.status = result.Status
	switch {
	case result.Err == nil && result.Status/100 == 2:
		return nil
	case result.Err == nil:
		text := strings.TrimSpace("HTTP " + strconv.Itoa(result.Status) + " " + http.StatusText(result.Status))
		return &failedError{status: result.Status, retryAfter: result.RetryAfter, err: errors.New(text)}
	case errors.Is(context.Cause(ctx), errCutOff) && !result.Sent:
		return &unsentError{errCutOff}
	case errors.Is(context.Cause(ctx), errCutOff):
		// The endpoint may have seen it.
		return &failedError{err: errCutOff}
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && !isPermanent(result.Err):
		return &failedError{err: fmt.Errorf("no answer within %s", r.Timeout.Round(time.Millisecond))}
	}
	return &failedError{status: result.Status, retryAfter: result.RetryAfter, err: result.Err}
}
