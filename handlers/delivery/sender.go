package delivery

import (
	"context"
	"net/http"
	"time"
)

// Sender makes one attempt: it POSTs and says what came of it. It returns soon after ctx
// ends, and never sends a request twice.
type Sender interface {
	Send(ctx context.Context, r Request) Result
}

// Request is one attempt at delivering one message.
type Request struct {
	URL string
	// Timeout is how long there is for an answer; ctx ends then too.
	Timeout time.Duration
	// ID is the message's, the same for every attempt.
	ID string
	// Secrets sign it, the current one's first.
	Secrets []string
	// ContentType is the body's, "" for none.
	ContentType string
	// Header is sent beside what the Sender adds. The subscription's own headers are in
	// it as they were configured: the Sender leaves out those that cannot be sent.
	Header http.Header
	Body   []byte
}

// Result is what became of an attempt.
type Result struct {
	// Status is the answer's, 0 where none came.
	Status int
	// RetryAfter is for how long the endpoint asks to be left alone, 0 for not.
	RetryAfter time.Duration
	// Err is why there is no answer; nil says that one came. Its text is shown to the
	// tenant. With a [PermanentError] in it the message becomes a dead letter.
	Err error
	// Sent says that the endpoint may have seen the request, or part of it. It counts
	// where ctx was cancelled: what was not sent then is handed back.
	Sent bool
}

// PermanentError says of a message that no attempt at it will ever succeed.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *PermanentError) Unwrap() error { return e.Err }
