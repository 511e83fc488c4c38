package commands

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Code is an error code of the API; it is part of the contract.
type Code string

// The codes with which commands refuse.
const (
	CodeQueueNotFound        Code = "MQ_QUEUE_NOT_FOUND"
	CodePublishFailed        Code = "MQ_PUBLISH_FAILED"
	CodeConsumerError        Code = "MQ_CONSUMER_ERROR"
	CodeValidationFailed     Code = "MQ_VALIDATION_FAILED"
	CodeMessageNotFound      Code = "MQ_MESSAGE_NOT_FOUND"
	CodeScheduleNotFound     Code = "MQ_SCHEDULE_NOT_FOUND"
	CodeJobNotFound          Code = "MQ_JOB_NOT_FOUND"
	CodeForbidden            Code = "MQ_FORBIDDEN"
	CodeSubscriptionNotFound Code = "MQ_SUBSCRIPTION_NOT_FOUND"
	CodeConflict             Code = "MQ_CONFLICT"
	CodePayloadTooLarge      Code = "MQ_PAYLOAD_TOO_LARGE"
	CodeIdempotencyKeyReused Code = "MQ_IDEMPOTENCY_KEY_REUSED"
	CodeLeaseLost            Code = "MQ_LEASE_LOST"
	CodeVersionMismatch      Code = "MQ_VERSION_MISMATCH"
	CodeQueueFull            Code = "MQ_QUEUE_FULL"
	CodeUnavailable          Code = "MQ_UNAVAILABLE"
)

// Refusal is a business no: the command was understood and cannot be done. Any
// other error is a fault.
type Refusal struct {
	Code   Code
	Reason string
	// Problems name what is wrong, field by field.
	Problems []Problem
}

// Problem is one field that is not as it must be.
type Problem struct {
	// Field is the JSON path of the field.
	Field string
	// Limit is what would have been allowed.
	Limit string
	// Text says what is wrong.
	Text string
}

func (r *Refusal) Error() string {
	parts := make([]string, 0, len(r.Problems)+1)
	parts = append(parts, fmt.Sprintf("%s: %s", r.Code, r.Reason))
	for _, p := range r.Problems {
		parts = append(parts, fmt.Sprintf("%s %s (%s)", p.Field, p.Text, p.Limit))
	}
	return strings.Join(parts, "; ")
}

func refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Reason: fmt.Sprintf(format, args...)}
}

func isRefused(err error, code Code) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && r.Code == code
}

// check collects problems, so that a caller learns all of them at once.
type check struct{ problems []Problem }

func (c *check) that(ok bool, field, limit, text string) {
	if !ok {
		c.problems = append(c.problems, Problem{Field: field, Limit: limit, Text: text})
	}
}

func (c *check) between(n, least, most int64, field string) {
	c.that(n >= least && n <= most, field, fmt.Sprintf("%d to %d", least, most), fmt.Sprintf("is %d", n))
}

func (c *check) oneOf(value, field string, allowed ...string) {
	c.that(slices.Contains(allowed, value), field, "one of "+strings.Join(allowed, ", "), fmt.Sprintf("is %q", value))
}

// short checks a text's length in characters.
func (c *check) short(value, field string, most int) {
	n := len([]rune(value))
	c.that(n <= most, field, fmt.Sprintf("at most %d characters", most), fmt.Sprintf("has %d characters", n))
}

func (c *check) refusal() error {
	if len(c.problems) == 0 {
		return nil
	}
	first := c.problems[0]
	return &Refusal{
		Code: CodeValidationFailed, Problems: c.problems,
		Reason: fmt.Sprintf("%s %s; allowed: %s", first.Field, first.Text, first.Limit),
	}
}
