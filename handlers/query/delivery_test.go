package query

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

func TestDeadLettersAreListed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := "/subscriptions/" + subID + "/dead-letters"
	a := b.requireGet(path)
	offsets, _ := a.items("offset")
	require.Equal(t, []any{1.0, 2.0, 3.0}, offsets)
	require.Equal(t, map[string]any{
		"messageId": "019aba3c-4f00-7000-8000-000000000002", "queue": "orders", "partition": 0.0, "offset": 2.0, "attempt": 4.0, "attempts": 3.0, "reason": "webhook", "error": "no",
		"statusCode": 503.0, "deadAt": "2025-11-25T12:00:02.000Z", "key": "k2", "headers": map[string]any{"h": "v"}, "payloadSize": 8.0,
		"contentType": "application/json", "publishedAt": "2025-11-25T12:00:00.000Z",
	}, a.body["data"].([]any)[1])
	for query, want := range map[string][]any{
		"?reason=webhook": {2.0}, "?from=2025-11-25T12:00:02Z": {2.0, 3.0}, "?to=2025-11-25T12:00:02Z": {1.0},
		"?from=2025-11-25T12:00:01.0001Z&to=2025-11-25T12:00:02.0001Z": {2.0}, "?reason=released": nil,
	} {
		offsets, _ = b.requireGet(path + query).items("offset")
		require.Equal(t, want, offsets, query)
	}
	first, cursor := b.requireGet(path + "?limit=2").items("offset")
	second, end := b.requireGet(path + "?limit=2&cursor=" + cursor).items("offset")
	require.Equal(t, [][]any{{1.0, 2.0}, {3.0}}, [][]any{first, second})
	require.Empty(t, end)

	b.who.Scopes = []string{web.ScopeConsume}
	b.requireGet(path)
	b.who.Scopes = []string{web.ScopePublish}
	require.Equal(t, http.StatusForbidden, b.get(path).status)
	// another tenant on the same queue has its own, without the record
	b.who = web.Identity{TenantID: other, Scopes: []string{web.ScopeAdmin}}
	require.Equal(t, http.StatusNotFound, b.get(path).status)
	a = b.requireGet("/subscriptions/" + foreignID + "/dead-letters")
	keys, _ := a.items("key")
	require.Equal(t, []any{nil}, keys)
}

func TestTheLedgerIsOfOnePosition(t *testing.T) {
	t.Parallel()
	b := setup(t)
	at, waited := base+100*second, int64(0)
	b.deps.LedgerLive = func(_ context.Context, topic queries.QueueRef, group string) (LedgerLive, error) {
		require.Equal(t, queries.QueueRef{ID: topicID, TenantID: tenant, Name: "orders", PartitionCount: 1}, topic)
		require.Equal(t, "g", group)
		return LedgerLive{Position: at, InFlight: 1, Waiting: 0, Retrying: 0, Scheduled: 1, Unsettled: 1}, nil
	}
	b.deps.WaitFolded = func(_ context.Context, _ int, position int64) error {
		waited = position
		return nil
	}
	a := b.requireGet("/subscriptions/" + subID + "/ledger")
	require.Equal(t, at, waited)
	// one of the ten was published after the position
	require.Equal(t, map[string]any{
		"subscriptionId": subID, "queue": "orders", "consumerGroup": "g", "position": num(at), "at": "2025-11-25T12:01:40.000Z",
		"published": 8.0, "replayed": 1.0, "consumed": 3.0, "inFlight": 1.0, "waiting": 0.0, "scheduled": 1.0, "retrying": 0.0, "dead": 3.0,
		"filtered": 0.0, "expired": 0.0, "purged": 1.0, "difference": 0.0, "balanced": true,
	}, a.body)
	b.deps.LedgerLive = func(context.Context, queries.QueueRef, string) (LedgerLive, error) {
		return LedgerLive{Position: at, InFlight: 3, Scheduled: 1, Unsettled: 1}, nil
	}
	a = b.requireGet("/subscriptions/" + subID + "/ledger")
	require.Equal(t, []any{-2.0, false}, []any{a.body["difference"], a.body["balanced"]})
}

// The counts of another tenant's queue are counted from that tenant's events.
func TestALedgerOfAnotherTenantsQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.who.TenantID = other
	b.deps.LedgerLive = func(_ context.Context, _ queries.QueueRef, group string) (LedgerLive, error) {
		require.Equal(t, other+":g", group)
		return LedgerLive{Position: base + 100*second, Scheduled: 1}, nil
	}
	a := b.requireGet("/subscriptions/" + foreignID + "/ledger")
	require.Equal(t, []any{10.0, 0.0, tenant + ":orders"}, []any{a.body["published"], a.body["difference"], a.body["queue"]})
}

