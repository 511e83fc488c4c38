package command

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// Limits of jobs.
const (
	// RedriveIDsMax is how many messages a redrive may name.
	RedriveIDsMax = 1000
	// ReplaySpeedMax is how many times as fast as they were published messages may be
	// replayed, unless it is as fast as possible.
	ReplaySpeedMax = 100
	// jobYearMin and jobYearMax bound the times that a job may name: no message is from
	// another year.
	jobYearMin, jobYearMax = 1970, 2200
)

// Jobs starts and cancels work that takes a while. Its methods return a
// [commands.Refusal] where that cannot be.
type Jobs interface {
	// Redrive brings dead letters of a subscription's group to it once more.
	Redrive(ctx context.Context, caller commands.Caller, subscriptionID string, f RedriveFilter) (web.Job, error)
	// Replay brings what a queue was given to a subscription or another queue.
	Replay(ctx context.Context, caller commands.Caller, r Replay) (web.Job, error)
	// Older starts what a seek still owes: messages that only history has.
	Older(ctx context.Context, caller commands.Caller, s commands.Subscription, to string) (web.Job, error)
	// Cancel ends a job.
	Cancel(ctx context.Context, caller commands.Caller, jobID string) (web.Job, error)
}

// RedriveFilter says which dead letters are redriven; the zero value of a field is any.
type RedriveFilter struct {
	MessageIDs []string
	// Reason is one of the events.Reason constants.
	Reason string
	// From and To bound when they died: From at the earliest, before To.
	From, To time.Time
}

// Replay says what is replayed, and where to.
type Replay struct {
	Queue string
	// SubscriptionID is one of the queue's, TargetQueue another queue; one of them is
	// given.
	SubscriptionID, TargetQueue string
	// From and To bound when the messages were published: From at the earliest, before
	// To; zero is any time.
	From, To time.Time
	// Speed is how many times as fast as they were published, 0 for as fast as possible.
	Speed float64
}

// deadReasons are why messages become dead letters: the events.Reason constants.
var deadReasons = []string{"nack", "lease_expired", "released", "unreadable", "webhook"} //nolint:gochecknoglobals // constant

var queueName = regexp.MustCompile("^" + commands.QueueNameLimit + "$")

// redriveRequest is the body of POST /subscriptions/{id}/redrive.
type redriveRequest struct {
	MessageIDs *[]string  `json:"messageIds"`
	Reason     string     `json:"reason"`
	From       *time.Time `json:"from"`
	To         *time.Time `json:"to"`
}

// filter checks what was asked for.
func (r redriveRequest) filter() (RedriveFilter, []web.Detail) {
	f := RedriveFilter{Reason: r.Reason}
	var wrong []web.Detail
	if r.MessageIDs != nil {
		f.MessageIDs = *r.MessageIDs
		wrong = checkMessageIDs(f.MessageIDs)
	}
	if r.Reason != "" && !slices.Contains(deadReasons, r.Reason) {
		wrong = append(wrong, web.Detail{Field: "reason", Limit: "one of " + strings.Join(deadReasons, ", "), Problem: "is another"})
	}
	var bad []web.Detail
	f.From, f.To, bad = during(r.From, r.To)
	return f, append(wrong, bad...)
}

// checkMessageIDs returns what is wrong with a list of ids: with their number, or with
// the first of them that is none.
func checkMessageIDs(ids []string) []web.Detail {
	if len(ids) < 1 || len(ids) > RedriveIDsMax {
		return []web.Detail{{Field: "messageIds", Limit: fmt.Sprintf("1 to %d ids", RedriveIDsMax), Problem: fmt.Sprintf("has %d", len(ids))}}
	}
	for i, id := range ids {
		if !web.ValidUUID(id) {
			return []web.Detail{{Field: fmt.Sprintf("messageIds[%d]", i), Limit: "a UUID in lower case", Problem: "is not one"}}
		}
	}
	return nil
}

