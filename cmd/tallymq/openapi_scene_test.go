package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// queueFullAt is how many messages a queue holds in these tests.
const queueFullAt = 40

// platformTenant owns the queues of the internal API. The default is no tenant that a
// token could be of.
const platformTenant = "00000000-0000-0000-0000-0000000000ff"

// The ids of the document's examples.
const (
	exampleSubscription = "019aba3c-4f00-7000-8000-000000000002"
	exampleMessage      = "019aba3c-4f00-7000-8000-000000000003"
)

// stage is the instances on which the document is proved.
type stage struct {
	truth *truth
	auth  *authService
	// main works, limited has one request per second for each tenant, broken has lost
	// its stores, and starting has not found any yet.
	main, limited, broken, starting *instance
}

// scene is a tenant of its own with what the document's examples speak of: queue
// orders, subscription billing of it, and a message.
type scene struct {
	*stage

	t                     testing.TB
	tenant                string
	subscription, message string
	// id is what the path parameter of that name is: the subscription, unless prepared
	// says otherwise.
	id   string
	undo []func()
}

// newScene makes what an operation needs to have; what it makes itself is left to it.
func (s *stage) newScene(t testing.TB, op documentedOp) *scene {
	t.Helper()
	c := &scene{stage: s, t: t, tenant: newID()}
	if strings.HasPrefix(op.path, apiPrefix+"/admin/projections") {
		c.tenant = platformTenant
	}
	if op.takes("tenant") && op.OperationID != "createQueue" {
		c.post("/queues", `{"name":"orders","partitionCount":4}`).is(http.StatusCreated)
		if op.OperationID != "createSubscription" {
			c.subscription = text(c.post("/subscriptions", `{"queue":"orders","consumerGroup":"billing","offsetResetPolicy":"earliest"}`).is(http.StatusCreated)["id"])
		}
		c.message = text(c.post("/publish", `{"queue":"orders","key":"customer-7","payload":1}`).is(http.StatusCreated)["messageId"])
		c.id = c.subscription
		if prepare := prepared[op.OperationID]; prepare != nil {
			prepare(c)
		}
	}
	return c
}

// platform are the headers of a service of the platform for a tenant.
func platform(tenant string) []string {
	return []string{headerToken, accessToken, headerTenant, tenant}
}

func (c *scene) post(path, body string) answer {
	c.t.Helper()
	return c.as(c.tenant, http.MethodPost, path, body)
}

func (c *scene) as(tenant, method, path, body string) answer {
	c.t.Helper()
	i := *c.main
	i.t = c.t
	return i.call(method, apiPrefix+path, body, platform(tenant)...)
}

// request is an example with the scene's ids, by somebody who may.
func (c *scene) request(op documentedOp, e example) *docRequest {
	c.t.Helper()
	r := op.like(e)
	for name, id := range map[string]string{"id": c.id, "messageId": c.message} {
		if _, ok := r.path[name]; ok {
			r.path[name] = id
		}
	}
	for example, id := range map[string]string{exampleSubscription: c.subscription, exampleMessage: c.message} {
		r.body = bytes.ReplaceAll(r.body, []byte(example), []byte(id))
		for name, values := range r.query {
			if values[0] == example {
				r.query.Set(name, id)
			}
		}
	}
	if op.OperationID == "publishScheduled" {
		r.set("scheduledAt", time.Now().Add(time.Hour)) // the example's will be past
	}
	if slices.Contains([]string{"ack", "nack", "extend"}, op.OperationID) {
		r.body = []byte(strings.ReplaceAll(string(r.body), "a-token-from-a-pull", c.token()))
	}
	switch {
	case len(op.scopes()) > 0:
		c.bearer(r, op.scopes()[0])
	case op.takes("serviceToken"):
		r.header.Set(headerToken, accessToken)
	}
	return r
}

func (c *scene) bearer(r *docRequest, scopes ...string) {
	header := c.auth.bearer(c.tenant, "tester", scopes...)
	r.header.Set(header[0], header[1])
}

// token leases a message and returns its ack token.
func (c *scene) token() string {
	c.t.Helper()
	messages := list(c.post("/subscriptions/"+c.subscription+"/pull", `{"maxMessages":1,"waitMs":10000}`).is(http.StatusOK)["messages"])
	require.Len(c.t, messages, 1)
	return text(messages[0]["ackToken"])
}

// first is the request of an operation's first JSON example.
func (c *scene) first(op documentedOp) *docRequest {
	c.t.Helper()
	all := op.examples()
	at := slices.IndexFunc(all, func(e example) bool { return strings.HasPrefix(e.name, "application/json") })
	return c.request(op, all[max(at, 0)])
}

// set changes a member of a JSON object, or of each of its messages where it has some.
func (r *docRequest) set(name string, value any) *docRequest {
	var body map[string]any
	if err := json.Unmarshal(r.body, &body); err != nil {
		panic(err)
	}
	if messages := list(body["messages"]); len(messages) > 0 && name != "atomic" {
		for _, m := range messages {
			m[name] = value
		}
		body["messages"] = messages
	} else {
		body[name] = value
	}
	changed, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	r.body = changed
	return r
}
