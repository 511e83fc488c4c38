package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/jobs"
)

// things are what a tenant has for the matrix.
type things struct {
	queue, sub, message string
	// other is another queue, hook a webhook, delayed a message that is scheduled, and
	// job one that has not ended.
	other, hook, delayed, schedule, job string
}

// things makes a queue with a subscription and a message.
func (i *instance) things(queue string, who []string) things {
	i.t.Helper()
	require.Equal(i.t, http.StatusCreated, i.post("/queues", map[string]any{"name": queue, "partitionCount": 2}, who...).status)
	var sub struct{ ID string }
	i.post("/subscriptions", map[string]any{"queue": queue, "consumerGroup": "g"}, who...).decode(http.StatusCreated, &sub)
	var m struct{ MessageID string }
	i.post("/publish", map[string]any{"queue": queue, "payload": 1}, who...).decode(http.StatusCreated, &m)
	return things{queue: queue, sub: sub.ID, message: m.MessageID}
}

// everything makes one of each. The webhook is paused: nothing is sent.
func (i *instance) everything(queue string, who []string) things {
	i.t.Helper()
	out := i.things(queue, who)
	out.other = queue + "-other"
	var other struct{ TenantID string }
	i.post("/queues", `{"name":"`+out.other+`"}`, who...).decode(http.StatusCreated, &other)
	var made struct{ ID string }
	i.post("/subscriptions", pausedHook(queue), who...).decode(http.StatusCreated, &made)
	out.hook = made.ID
	i.post("/schedules", `{"queue":"`+queue+`","payload":1,"cron":"@yearly"}`, who...).decode(http.StatusCreated, &made)
	out.schedule, out.delayed, out.job = made.ID, i.delayed(queue, who), i.openJobs(other.TenantID, 1)[0]
	return out
}

// pausedHook is the body of a webhook subscription that sends nothing.
func pausedHook(queue string) string {
	return `{"queue":"` + queue + `","consumerGroup":"hook","subscriptionType":"webhook","status":"paused","handlerConfig":{"url":"https://example.com/"}}`
}

// delayed schedules a message for later than a test lasts, and returns its id.
func (i *instance) delayed(queue string, who []string) string {
	i.t.Helper()
	var m struct{ MessageID, Status string }
	i.post("/publish/delayed", `{"queue":"`+queue+`","payload":1,"delayMs":3600000}`, who...).decode(http.StatusCreated, &m)
	require.Equal(i.t, "scheduled", m.Status)
	return m.MessageID
}

// openJobs notes jobs of a tenant that nobody works on, as if another instance did.
func (i *instance) openJobs(tenantID string, n int) []string {
	i.t.Helper()
	conn, err := pgx.Connect(i.t.Context(), i.cfg.DatabaseURL)
	require.NoError(i.t, err)
	defer func() { _ = conn.Close(i.t.Context()) }()
	ids := make([]string, n)
	for k := range ids {
		ids[k] = newID()
	}
	_, err = conn.Exec(i.t.Context(), `INSERT INTO delivery_jobs (id, tenant_id, kind, spec, status, created_by, created_at, updated_at, leased_until)
		SELECT unnest($1::uuid[]), $2, $3, jsonb_build_object('subscriptionId', $4::text), $5, 'tester', now(), now(), now() + interval '1 hour'`,
		ids, tenantID, jobs.KindRedrive, newID(), jobs.StatusRunning)
	require.NoError(i.t, err)
	return ids
}

// id is what :id stands for in a path.
func (o things) id(path string) string {
	switch {
	case strings.HasPrefix(path, "/messages/") && strings.HasSuffix(path, "/cancel"):
		return o.delayed
	case strings.HasPrefix(path, "/messages/"):
		return o.message
	case strings.HasPrefix(path, "/schedules/"):
		return o.schedule
	case strings.HasPrefix(path, "/jobs/"):
		return o.job
	case strings.HasSuffix(path, "secret"):
		return o.hook
	default:
		return o.sub
	}
}

// missing are things that nobody has, beside another queue that is there.
func (o things) missing() things {
	const none = "00000000-0000-7000-8000-00000000dead"
	return things{queue: "nothing", other: o.other, sub: none, hook: none, message: none, delayed: none, schedule: none, job: none}
}

// What a request names beside its path is its own tenant's too.
func TestNobodyReachesAnothersThingsInABody(t *testing.T) {
	t.Parallel()
	i, auth := guarded(t)
	theirs := i.everything("orders", auth.bearer(tenantA, "owner", everyScope...))
	stranger := auth.bearer(tenantB, "stranger", everyScope...)
	mine := i.everything("mine", stranger)
	for _, c := range []struct{ method, path, body, code string }{
		{http.MethodPost, "/queues/mine/replay", `{"subscriptionId":"` + theirs.sub + `"}`, "MQ_SUBSCRIPTION_NOT_FOUND"},
		{http.MethodPost, "/queues/mine/replay", `{"queue":"` + theirs.other + `"}`, "MQ_QUEUE_NOT_FOUND"},
		{http.MethodPost, "/subscriptions", `{"queue":"mine","consumerGroup":"g3","deadLetterQueue":"` + theirs.queue + `"}`, ""},
		{http.MethodPut, "/subscriptions/" + mine.sub, `{"deadLetterQueue":"` + theirs.queue + `"}`, ""},
	} {
		nothing := strings.NewReplacer(theirs.sub, theirs.missing().sub, theirs.other, "nothing", theirs.queue, "nothing")
		got := i.call(c.method, apiPrefix+c.path, c.body, stranger...)
		want := i.call(c.method, apiPrefix+c.path, nothing.Replace(c.body), stranger...)
		require.GreaterOrEqual(t, got.status, http.StatusBadRequest, "%s %s: %s", c.path, c.body, got.body)
		require.Equal(t, want.status, got.status, "%s %s: %s", c.path, c.body, got.body)
		if c.code != "" {
			require.Equal(t, c.code, got.code(), "%s", got.body)
		}
		require.Equal(t, nothing.Replace(blank(want.body, mine)), nothing.Replace(blank(got.body, mine)))
	}
	// one that is named among dead letters is passed over
	job := i.post("/subscriptions/"+mine.sub+"/redrive", `{"messageIds":["`+theirs.message+`"]}`, stranger...).is(http.StatusAccepted)
	eventually(t, "the job ends", func() bool {
		job = i.get("/jobs/"+text(job["id"]), stranger...).is(http.StatusOK)
		return job["status"] == "done"
	})
	require.Zero(t, job["done"])
}