// during reads a stretch of time; what is not given is zero.
func during(from, to *time.Time) (first, end time.Time, wrong []web.Detail) {
	at := func(field string, t *time.Time) time.Time {
		if t == nil {
			return time.Time{}
		}
		if year := t.UTC().Year(); year < jobYearMin || year >= jobYearMax {
			wrong = append(wrong, web.Detail{Field: field, Limit: fmt.Sprintf("a time from %d on, before %d", jobYearMin, jobYearMax), Problem: "is in another year"})
		}
		return *t
	}
	first, end = at("from", from), at("to", to)
	if len(wrong) == 0 && from != nil && to != nil && !end.After(first) {
		wrong = append(wrong, web.Detail{Field: "to", Limit: "later than from", Problem: "is not"})
	}
	return first, end, wrong
}

func (h *Handlers) redrive(c echo.Context) error {
	var req redriveRequest
	id, caller, err := h.onSubscription(c, &req, AdminBodyMax)
	if err != nil {
		return err
	}
	filter, wrong := req.filter()
	if len(wrong) > 0 {
		return web.Invalid(wrong...)
	}
	job, err := h.deps.Jobs.Redrive(c.Request().Context(), caller, id, filter)
	return h.answerStarted(c, job, err)
}

// replayRequest is the body of POST /queues/{name}/replay.
type replayRequest struct {
	SubscriptionID string     `json:"subscriptionId"`
	Queue          string     `json:"queue"`
	From           *time.Time `json:"from"`
	To             *time.Time `json:"to"`
	Speed          float64    `json:"speed"`
}

// replay checks what was asked for of a queue.
func (r replayRequest) replay(queue string) (Replay, []web.Detail) {
	out := Replay{Queue: queue, SubscriptionID: r.SubscriptionID, TargetQueue: r.Queue, Speed: r.Speed}
	var wrong []web.Detail
	that := func(ok bool, field, limit, problem string) {
		if !ok {
			wrong = append(wrong, web.Detail{Field: field, Limit: limit, Problem: problem})
		}
	}
	const either = "subscriptionId or queue, one of them"
	that(queueName.MatchString(queue), "name", commands.QueueNameLimit, "is not that")
	that(r.SubscriptionID != "" || r.Queue != "", "subscriptionId", either, "is missing")
	that(r.SubscriptionID == "" || r.Queue == "", "queue", either, "is given beside subscriptionId")
	that(r.SubscriptionID == "" || web.ValidUUID(r.SubscriptionID), "subscriptionId", "a UUID in lower case", "is not one")
	that(r.Queue == "" || queueName.MatchString(r.Queue), "queue", commands.QueueNameLimit, "is not that")
	that(r.Queue == "" || r.Queue != queue, "queue", "another queue than the one that is replayed", "is the same")
	that(r.Speed >= 0 && r.Speed <= ReplaySpeedMax, "speed", fmt.Sprintf("0 to %d", ReplaySpeedMax), fmt.Sprintf("is %g", r.Speed))
	var bad []web.Detail
	out.From, out.To, bad = during(r.From, r.To)
	return out, append(wrong, bad...)
}

func (h *Handlers) replay(c echo.Context) error {
	var req replayRequest
	if err := web.Decode(c, &req, AdminBodyMax); err != nil {
		return err
	}
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	replay, wrong := req.replay(c.Param("name"))
	if len(wrong) > 0 {
		return web.Invalid(wrong...)
	}
	job, err := h.deps.Jobs.Replay(c.Request().Context(), caller, replay)
	return h.answerStarted(c, job, err)
}

func (h *Handlers) cancelJob(c echo.Context) error {
	caller, err := h.callerWithoutBody(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	job, err := h.deps.Jobs.Cancel(c.Request().Context(), caller, c.Param("id"))
	if err != nil {
		return h.httpError(err)
	}
	return web.WriteRawJSON(c, http.StatusOK, job)
}

// answerStarted answers 202: the job is noted and goes on without the caller.
func (h *Handlers) answerStarted(c echo.Context, job web.Job, err error) error {
	if err != nil {
		return h.httpError(err)
	}
	c.Response().Header().Set("Location", "/api/v1/mq/jobs/"+job.ID)
	return web.WriteRawJSON(c, http.StatusAccepted, job)
}
