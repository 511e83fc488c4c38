package main

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
)

// beforeRetention asks for what was before messages are kept. Nothing of these tests is
// that old.
func beforeRetention(c *scene, op documentedOp) (*instance, *docRequest) {
	pool, err := postgres.Open(c.t.Context(), c.main.cfg.DatabaseURL)
	require.NoError(c.t, err)
	defer pool.Close()
	_, err = postgres.FixSetting(c.t.Context(), pool, postgres.HorizonSetting, "2020-01-01T00:00:00Z")
	require.NoError(c.t, err)
	r := c.first(op)
	r.query.Set("asOf", "2019-12-31T23:59:59Z")
	return c.main, r
}

// What is answered of the past is as documented, and is the past: what was there then is
// there after it has changed and gone, and was not there before.
func TestTheDocumentedPastIsTrue(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	c := l.scene
	before := time.Now()
	past := func(id string, path map[string]string, asOf string, status int) answer {
		t.Helper()
		r := l.byID[id].like(example{})
		clear(r.query)
		r.path = path
		if asOf != "" {
			r.query.Set("asOf", asOf)
		}
		c.bearer(r, "mq:read")
		got := l.truth.send(t, l.main.url, r)
		require.Equal(t, status, got.status, "%s: %s", id, got.body)
		return got
	}
	c.post("/queues", `{"name":"jobs"}`).is(http.StatusCreated)
	c.subscription = text(c.post("/subscriptions", `{"queue":"jobs","consumerGroup":"g","offsetResetPolicy":"earliest"}`).is(http.StatusCreated)["id"])
	c.message = text(c.post("/publish", `{"queue":"jobs","payload":{"n":1}}`).is(http.StatusCreated)["messageId"])
	queue, sub, message := map[string]string{"name": "jobs"}, map[string]string{"id": c.subscription}, map[string]string{"messageId": c.message}
	at := text(past("getLedger", sub, "", http.StatusOK).is(http.StatusOK)["position"])
	c.post("/subscriptions/"+c.subscription+"/ack", `{"ackTokens":["`+c.token()+`"]}`).is(http.StatusOK)
	eventually(t, "it is consumed", func() bool {
		return past("getMessage", message, "", http.StatusOK).is(http.StatusOK)["status"] == "consumed"
	})
	c.as(c.tenant, http.MethodPut, "/queues/jobs", `{"description":"another"}`).is(http.StatusOK)
	require.Equal(t, http.StatusNoContent, c.as(c.tenant, http.MethodDelete, "/queues/jobs", "").status)
	past("getQueue", queue, "", http.StatusNotFound)

	q := past("getQueue", queue, at, http.StatusOK).is(http.StatusOK)
	require.NotContains(t, q, "description")
	require.NotContains(t, q, "state")
	require.Equal(t, at, q["asOf"].(map[string]any)["position"])
	require.InDelta(t, 1, past("getSubscription", sub, at, http.StatusOK).is(http.StatusOK)["version"], 0)
	ledger := past("getLedger", sub, at, http.StatusOK).is(http.StatusOK)
	require.InDelta(t, 1, ledger["unsettled"], 0)
	require.InDelta(t, 0, ledger["consumed"], 0)
	m := past("getMessage", message, at, http.StatusOK).is(http.StatusOK)
	require.Equal(t, "published", m["status"])
	require.Equal(t, map[string]any{"n": 1.0}, m["payload"])
	for _, id := range []string{"listQueues", "listSubscriptions", "listMessages"} {
		require.Len(t, list(past(id, nil, at, http.StatusOK).is(http.StatusOK)["data"]), 1, id)
		require.Empty(t, list(past(id, nil, "", http.StatusOK).is(http.StatusOK)["data"]), id)
	}
	early := before.Add(-time.Minute).Format(time.RFC3339)
	past("getQueue", queue, early, http.StatusNotFound)
	past("getSubscription", sub, early, http.StatusNotFound)
	past("getLedger", sub, early, http.StatusNotFound)
	past("getMessage", message, early, http.StatusNotFound)
	for _, bad := range []string{time.Now().Add(time.Hour).Format(time.RFC3339), "yesterday", "-5", "9223372036854775807"} {
		past("getQueue", queue, bad, http.StatusBadRequest).refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
	}
	changes := list(past("listQueueHistory", queue, "", http.StatusOK).is(http.StatusOK)["data"])
	require.Len(t, changes, 3)
	require.Equal(t, []any{map[string]any{"field": "description", "from": nil, "to": "another"}}, changes[1]["changes"])
	require.Equal(t, "topic.deleted", changes[2]["type"])
	changes = list(past("listSubscriptionHistory", sub, "", http.StatusOK).is(http.StatusOK)["data"])
	require.Len(t, changes, 2, "the subscription ended with its queue")
}

// The service reads the horizon that retention notes.
func TestTheHorizonIsTheRetentions(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.RetentionDays = 0 // the test's own is the only one
	start(t, cfg, "")
	pool, err := postgres.Open(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := &service{pool: pool}
	at, err := s.horizon(t.Context())
	require.NoError(t, err)
	require.Zero(t, at)
	now := time.Now()
	require.NoError(t, postgres.DropExpired(context.WithoutCancel(t.Context()), pool, now, 24*time.Hour, slog.New(slog.DiscardHandler)))
	at, err = s.horizon(t.Context())
	require.NoError(t, err)
	require.Equal(t, now.UTC().Add(-24*time.Hour).Truncate(24*time.Hour), at)
}
