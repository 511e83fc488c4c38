package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/docs"
	"github.com/tallymq/tallymq/handlers/jobs"
	"github.com/tallymq/tallymq/infra/redis"
)

// prepared make what some operations need beside a queue with a subscription and a
// message, by their ids.
var prepared = map[string]func(c *scene){
	"cancelMessage":  func(c *scene) { c.message = c.scheduled() },
	"pauseSchedule":  withSchedule,
	"resumeSchedule": withSchedule,
	"deleteSchedule": withSchedule,
	"getSchedule":    withSchedule,
	"listSchedules":  withSchedule,
	"getSecret":      withHook,
	"rotateSecret":   withHook,
	"cancelJob":      withJob,
	"getJob":         withJob,
	"listJobs":       withJob,
	"replay": func(c *scene) {
		c.post("/queues", `{"name":"orders-again"}`).is(http.StatusCreated)
	},
	"listDeadLetters": func(c *scene) {
		c.as(c.tenant, http.MethodPut, "/subscriptions/"+c.subscription, `{"maxRetryAttempts":0}`).is(http.StatusOK)
		c.post("/subscriptions/"+c.subscription+"/nack", `{"error":"no","ackTokens":["`+c.token()+`"]}`).is(http.StatusOK)
	},
}

// scheduled schedules a message for later than a test lasts.
func (c *scene) scheduled() string {
	c.t.Helper()
	return text(c.post("/publish/delayed", `{"queue":"orders","payload":1,"delayMs":3600000}`).is(http.StatusCreated)["messageId"])
}

func withSchedule(c *scene) {
	c.id = text(c.post("/schedules", `{"queue":"orders","cron":"@yearly","payload":1}`).is(http.StatusCreated)["id"])
}

func withHook(c *scene) {
	c.id = text(c.post("/subscriptions", pausedHook("orders")).is(http.StatusCreated)["id"])
}

func withJob(c *scene) { c.id = c.openJobs(1)[0] }

func (c *scene) openJobs(n int) []string {
	c.t.Helper()
	i := *c.main
	i.t = c.t
	return i.openJobs(c.tenant, n)
}

// published names a message that is published already.
func published(c *scene, op documentedOp) (*instance, *docRequest) {
	c.message = text(c.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)["messageId"])
	return c.main, c.first(op)
}

// deletedSince repeats a request whose schedule has been deleted.
func deletedSince(c *scene, op documentedOp) (*instance, *docRequest) {
	r := c.first(op)
	r.header.Set("Idempotency-Key", newID())
	made := c.truth.send(c.t, c.main.url, r).is(http.StatusCreated)
	require.Equal(c.t, http.StatusNoContent, c.as(c.tenant, http.MethodDelete, "/schedules/"+text(made["id"]), "").status)
	return c.main, r
}

// noWebhook names a subscription whose messages are pulled.
func noWebhook(c *scene, op documentedOp) (*instance, *docRequest) {
	c.id = c.subscription
	return c.main, c.first(op)
}

// cancelledBefore cancels a job that is cancelled.
func cancelledBefore(c *scene, op documentedOp) (*instance, *docRequest) {
	r := c.first(op)
	c.truth.send(c.t, c.main.url, r).is(http.StatusOK)
	return c.main, r
}

func tooManyJobs(c *scene, op documentedOp) (*instance, *docRequest) {
	c.openJobs(jobs.OpenMax)
	return c.main, c.first(op)
}

// tooManyJobsToSeek goes back to where Redis does not hold messages any more.
func tooManyJobsToSeek(c *scene, op documentedOp) (*instance, *docRequest) {
	c.openJobs(jobs.OpenMax)
	last := c.post("/publish", `{"queue":"orders","key":"customer-7","payload":2}`).is(http.StatusCreated)
	queue := c.as(c.tenant, http.MethodGet, "/queues/orders", "").is(http.StatusOK)
	cfg := c.main.cfg
	client, err := redis.Open(cfg.RedisURL)
	require.NoError(c.t, err)
	defer func() { _ = client.Close() }()
	partition, _ := last["partition"].(float64)
	stream := redis.QueueStream(cfg.RedisKeyPrefix, events.ShardOf(c.tenant, "orders", cfg.Shards), text(queue["id"]), int(partition))
	trimmed, err := client.XTrimMaxLen(c.t.Context(), stream, 1).Result()
	require.NoError(c.t, err)
	require.EqualValues(c.t, 1, trimmed)
	return c.main, c.first(op).set("to", 0)
}

// takesNoRoom are operations that publishers may use and that put nothing into a queue,
// and what they answer where it is full.
var takesNoRoom = map[string]int{
	"cancelMessage": http.StatusOK, "createSchedule": http.StatusCreated, "deleteSchedule": http.StatusNoContent,
	"pauseSchedule": http.StatusOK, "resumeSchedule": http.StatusOK,
}

