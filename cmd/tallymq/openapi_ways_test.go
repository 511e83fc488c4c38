package main

import (
	"net/http"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
)

// way provokes one status of an operation: it prepares the scene and returns the last
// request, which is sent to the instance.
type way func(c *scene, op documentedOp) (*instance, *docRequest)

// simply is a way that only changes the first example's request.
func simply(change func(c *scene, r *docRequest)) way {
	return func(c *scene, op documentedOp) (*instance, *docRequest) {
		r := c.first(op)
		change(c, r)
		return c.main, r
	}
}

// commonWays provoke statuses that mean the same for all operations.
var commonWays = map[int]way{
	http.StatusOK:                    simply(func(*scene, *docRequest) {}),
	http.StatusCreated:               simply(func(*scene, *docRequest) {}),
	http.StatusNoContent:             simply(func(*scene, *docRequest) {}),
	http.StatusAccepted:              simply(func(_ *scene, r *docRequest) { r.header.Set("Prefer", "respond-async") }),
	http.StatusBadRequest:            simply(invalid),
	http.StatusUnauthorized:          simply(func(_ *scene, r *docRequest) { r.header.Del("Authorization"); r.header.Del(headerToken) }),
	http.StatusForbidden:             simply(wrongScopes),
	http.StatusNotFound:              simply(missing),
	http.StatusGone:                  beforeRetention,
	http.StatusPreconditionFailed:    simply(func(_ *scene, r *docRequest) { r.header.Set("If-Match", `"99"`) }),
	http.StatusRequestEntityTooLarge: simply(tooMuch),
	http.StatusUnsupportedMediaType:  simply(func(_ *scene, r *docRequest) { r.mediaType, r.body = "application/xml", []byte("<a/>") }),
	http.StatusUnprocessableEntity:   reusedKey,
	http.StatusTooManyRequests:       tooOften,
	http.StatusServiceUnavailable:    func(c *scene, op documentedOp) (*instance, *docRequest) { return c.broken, c.trusted(op) },
}

// trusted is the first example's request with the service token, for which no other
// service must answer.
func (c *scene) trusted(op documentedOp) *docRequest {
	r := op.like(op.examples()[0])
	if op.takes("tenant") || op.takes("serviceToken") {
		r.header.Del("Authorization")
		r.header.Set(headerToken, accessToken)
		r.header.Set(headerTenant, c.tenant)
	}
	return r
}

func invalid(_ *scene, r *docRequest) {
	if r.op.RequestBody != nil {
		r.body = []byte(`{"nonsense":1}`)
		return
	}
	r.query.Set("nonsense", "1")
}

func wrongScopes(c *scene, r *docRequest) {
	var others []string
	for _, scope := range everyScope {
		if !slices.Contains(r.op.scopes(), scope) {
			others = append(others, scope)
		}
	}
	c.bearer(r, others...)
}

// missing names what does not exist: in the path, else in the query, else in the body.
func missing(_ *scene, r *docRequest) {
	switch {
	case r.path["name"] != "":
		r.path["name"] = "missing"
	case len(r.path) > 0:
		for name := range r.path {
			r.path[name] = newID()
		}
	case r.query.Get("queue") != "":
		r.query.Set("queue", "missing")
	default:
		r.set("queue", "missing")
		if r.op.OperationID == "publishBatch" {
			r.set("atomic", true)
		}
	}
}

func tooMuch(_ *scene, r *docRequest) {
	most := 256 << 10
	if r.op.RequestBody != nil {
		body := r.op.RequestBody.Value
		most = int(body.Extensions["x-maxBytes"].(float64))
	}
	r.mediaType, r.body = "application/json", []byte(strings.Repeat(" ", most+1))
}

// reusedKey sends the example under a key and then another request under the same.
func reusedKey(c *scene, op documentedOp) (*instance, *docRequest) {
	key := newID()
	r := c.first(op)
	if op.OperationID == "publishBatch" {
		r.set("atomic", true)
	}
	r.header.Set("Idempotency-Key", key)
	c.truth.send(c.t, c.main.url, r)
	switch op.OperationID {
	case "createQueue":
		r.set("description", "another")
	case "createSubscription":
		r.set("maxPollRecords", 7)
	case "redrive", "replay":
		r.set("to", "2026-01-31T09:30:00Z")
	default:
		r.set("correlationId", "another")
	}
	return c.main, r
}

// tooOften uses up a tenant's requests.
func tooOften(c *scene, op documentedOp) (*instance, *docRequest) {
	r := c.trusted(op)
	for range 50 {
		if c.truth.send(c.t, c.limited.url, r).status == http.StatusTooManyRequests {
			return c.limited, r
		}
	}
	require.FailNow(c.t, "the limit is not reached")
	return nil, nil
}

