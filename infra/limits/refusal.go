package limits

import (
	"fmt"
	"time"
)

// Refusal says that a limit is reached. It is an error of the caller's doing, not a
// fault.
type Refusal struct {
	name, allowed string
	retryAfter    time.Duration
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s: %s; try again in %s", r.name, r.allowed, r.retryAfter)
}

// Limit names the limit and says, in words, what it allows.
func (r *Refusal) Limit() (name, allowed string) { return r.name, r.allowed }

// RetryAfter is how long to wait before trying again, more than zero.
func (r *Refusal) RetryAfter() time.Duration { return r.retryAfter }