// delivers has messages scheduled, cancelled, released, expired, dead, redriven, sought
// and replayed, schedules changed, and a webhook that is gone.
func (l *life) delivers() {
	l.t.Helper()
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }))
	l.t.Cleanup(gone.Close)
	l.does("createQueue", `{"name":"later","partitionCount":2}`)
	sub := text(l.does("createSubscription", `{"queue":"later","consumerGroup":"g","offsetResetPolicy":"earliest","maxRetryAttempts":0,"deadLetterQueue":"dead","messageFilter":{"key":"k"},"handlerConfig":{"ordered":true,"retryScheduleMs":[0]}}`)["id"])
	hook := text(l.does("createSubscription", `{"queue":"later","consumerGroup":"hook","subscriptionType":"webhook","handlerConfig":{"url":"`+gone.URL+`/","headers":{"x-shop":"main"},"cloudEvents":true}}`)["id"])
	never := l.never(sub)
	soon := text(l.does("publishDelayed", `{"queue":"later","key":"k","payload":{"a":1},"delayMs":1,"maxRetryAttempts":0,"retryDelayMs":0}`)["messageId"])
	at := l.does("publishDelayed", `{"queue":"later","key":"k","payload":2,"delayMs":0}`)
	require.Equal(l.t, "published", at["status"])
	expired := text(l.does("publish", `{"queue":"later","key":"k","payload":3,"ttlMs":1}`)["messageId"])
	filtered := text(l.does("publish", `{"queue":"later","payload":4}`)["messageId"])
	eventually(l.t, "it is released", func() bool { return l.status(soon) != "scheduled" })
	l.each(sub, 2, func(m map[string]any) {
		require.Equal(l.t, "in_flight", l.verdict(text(m["messageId"]), sub))
		l.does("nack", `{"error":"no","ackTokens":["`+text(m["ackToken"])+`"]}`, "id", sub)
	})
	letters := list(l.does("listDeadLetters", "", "id", sub, "limit", "1")["data"])
	require.Len(l.t, letters, 1)
	require.Empty(l.t, l.does("listDeadLetters", "", "id", sub, "reason", "webhook")["data"])
	require.Equal(l.t, true, l.does("getLedger", "", "id", sub)["balanced"])
	eventually(l.t, "it is passed over", func() bool {
		l.does("pull", `{"waitMs":0}`, "id", sub)
		return l.verdict(expired, sub) == "expired"
	})
	for id, verdict := range map[string]string{soon: "dead_letter", never: "cancelled", expired: "expired", filtered: "filtered"} {
		require.Equal(l.t, verdict, l.verdict(id, sub))
	}
	job := text(l.does("redrive", `{}`, "id", sub)["id"])
	l.each(sub, 2, func(m map[string]any) { l.does("ack", `{"ackTokens":["`+text(m["ackToken"])+`"]}`, "id", sub) })
	l.ended(job)
	require.Equal(l.t, "consumed", l.verdict(soon, sub))
	require.Equal(l.t, true, l.does("getLedger", "", "id", sub)["balanced"])
	l.seeks(sub)

	eventually(l.t, "the webhook stops", func() bool { return l.does("getSubscription", "", "id", hook)["status"] == "stopped" })
	require.NotContains(l.t, l.does("getSecret", "", "id", hook), "rotatedAt")
	require.Len(l.t, l.does("rotateSecret", "", "id", hook)["secrets"], 2)
	require.Contains(l.t, l.does("getSecret", "", "id", hook), "rotatedAt")
	l.scheduling()
}

func (l *life) status(message string) string {
	l.t.Helper()
	return text(l.does("getMessage", "", "messageId", message)["status"])
}

func (l *life) verdict(message, sub string) string {
	l.t.Helper()
	return text(l.does("explainMessage", "", "messageId", message, "subscription", sub)["verdict"])
}

// never schedules a message and cancels it, twice.
func (l *life) never(sub string) string {
	l.t.Helper()
	made := l.does("publishScheduled", `{"queue":"later","payload":false,"scheduledAt":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`)
	id := text(made["messageId"])
	require.Equal(l.t, "scheduled", made["status"])
	require.Equal(l.t, "scheduled", l.status(id))
	require.Equal(l.t, "scheduled", l.verdict(id, sub))
	l.does("getQueue", "", "name", "later")
	require.EqualValues(l.t, 1, l.does("getLedger", "", "id", sub)["scheduled"])
	for range 2 {
		l.does("cancelMessage", "", "messageId", id)
		require.Equal(l.t, "cancelled", l.status(id))
	}
	return id
}