func TestALedgerThatCannotBeToldNow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := "/subscriptions/" + subID + "/ledger"
	unavailable := func(why string) {
		t.Helper()
		a := b.get(path)
		require.Equal(t, http.StatusServiceUnavailable, a.status, why)
		require.InDelta(t, 1, a.body["retryAfter"], 0)
	}
	working := b.deps
	b.deps.WaitFolded = func(context.Context, int, int64) error { return context.DeadlineExceeded }
	unavailable("the read tables are behind")
	b.deps = working
	b.deps.LedgerLive = func(context.Context, queries.QueueRef, string) (LedgerLive, error) {
		return LedgerLive{}, fmt.Errorf("%w: no Redis", ErrStateUnavailable)
	}
	unavailable("Redis")
	asked := 0
	b.deps.LedgerLive = func(context.Context, queries.QueueRef, string) (LedgerLive, error) {
		asked++
		return LedgerLive{Position: base + 1000*second}, nil // not folded, whoever says so
	}
	unavailable("the group changes all the time")
	require.Equal(t, ledgerTries, asked)
	b.deps.LedgerLive = func(context.Context, queries.QueueRef, string) (LedgerLive, error) {
		return LedgerLive{}, queries.ErrNotFound
	}
	require.Equal(t, http.StatusNotFound, b.get(path).status, "the group ended")
}

func TestSchedulesAreShown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.requireGet("/schedules?queue=orders")
	names, _ := a.items("name")
	require.Equal(t, []any{"daily", "plain"}, names)
	require.NotContains(t, a.text, "payload")
	names, _ = b.requireGet("/schedules?limit=1&cursor=" + b.requireGet("/schedules?limit=1").body["nextCursor"].(string)).items("name")
	require.Equal(t, []any{"plain"}, names)

	a = b.requireGet("/schedules/" + scheduleID)
	require.Equal(t, `"3"`, a.header.Get("ETag"))
	require.Contains(t, a.text, `"payload":1,`, "it was decrypted")
	require.Contains(t, a.text, `"nextAt":"2027-01-15T08:00:00.000Z"`)
	require.Contains(t, a.text, `"ttlMs":1000`)
	a = b.requireGet("/schedules/00000000-0000-0000-0003-000000000002")
	require.Contains(t, a.text, `"payload":{"a": 1}`)
	require.Contains(t, a.text, `"nextAt":null`)
	b.deps.Open = func(context.Context, string, string, string, []byte) ([]byte, error) {
		return nil, errors.New("no key")
	}
	require.Equal(t, http.StatusServiceUnavailable, b.get("/schedules/"+scheduleID).status)
}

func TestJobsAreShown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	kinds, _ := b.requireGet("/jobs").items("kind")
	require.Equal(t, []any{"replay", "redrive"}, kinds)
	for query, want := range map[string][]any{"?kind=redrive": {"redrive"}, "?status=done": {"replay"}, "?kind=seek&status=done": nil} {
		kinds, _ = b.requireGet("/jobs" + query).items("kind")
		require.Equal(t, want, kinds)
	}
	a := b.requireGet("/jobs/" + jobID)
	require.Equal(t, map[string]any{"subscriptionId": subID}, a.body["spec"])
	require.Nil(t, a.body["finishedAt"])
	_, cursor := b.requireGet("/jobs?limit=1").items("id")
	ids, _ := b.requireGet("/jobs?limit=1&cursor=" + cursor).items("id")
	require.Equal(t, []any{jobID}, ids)
}

func TestAMessageIsExplained(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := "/messages/" + waitingID + "/explain?subscription=" + subID
	a := b.requireGet(path)
	require.NotContains(t, a.text, "secret")
	require.Equal(t, "waiting", a.body["verdict"])
	require.NotContains(t, a.body, "live")
	require.Equal(t, map[string]any{
		"queue": "orders", "status": "published", "publishedAt": "2025-11-25T12:00:00.000Z", "scheduledAt": nil, "expiresAt": nil, "partition": 0.0, "offset": 9.0,
	}, a.body["message"])
	waited := false
	b.deps.WaitFolded = func(_ context.Context, _ int, position int64) error {
		waited = position == base+second
		return nil
	}
	until := time.UnixMilli(1_800_000_000_000)
	b.deps.Live = func(_ context.Context, q queries.Question) (*queries.LiveMessage, error) {
		require.Equal(t, int64(9), q.Offset)
		return &queries.LiveMessage{Position: base + second, State: queries.LiveInFlight, LeaseExpiresAt: &until}, nil
	}
	a = b.requireGet(path)
	require.Equal(t, "in_flight", a.body["verdict"])
	require.Equal(t, map[string]any{"state": "in_flight", "leaseExpiresAt": "2027-01-15T08:00:00.000Z"}, a.body["live"])
	require.True(t, waited)
	// without the log, history answers
	b.deps.Live = func(context.Context, queries.Question) (*queries.LiveMessage, error) {
		return nil, errors.New("no Redis")
	}
	require.Equal(t, "waiting", b.requireGet(path).body["verdict"])
}

