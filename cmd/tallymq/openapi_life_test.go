package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// life is a tenant whose every request and answer is checked against the document.
type life struct {
	*scene

	byID map[string]documentedOp
}

func newLife(t *testing.T) *life {
	t.Helper()
	s := &stage{truth: newTruth(t), auth: newAuthService(t)}
	cfg := testConfig(t)
	cfg.AuthURL, cfg.AuthIssuer = s.auth.url, accessIssuer
	cfg.WebhookAllow = "127.0.0.0/8"
	s.main = start(t, cfg, accessToken)
	l := &life{scene: &scene{stage: s, t: t, tenant: newID()}, byID: map[string]documentedOp{}}
	for _, op := range operationsOf(s.truth.doc) {
		l.byID[op.OperationID] = op
	}
	return l
}

// does sends a request; parameters are query parameters of those names, else path
// parameters.
func (l *life) does(id, body string, parameters ...string) map[string]any {
	l.t.Helper()
	op := l.byID[id]
	r := op.like(example{})
	clear(r.query)
	for n := 0; n+1 < len(parameters); n += 2 {
		if strings.Contains(op.path, "{"+parameters[n]+"}") {
			r.path[parameters[n]] = parameters[n+1]
		} else {
			r.query.Set(parameters[n], parameters[n+1])
		}
	}
	if body != "" {
		r.mediaType, r.body = "application/json", []byte(body)
	}
	l.bearer(r, everyScope...)
	got := l.truth.send(l.t, l.main.url, r)
	require.Less(l.t, got.status, http.StatusBadRequest, "%s: %s", id, got.body)
	var out map[string]any
	if len(got.body) > 0 {
		require.NoError(l.t, json.Unmarshal(got.body, &out))
	}
	return out
}

// Answers are as documented not only when there is little to say.
func TestTheDocumentIsTrueThroughALife(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	l.does("createQueue", `{"name":"jobs","displayName":"Jobs","description":"d","schemaDefinition":{"type":"object"},"allowedProducers":["tester"],"isPublic":true,"partitionCount":2}`)
	l.does("createQueue", `{"name":"dead"}`)
	sub := text(l.does("createSubscription", `{"queue":"jobs","consumerGroup":"g","offsetResetPolicy":"earliest","maxRetryAttempts":1,"deadLetterQueue":"dead","messageFilter":{"key":"k"},"handlerConfig":{"b":[2]}}`)["id"])
	hook := text(l.does("createSubscription", `{"queue":"jobs","consumerGroup":"hook","subscriptionType":"webhook","status":"paused","handlerConfig":{"url":"https://example.com/"}}`)["id"])
	message := text(l.does("publish", `{"queue":"jobs","key":"k","payload":{"a":[1,null,"x"]},"headers":{"h":"v"},"correlationId":"c","expiresAt":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`)["messageId"])
	l.does("publishBatch", `{"messages":[{"queue":"jobs","payload":1},{"queue":"none","payload":1},{"queue":"jobs","payload":1,"ttlMs":0}]}`)

	// a message's attempts: refused, tried again, dead
	pull := func() string {
		got := list(l.does("pull", `{"maxMessages":10,"waitMs":10000}`, "id", sub)["messages"])
		for _, m := range got {
			if text(m["messageId"]) == message {
				return text(m["ackToken"])
			}
		}
		return ""
	}
	for range 2 {
		token := ""
		eventually(t, "the message comes", func() bool { token = pull(); return token != "" })
		l.does("getQueue", "", "name", "jobs")
		l.does("extend", `{"leaseMs":60000,"ackTokens":["`+token+`"]}`, "id", sub)
		l.does("nack", `{"delayMs":0,"error":"no","ackTokens":["`+token+`"]}`, "id", sub)
		results := list(l.does("ack", `{"ackTokens":["`+token+`","nonsense"]}`, "id", sub)["results"])
		require.Len(t, results, 2)
		require.Equal(t, "MQ_LEASE_LOST", results[0]["error"].(map[string]any)["code"])
	}
	eventually(t, "a dead letter", func() bool { return l.does("getMessage", "", "messageId", message)["status"] == "dead_letter" })
	require.Len(t, list(l.does("getMessage", "", "messageId", message)["consumption"]), 2)
	require.Len(t, list(l.does("listMessageEvents", "", "messageId", message)["data"]), 3)

	l.delivers()

	// what only changes
	l.does("pauseSubscription", "", "id", sub)
	l.does("resumeSubscription", "{}", "id", sub)
	l.does("updateSubscription", `{"messageFilter":null,"deadLetterQueue":""}`, "id", sub)
	l.does("updateQueue", `{"schemaDefinition":null,"displayName":"","partitionCount":3}`, "name", "jobs")
	l.does("purgeQueue", "", "name", "jobs")
	l.does("deleteSubscription", "", "id", hook)

	// pages, whole and in parts
	for _, id := range []string{"listQueues", "listSubscriptions", "listMessages", "listEvents", "listSchedules", "listJobs"} {
		for _, limit := range []string{"1", "500"} {
			page := l.does(id, "", "limit", limit)
			require.NotEmpty(t, page["data"], id)
			if cursor := text(page["nextCursor"]); cursor != "" {
				l.does(id, "", "limit", limit, "cursor", cursor)
			}
		}
	}
	eventually(t, "measured", func() bool {
		document := l.does("getMetrics", "")
		performance, _ := document["performance"].(map[string]any)
		return performance["throughput"] != 0.0
	})
	require.NotEmpty(t, l.does("getTopicMetrics", "")["data"])
	require.NotEmpty(t, l.does("getConsumerMetrics", "")["data"])
	l.does("eraseMessage", `{"reason":"r"}`, "messageId", message)
	l.does("getMessage", "", "messageId", message)
	l.does("deleteQueue", "", "name", "jobs")
	keeper := openBooks(t, l.main.cfg).keeper(30 * 24 * time.Hour)
	_, err := keeper.Round(t.Context())
	require.NoError(t, err)
	l.everyEvent()
}