// each pulls n messages.
func (l *life) each(sub string, n int, do func(m map[string]any)) {
	l.t.Helper()
	for n > 0 {
		for _, m := range list(l.does("pull", `{"maxMessages":10,"waitMs":10000}`, "id", sub)["messages"]) {
			do(m)
			n--
		}
	}
}

// seeks goes forth and back, past messages that wait.
func (l *life) seeks(sub string) {
	l.t.Helper()
	waits := text(l.does("publish", `{"queue":"later","key":"k","payload":5}`)["messageId"])
	require.Equal(l.t, "waiting", l.verdict(waits, sub))
	require.Equal(l.t, false, l.does("seek", `{"to":"latest"}`, "id", sub)["older"])
	require.Equal(l.t, "skipped_by_seek", l.verdict(waits, sub))
	l.does("seek", `{"to":1}`, "id", sub)
	l.does("seek", `{"to":"`+time.Now().Add(-time.Hour).Format(time.RFC3339Nano)+`"}`, "id", sub)
	require.Equal(l.t, "waiting", l.verdict(waits, sub))
	require.Equal(l.t, true, l.does("testFilter", `{"payload":1,"key":"k","messageFilter":null}`, "id", sub)["matches"])
	require.NotEmpty(l.t, l.does("testFilter", `{"payload":{"a":1},"messageFilter":{"cel":"payload.a > 1"}}`, "id", sub)["why"])
	require.Equal(l.t, true, l.does("getLedger", "", "id", sub)["balanced"])
}

func (l *life) ended(job string) {
	l.t.Helper()
	eventually(l.t, "the job ends", func() bool { return l.does("getJob", "", "id", job)["status"] == "done" })
}

// scheduling has a schedule from its beginning to its end, and a replay.
func (l *life) scheduling() {
	l.t.Helper()
	made := l.does("createSchedule", `{"name":"n","queue":"later","cron":"0 0 29 2 *","timeZone":"Europe/Berlin","payload":{"a":1},"key":"k","headers":{"h":"v"},"correlationId":"c","contentType":"application/json","ttlMs":1000}`)
	id := text(made["id"])
	require.NotNil(l.t, made["nextAt"])
	require.Nil(l.t, l.does("pauseSchedule", "", "id", id)["nextAt"])
	require.Nil(l.t, l.does("pauseSchedule", "{}", "id", id)["nextAt"])
	require.NotNil(l.t, l.does("resumeSchedule", "", "id", id)["nextAt"])
	require.NotNil(l.t, l.does("getSchedule", "", "id", id)["nextAt"])
	require.Len(l.t, l.does("listSchedules", "", "queue", "later")["data"], 1)
	l.does("deleteSchedule", "", "id", id)
	require.Nil(l.t, l.does("createSchedule", `{"queue":"later","cron":"@daily","payload":false,"status":"paused"}`)["nextAt"])

	l.does("createQueue", `{"name":"later-again"}`)
	l.ended(text(l.does("replay", `{"queue":"later-again","speed":100}`, "name", "later")["id"]))
	require.Len(l.t, l.does("listJobs", "", "kind", "replay", "status", "done")["data"], 1)
}

// A queue has as many schedules as the document says.
func TestTheDocumentsLimitOfSchedulesIsTheService(t *testing.T) {
	t.Parallel()
	const most = 1000
	doc, err := docs.JSON()
	require.NoError(t, err)
	require.Contains(t, string(doc), fmt.Sprintf("The queue has %d schedules", most))
	i := start(t, testConfig(t), "")
	i.queue("orders", "")
	client, err := redis.Open(i.cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	const body = `{"queue":"orders","cron":"@daily","payload":1}`
	first := text(i.post("/schedules", body).is(http.StatusCreated)["topicId"])
	// all but two are none, as far as they are counted
	stream := redis.QueueStream(i.cfg.RedisKeyPrefix, events.ShardOf(devTenant, "orders", i.cfg.Shards), first, 0)
	set := strings.TrimSuffix(stream, "q:"+first+":0") + "schedules:" + first
	require.EqualValues(t, 1, client.SCard(t.Context(), set).Val())
	for n := range most - 2 {
		require.NoError(t, client.SAdd(t.Context(), set, n).Err())
	}
	last := text(i.post("/schedules", body).is(http.StatusCreated)["id"])
	i.post("/schedules", body).refused(http.StatusConflict, "MQ_CONFLICT")
	require.Equal(t, http.StatusNoContent, i.call(http.MethodDelete, apiPrefix+"/schedules/"+last, nil).status)
	i.post("/schedules", body).is(http.StatusCreated)
}