// ways provoke what is an operation's own, by its id and the status.
var ways = map[string]map[int]way{
	"createQueue":        {http.StatusConflict: twice},
	"createSubscription": {http.StatusConflict: twice},
	"pull": {http.StatusConflict: func(c *scene, op documentedOp) (*instance, *docRequest) {
		c.post("/subscriptions/"+c.subscription+"/pause", "").is(http.StatusOK)
		return c.main, c.first(op)
	}},
	"publish":                 {http.StatusConflict: toPaused, http.StatusMultiStatus: mixedEvents},
	"publishBatch":            {http.StatusConflict: toPaused, http.StatusMultiStatus: mixed},
	"publishToTopic":          {http.StatusConflict: toPaused, http.StatusMultiStatus: mixedEvents},
	"publishDelayed":          {http.StatusConflict: toPaused},
	"publishScheduled":        {http.StatusConflict: toPaused},
	"cancelMessage":           {http.StatusConflict: published},
	"createSchedule":          {http.StatusConflict: deletedSince},
	"seek":                    {http.StatusConflict: tooManyJobsToSeek},
	"redrive":                 {http.StatusConflict: tooManyJobs},
	"replay":                  {http.StatusConflict: tooManyJobs},
	"getSecret":               {http.StatusConflict: noWebhook},
	"rotateSecret":            {http.StatusConflict: noWebhook},
	"cancelJob":               {http.StatusConflict: cancelledBefore},
	"publishUserEvent":        internalWays("user-events"),
	"publishUserNotification": internalWays("user-notifications"),
	"publishAuditLog":         internalWays("audit-logs"),
	"publishNotification":     internalWays("notifications"),
	"getAuditQueue":           internalWays("audit-logs"),
	"getNotificationQueue":    internalWays("notifications"),
	"getStatus": {http.StatusServiceUnavailable: func(c *scene, op documentedOp) (*instance, *docRequest) {
		return c.starting, op.like(example{})
	}},
}

func twice(c *scene, op documentedOp) (*instance, *docRequest) {
	r := c.first(op)
	require.Equal(c.t, http.StatusCreated, c.truth.send(c.t, c.main.url, r).status)
	return c.main, r
}

func toPaused(c *scene, op documentedOp) (*instance, *docRequest) {
	c.as(c.tenant, http.MethodPut, "/queues/orders", `{"status":"paused"}`).is(http.StatusOK)
	r := c.first(op)
	if op.OperationID == "publishBatch" {
		r.set("atomic", true)
	}
	return c.main, r
}

func mixed(c *scene, op documentedOp) (*instance, *docRequest) {
	r := c.first(op)
	r.body = []byte(`{"messages":[{"queue":"orders","payload":1},{"queue":"missing","payload":1},{"queue":"orders","payload":1,"partition":60}]}`)
	return c.main, r
}

func mixedEvents(c *scene, op documentedOp) (*instance, *docRequest) {
	r := c.first(op)
	if op.OperationID == "publish" {
		r.query.Set("queue", "orders")
	}
	r.mediaType = "application/cloudevents-batch+json"
	r.body = []byte(`[{"specversion":"1.0","id":"` + newID() + `","source":"/shop","type":"t","data":1},{"specversion":"1.0","id":"","source":"/shop","type":"t"}]`)
	return c.main, r
}

// internalWays change a queue of the platform and change it back afterwards. No two of
// them run at once.
func internalWays(queue string) map[int]way {
	return map[int]way{
		http.StatusMultiStatus: mixedEvents,
		http.StatusConflict: func(c *scene, op documentedOp) (*instance, *docRequest) {
			c.as(platformTenant, http.MethodPut, "/queues/"+queue, `{"status":"paused"}`).is(http.StatusOK)
			c.after(func() {
				c.as(platformTenant, http.MethodPut, "/queues/"+queue, `{"status":"active"}`).is(http.StatusOK)
			})
			return c.main, c.first(op)
		},
		http.StatusNotFound: func(c *scene, op documentedOp) (*instance, *docRequest) {
			require.Equal(c.t, http.StatusNoContent, c.as(platformTenant, http.MethodDelete, "/queues/"+queue, "").status)
			c.after(func() {
				c.as(platformTenant, http.MethodPost, "/queues", `{"name":"`+queue+`"}`).is(http.StatusCreated)
			})
			return c.main, c.first(op)
		},
	}
}

// after does something once the scene is over.
func (c *scene) after(undo func()) { c.undo = append(c.undo, undo) }

// full fills the queue, which is the other 429 of what publishes.
func full(c *scene, op documentedOp) (*instance, *docRequest) {
	batch := `{"messages":[` + strings.Repeat(`{"queue":"orders","payload":1},`, queueFullAt-2) + `{"queue":"orders","payload":1}]}`
	c.post("/publish/batch", batch) // one fewer, where a scheduled one has its room
	c.post("/publish", `{"queue":"orders","payload":1}`).refused(http.StatusTooManyRequests, "MQ_QUEUE_FULL")
	r := c.first(op)
	if op.OperationID == "publishBatch" {
		r.set("atomic", true)
	}
	return c.main, r
}