// everyEvent requires that the feed had each type of event that the document has.
func (l *life) everyEvent() {
	l.t.Helper()
	met := map[string]bool{}
	for _, e := range list(l.does("listEvents", "", "limit", "500")["data"]) {
		met[text(e["type"])] = true
	}
	for _, kind := range l.truth.doc.Components.Schemas["EventType"].Value.Enum {
		if kind == "tallymq.message.consumed" {
			continue // all of them failed
		}
		require.True(l.t, met[kind.(string)], kind)
	}
}

// The stream of the feed is as documented: its media type, and each event in it.
func TestTheDocumentedStreamIsTrue(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	l.does("createQueue", `{"name":"jobs"}`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := l.byID["listEvents"].like(example{})
	clear(r.query)
	r.header.Set("Accept", "text/event-stream")
	l.bearer(r, "mq:read")
	resp, err := http.DefaultClient.Do(r.build(ctx, l.main.url))
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	documented := r.op.Responses.Status(resp.StatusCode).Value
	require.NotNil(t, documented.Content.Get(resp.Header.Get("Content-Type")))
	require.NotEmpty(t, resp.Header.Get("X-Request-ID"))
	lines := bufio.NewScanner(resp.Body)
	seen := map[string]string{}
	for seen["data"] == "" && lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		seen[field] = value
	}
	require.NotEmpty(t, seen["id"])
	require.Equal(t, "tallymq.topic.created", seen["event"])
	var event any
	require.NoError(t, json.Unmarshal([]byte(seen["data"]), &event))
	schema := l.truth.doc.Components.Schemas["LifecycleEvent"]
	require.NoError(t, schema.Value.VisitJSON(event, openapi3.EnableJSONSchema2020()))
	require.Empty(t, undocumented(schema, event, ""))
}

// The document names the scopes that the service asks for.
func TestTheDocumentNamesTheScopes(t *testing.T) {
	t.Parallel()
	named := 0
	for _, op := range operationsOf(loadDocument(t)) {
		path, isAPI := strings.CutPrefix(op.path, apiPrefix)
		if !isAPI {
			continue
		}
		if len(op.scopes()) == 0 {
			require.Contains(t, openRoutes, op.method+" "+path)
			continue
		}
		route, found := guardedRoutes[op.method+" "+strings.NewReplacer("{messageId}", ":id", "{", ":", "}", "").Replace(path)]
		require.True(t, found, "%s %s", op.method, op.path)
		require.ElementsMatch(t, route.scopes, op.scopes(), "%s %s", op.method, op.path)
		named++
	}
	require.Equal(t, len(guardedRoutes), named)
}