func TestDeliveryReadsRefuse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	missing := "00000000-0000-0000-0000-0000000000ff"
	for path, want := range map[string]string{
		"/subscriptions/" + missing + "/dead-letters":                   "404 MQ_SUBSCRIPTION_NOT_FOUND",
		"/subscriptions/" + foreignID + "/dead-letters":                 "404 MQ_SUBSCRIPTION_NOT_FOUND",
		"/subscriptions/x/dead-letters":                                 "400 MQ_VALIDATION_FAILED",
		"/subscriptions/" + subID + "/dead-letters?reason=other":        "400 MQ_VALIDATION_FAILED",
		"/subscriptions/" + subID + "/dead-letters?from=today":          "400 MQ_VALIDATION_FAILED",
		"/subscriptions/" + subID + "/dead-letters?to=today":            "400 MQ_VALIDATION_FAILED",
		"/subscriptions/" + subID + "/dead-letters?cursor=x":            "400 MQ_VALIDATION_FAILED",
		"/subscriptions/" + missing + "/ledger":                         "404 MQ_SUBSCRIPTION_NOT_FOUND",
		"/subscriptions/" + foreignID + "/ledger":                       "404 MQ_SUBSCRIPTION_NOT_FOUND",
		"/subscriptions/" + subID + "/ledger?x=1":                       "400 MQ_VALIDATION_FAILED",
		"/schedules?queue=missing":                                      "404 MQ_QUEUE_NOT_FOUND",
		"/schedules?x=1":                                                "400 MQ_VALIDATION_FAILED",
		"/schedules/" + missing:                                         "404 MQ_SCHEDULE_NOT_FOUND",
		"/schedules/x":                                                  "400 MQ_VALIDATION_FAILED",
		"/jobs?kind=other":                                              "400 MQ_VALIDATION_FAILED",
		"/jobs?status=other":                                            "400 MQ_VALIDATION_FAILED",
		"/jobs/" + missing:                                              "404 MQ_JOB_NOT_FOUND",
		"/jobs/x":                                                       "400 MQ_VALIDATION_FAILED",
		"/messages/" + waitingID + "/explain":                           "400 MQ_VALIDATION_FAILED",
		"/messages/" + waitingID + "/explain?subscription=x":            "400 MQ_VALIDATION_FAILED",
		"/messages/x/explain?subscription=" + subID:                     "400 MQ_VALIDATION_FAILED",
		"/messages/" + missing + "/explain?subscription=" + subID:       "404 MQ_MESSAGE_NOT_FOUND",
		"/messages/" + waitingID + "/explain?subscription=" + missing:   "404 MQ_SUBSCRIPTION_NOT_FOUND",
		"/messages/" + waitingID + "/explain?subscription=" + foreignID: "404 MQ_SUBSCRIPTION_NOT_FOUND",
		"/messages?status=other":                                        "400 MQ_VALIDATION_FAILED",
	} {
		a := b.get(path)
		require.Equal(t, want, fmt.Sprint(a.status, " ", a.body["code"]), path)
	}
	for _, status := range messageStatuses {
		b.requireGet("/messages?status=" + status)
	}
	b.who.Scopes = []string{web.ScopeConsume, web.ScopePublish}
	for _, path := range []string{"/subscriptions/" + subID + "/ledger", "/schedules", "/schedules/" + scheduleID, "/jobs", "/jobs/" + jobID, "/messages/" + waitingID + "/explain"} {
		require.Equal(t, http.StatusForbidden, b.get(path).status, path)
	}
	// another tenant has none of it
	b.who = web.Identity{TenantID: other, Scopes: []string{web.ScopeAdmin}}
	for _, path := range []string{"/schedules/" + scheduleID, "/jobs/" + jobID, "/messages/" + waitingID + "/explain?subscription=" + foreignID} {
		require.Equal(t, http.StatusNotFound, b.get(path).status, path)
	}
	for _, path := range []string{"/schedules", "/jobs"} {
		ids, _ := b.requireGet(path).items("id")
		require.Empty(t, ids)
	}
}
