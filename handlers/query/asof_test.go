package query

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/postgres"
)

// Ids of what fillPast writes.
const (
	pastTopic   = "00000000-0000-0000-0001-00000000000a"
	pastSub     = "00000000-0000-0000-0002-00000000000a"
	pastMessage = "019aba3c-4f00-7000-8000-00000000000a"
	foreignPast = "00000000-0000-0000-0002-00000000000b"
	sealedID    = "019aba3c-4f00-7000-8000-00000000000b"
)

// step is a position, a second after the one before.
func step(n int64) int64 { return base + 10*n*second }

// fillPast writes the history of a queue: created at step 1, with a subscription at 2, a
// message at 3 that failed at 4 and was consumed at 5; changed at 6, gone at 9. Of the
// other shard nothing is folded but its beginning.
func fillPast(t *testing.T) *testBundle {
	t.Helper()
	b := setup(t)
	b.deps.Horizon = func(context.Context) (time.Time, error) { return time.Time{}, nil }
	b.deps.Open = func(_ context.Context, _, topic, id string, _ []byte) ([]byte, error) {
		if topic != pastTopic || id != sealedID {
			return nil, errors.New("sealed for another")
		}
		return []byte(`"opened"`), nil
	}
	event := func(n int64, scope, kind, sub, message, version, data string) string {
		return fmt.Sprintf(`(0, %d, '%s', gen_random_uuid(), '%s', '%s', '%s', nullif('%s', '')::uuid, nullif('%s', ''), %s, timestamptz 'epoch' + %d * interval '1 ms', '{"actor":"me","requestId":"r"}', '%s')`,
			step(n), scope, kind, tenant, pastTopic, sub, message, version, step(n)>>20, data)
	}
	config := `{"topicId":"` + pastTopic + `","name":"past","topicType":"redis_stream","partitionCount":%d,"replicationFactor":1,"retentionMs":1,"messageFormat":"json","compressionType":"none","isPublic":true,"allowedProducers":[],"allowedConsumers":[],"status":"active"}`
	delivery := `{"messageId":"` + pastMessage + `","topicId":"` + pastTopic + `","subscriptionId":"` + pastSub + `","consumerGroup":"g","consumer":"c","attempt":%d}`
	created := `{"subscriptionId":"%s","topicId":"` + pastTopic + `","consumerGroup":"g","consumerName":"c","subscriptionType":"redis_consumer","offsetResetPolicy":"earliest","maxPollRecords":1,"sessionTimeoutMs":1000,"heartbeatIntervalMs":100,"handlerConfig":{},"maxRetryAttempts":1,"retryDelayMs":1,"status":"active","joined":{"group":"%s","began":true}}`
	for _, sql := range []string{
		`INSERT INTO message_topics (id, name, topic_type, is_public, tenant_id, created_at, updated_at, version, shard, status) VALUES ('` + pastTopic + `', 'past', 'redis_stream', true, '` + tenant + `', timestamptz 'epoch' + ` + num(step(1)>>20) + ` * interval '1 ms', now(), 3, 0, 'archived')`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, message_id, version, occurred_at, metadata, data) VALUES ` + strings.Join([]string{
			event(1, "admin", "topic.created", "", "", "1", fmt.Sprintf(config, 1)),
			event(2, "admin", "subscription.created", pastSub, "", "1", fmt.Sprintf(created, pastSub, "g")),
			strings.Replace(event(3, "admin", "subscription.created", foreignPast, "", "1", fmt.Sprintf(created, foreignPast, other+":g")), tenant, other, 1),
			event(3, "message", "message.published", "", pastMessage, "0", `{"payload":1}`),
			event(4, "message", "message.failed", pastSub, pastMessage, "0", fmt.Sprintf(delivery, 1)),
			event(5, "message", "message.consumed", pastSub, pastMessage, "0", fmt.Sprintf(delivery, 2)),
			event(6, "admin", "topic.updated", "", "", "2", fmt.Sprintf(config, 2)),
			event(7, "message", "message.published", "", sealedID, "0", `{"payload":"x"}`),
			event(9, "admin", "topic.deleted", "", "", "3", `{"discarded":{"groups":{"g":1}}}`),
		}, ","),
		`INSERT INTO message_records (message_id, id, topic_id, payload, tenant_id, shard, position, sealed, published_at)
			VALUES ('` + pastMessage + `', gen_random_uuid(), '` + pastTopic + `', '1', '` + tenant + `', 0, ` + num(step(3)) + `, false, timestamptz 'epoch' + ` + num(step(3)>>20) + ` * interval '1 ms'),
			('` + sealedID + `', gen_random_uuid(), '` + pastTopic + `', '"x"', '` + tenant + `', 0, ` + num(step(7)) + `, true, timestamptz 'epoch' + ` + num(step(7)>>20) + ` * interval '1 ms')`,
		`INSERT INTO projection_checkpoints (projection, shard, position) VALUES ('read', 1, 5)`,
	} {
		_, err := b.pool.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	return b
}

func (b *testBundle) asOf(path string, n int64) answer {
	b.t.Helper()
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	return b.get(path + separator + "asOf=" + num(step(n)))
}

func TestThePastIsShown(t *testing.T) {
	t.Parallel()
	b := fillPast(t)
	for name, tc := range map[string]struct {
		path  string
		field string
		// by step, 404 for what is not there
		want map[int64]any
	}{
		"queue":        {"/queues/past", "partitionCount", map[int64]any{0: 404, 1: 1.0, 5: 1.0, 6: 2.0, 8: 2.0, 9: 404, 10: 404}},
		"subscription": {"/subscriptions/" + pastSub, "status", map[int64]any{1: 404, 2: "active", 8: "active", 9: 404}},
		"message":      {"/messages/" + pastMessage, "status", map[int64]any{2: 404, 3: "published", 4: "failed", 5: "consumed", 8: "consumed", 9: 404}},
		"retries":      {"/messages/" + pastMessage, "retryCount", map[int64]any{3: 0.0, 4: 1.0, 5: 1.0}},
		"ledger":       {"/subscriptions/" + pastSub + "/ledger", "unsettled", map[int64]any{1: 404, 2: 0.0, 3: 1.0, 4: 1.0, 5: 0.0, 7: 1.0, 9: 404}},
		"consumed":     {"/subscriptions/" + pastSub + "/ledger", "consumed", map[int64]any{4: 0.0, 5: 1.0}},
		"payload":      {"/messages/" + sealedID, "payload", map[int64]any{6: 404, 7: "opened"}},
	} {
		for n, want := range tc.want {
			a := b.asOf(tc.path, n)
			if want == 404 {
				require.Equal(t, http.StatusNotFound, a.status, "%s at %d: %s", name, n, a.text)
				continue
			}
			require.Equal(t, http.StatusOK, a.status, "%s at %d: %s", name, n, a.text)
			require.Equal(t, want, a.body[tc.field], "%s at %d", name, n)
			require.Equal(t, map[string]any{"position": num(step(n)), "time": web.FormatTime(time.UnixMilli(step(n) >> 20))}, a.body["asOf"])
		}
	}
	require.Equal(t, http.StatusNotFound, b.get("/queues/past").status)
	// a time is all of its millisecond
	at := web.FormatTime(time.UnixMilli(step(6) >> 20))
	require.InDelta(t, 2.0, b.requireGet("/queues/past?asOf=" + at).body["partitionCount"], 0)
	require.Equal(t, `"2"`, b.get("/queues/past?asOf="+at).header.Get("ETag"))
	at = web.FormatTime(time.UnixMilli(step(6)>>20 - 1))
	require.InDelta(t, 1.0, b.requireGet("/queues/past?asOf=" + at).body["partitionCount"], 0)
	// where less is folded, the answer says so
	a := b.requireGet("/queues?asOf=" + web.FormatTime(time.Now()))
	require.Equal(t, []any{num(base + 101*second), "5"}, a.body["asOf"].(map[string]any)["shards"])
	require.Equal(t, num(base+101*second), a.body["asOf"].(map[string]any)["position"])
	// and when it last consumed
	require.Nil(t, b.asOf("/subscriptions/"+pastSub, 4).body["lastConsumedAt"])
	require.Contains(t, b.asOf("/subscriptions/"+pastSub, 4).body, "lastConsumedAt")
	require.Equal(t, web.FormatTime(time.UnixMilli(step(5)>>20)), b.asOf("/subscriptions/"+pastSub, 5).body["lastConsumedAt"])
}

func TestPagesOfThePastAreAsOfTheSame(t *testing.T) {
	t.Parallel()
	b := fillPast(t)
	path := "/messages?queue=past&limit=1&asOf=" + web.FormatTime(time.Now())
	// the queue is gone by now, but for this page the shard is not folded that far
	_, err := b.pool.Exec(t.Context(), `UPDATE projection_checkpoints SET position = $1 WHERE shard = 0`, step(8))
	require.NoError(t, err)
	first, cursor := b.requireGet(path).items("messageId")
	require.Equal(t, []any{sealedID}, first)
	_, err = b.pool.Exec(t.Context(), `UPDATE projection_checkpoints SET position = $1 WHERE shard = 0`, step(9))
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, b.get(path).status)
	a := b.requireGet(path + "&cursor=" + cursor)
	second, end := a.items("messageId")
	require.Equal(t, []any{pastMessage}, second)
	require.Empty(t, end)
	require.Equal(t, num(step(8)), a.body["asOf"].(map[string]any)["position"])
	// a cursor is good for this moment alone
	require.Equal(t, http.StatusBadRequest, b.get("/messages?queue=past&limit=1&asOf=2025-11-25T13:00:00Z&cursor="+cursor).status)
	for status, want := range map[string][]any{"failed": {pastMessage}, "consumed": nil} {
		found, _ := b.asOf("/messages?queue=past&status="+status, 4).items("messageId")
		require.Equal(t, want, found, status)
	}
}

func TestAsOfIsRefused(t *testing.T) {
	t.Parallel()
	b := fillPast(t)
	for _, path := range []string{"/queues", "/queues/past", "/subscriptions", "/subscriptions/" + pastSub, "/messages", "/messages/" + pastMessage, "/subscriptions/" + pastSub + "/ledger"} {
		for _, bad := range []string{
			"", "x", "-1", "%2B5", "1.5", "9223372036854775807", "9223372036854775808", "2025-11-25", "0001-01-01T00:00:00Z", "9999-12-31T00:00:00Z",
			time.Now().Add(time.Minute).UTC().Format(time.RFC3339), num(time.Now().Add(time.Minute).UnixMilli() << 20),
		} {
			a := b.get(path + "?asOf=" + bad)
			require.Equal(t, http.StatusBadRequest, a.status, "%s %q: %s", path, bad, a.text)
			detail := a.body["details"].([]any)[0].(map[string]any)
			require.Equal(t, []any{"asOf", asOfLimit}, []any{detail["field"], detail["limit"]})
		}
		require.Equal(t, http.StatusBadRequest, b.get(path+"?asOf=1&asOf=2").status)
		require.Equal(t, http.StatusBadRequest, b.get(path+"?asOf=1&nonsense=2").status)
	}
	require.Equal(t, http.StatusBadRequest, b.get("/schedules?asOf=1").status)
}

// What retention has dropped is not answered wrongly, and a missing thing is not told from
// one of another tenant.
func TestThePastThatIsNotKept(t *testing.T) {
	t.Parallel()
	b := fillPast(t)
	horizon := time.UnixMilli(step(4) >> 20)
	b.deps.Horizon = func(context.Context) (time.Time, error) { return horizon, nil }
	since := horizon.UTC().Format(time.RFC3339)
	for _, path := range []string{"/messages", "/messages/" + pastMessage, "/messages/" + waitingID, "/subscriptions/" + pastSub + "/ledger", "/subscriptions/" + foreignID + "/ledger"} {
		a := b.asOf(path, 3)
		require.Equal(t, http.StatusGone, a.status, "%s: %s", path, a.text)
		require.Equal(t, "MQ_HISTORY_GONE", a.body["code"])
		require.Contains(t, a.body["message"], since)
	}
	// what is kept for ever is there
	require.Equal(t, http.StatusOK, b.asOf("/queues/past", 3).status)
	require.Equal(t, http.StatusOK, b.asOf("/subscriptions/"+pastSub, 3).status)
	// of a message from before, and of a group that began before and has ended, too little is left
	for _, path := range []string{"/messages/" + pastMessage, "/messages/019aba3c-4eff-7000-8000-000000000001", "/subscriptions/" + pastSub + "/ledger"} {
		a := b.asOf(path, 5)
		require.Equal(t, http.StatusGone, a.status, "%s: %s", path, a.text)
	}
	a := b.asOf("/messages", 5)
	require.Equal(t, http.StatusOK, a.status, a.text)
	require.Equal(t, web.FormatTime(horizon), a.body["asOf"].(map[string]any)["keptSince"])
	// when it last consumed is not known where history does not reach back
	a = b.asOf("/subscriptions/"+pastSub, 4)
	require.NotContains(t, a.body, "lastConsumedAt")
	// retention that works while an answer is made is noticed
	asked := 0
	b.deps.Horizon = func(context.Context) (time.Time, error) {
		if asked++; asked == 1 {
			return time.Time{}, nil
		}
		return horizon, nil
	}
	for _, path := range []string{"/messages", "/messages/" + sealedID, "/subscriptions/" + pastSub + "/ledger"} {
		asked = 0
		require.Equal(t, http.StatusGone, b.asOf(path, 3).status, path)
		asked = 0
		require.Equal(t, http.StatusServiceUnavailable, b.asOf(path, 7).status, path)
	}
	b.deps.Horizon = func(context.Context) (time.Time, error) { return time.Time{}, errors.New("away") }
	require.Equal(t, http.StatusServiceUnavailable, b.asOf("/messages", 3).status)
}

// What is left once retention has worked is told as it was, and nothing else.
func TestThePastAfterRetention(t *testing.T) {
	t.Parallel()
	b := fillPast(t)
	b.deps.Horizon = func(ctx context.Context) (time.Time, error) {
		value, err := postgres.Setting(ctx, b.pool, postgres.HorizonSetting)
		if err != nil || value == "" {
			return time.Time{}, err
		}
		return time.Parse(time.RFC3339, value)
	}
	require.Equal(t, http.StatusOK, b.asOf("/messages/"+pastMessage, 5).status)
	now := time.Date(2025, 11, 27, 12, 0, 0, 0, time.UTC)
	require.NoError(t, postgres.DropExpired(t.Context(), b.pool, now, 24*time.Hour, slog.New(slog.DiscardHandler)))
	for _, path := range []string{"/messages", "/messages/" + pastMessage, "/subscriptions/" + pastSub + "/ledger"} {
		require.Equal(t, http.StatusGone, b.asOf(path, 5).status, path)
	}
	require.InDelta(t, 1.0, b.asOf("/queues/past", 5).body["partitionCount"], 0)
	a := b.asOf("/subscriptions/"+pastSub, 5)
	require.Equal(t, "active", a.body["status"])
	require.NotContains(t, a.body, "lastConsumedAt")
	const after = "asOf=2025-11-26T01:00:00Z"
	require.Equal(t, http.StatusGone, b.get("/messages/"+pastMessage+"?"+after).status)
	a = b.requireGet("/messages?" + after)
	require.Empty(t, a.body["data"])
	require.Equal(t, "2025-11-26T00:00:00.000Z", a.body["asOf"].(map[string]any)["keptSince"])
}

func TestAnotherTenantsPastIsNone(t *testing.T) {
	t.Parallel()
	b := fillPast(t)
	b.who = web.Identity{TenantID: other, Scopes: []string{web.ScopeRead}}
	missing := "00000000-0000-0000-0009-000000000009"
	for path, nothing := range map[string]string{
		"/queues/past":                           "/queues/none",
		"/queues/" + tenant + ":past":            "/queues/" + tenant + ":none",
		"/queues/past/history":                   "/queues/none/history",
		"/subscriptions/" + pastSub:              "/subscriptions/" + missing,
		"/subscriptions/" + pastSub + "/ledger":  "/subscriptions/" + missing + "/ledger",
		"/subscriptions/" + pastSub + "/history": "/subscriptions/" + missing + "/history",
		"/messages/" + pastMessage:               "/messages/" + missing,
		"/messages?queue=past":                   "/messages?queue=none",
	} {
		get := func(path string) answer { return b.asOf(path, 8) }
		if strings.HasSuffix(path, "/history") {
			get = b.get
		}
		a, want := get(path), get(nothing)
		require.Equal(t, http.StatusNotFound, a.status, "%s: %s", path, a.text)
		delete(a.body, "requestId")
		delete(want.body, "requestId")
		blank := strings.NewReplacer("past", "*", "none", "*", pastSub, "*", pastMessage, "*", missing, "*")
		require.Equal(t, blank.Replace(fmt.Sprint(want.body)), blank.Replace(fmt.Sprint(a.body)), path)
	}
	for _, path := range []string{"/queues", "/messages", "/subscriptions?queue=past"} {
		list, _ := b.asOf(path, 8).items("id")
		require.Empty(t, list, path)
	}
	// what they had on it is theirs, and counts what its owner published
	a := b.asOf("/subscriptions/"+foreignPast+"/ledger", 8)
	require.Equal(t, http.StatusOK, a.status, a.text)
	require.Equal(t, []any{1.0, 0.0, 1.0, ""}, []any{a.body["published"], a.body["consumed"], a.body["unsettled"], a.body["queue"]})
	require.Equal(t, http.StatusNotFound, b.asOf("/subscriptions/"+foreignPast, 2).status)
	require.Equal(t, http.StatusNotFound, b.asOf("/subscriptions/"+foreignPast, 9).status, "it ended with its queue")
	// what is public now and was then is shown as it was then
	_, err := b.pool.Exec(t.Context(), `UPDATE message_topics SET status = 'active' WHERE id = $1`, pastTopic)
	require.NoError(t, err)
	require.InDelta(t, 1.0, b.asOf("/queues/"+tenant+":past", 5).body["partitionCount"], 0)
	require.Equal(t, tenant+":past", b.asOf("/subscriptions/"+foreignPast, 5).body["queue"])
	_, err = b.pool.Exec(t.Context(), `UPDATE event_history SET data = (data::jsonb || '{"isPublic":false}')::json WHERE topic_id = $1 AND kind = 'topic.created'`, pastTopic)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, b.asOf("/queues/"+tenant+":past", 5).status)
	require.Equal(t, http.StatusOK, b.asOf("/queues/"+tenant+":past", 6).status)
}

func TestHistoryIsShown(t *testing.T) {
	t.Parallel()
	b := fillPast(t)
	a := b.requireGet("/queues/past/history?limit=2")
	require.Equal(t, map[string]any{
		"type": "topic.updated", "occurredAt": web.FormatTime(time.UnixMilli(step(6) >> 20)), "shard": 0.0, "position": num(step(6)), "version": 2.0,
		"actor": "me", "requestId": "r", "topicId": pastTopic, "changes": []any{map[string]any{"field": "partitionCount", "from": 1.0, "to": 2.0}},
	}, without(a.body["data"].([]any)[1].(map[string]any), "id"))
	_, cursor := a.items("type")
	types, end := b.requireGet("/queues/past/history?limit=2&cursor=" + cursor).items("type")
	require.Equal(t, []any{"topic.deleted"}, types)
	require.Empty(t, end)
	types, _ = b.requireGet("/subscriptions/" + pastSub + "/history").items("type")
	require.Equal(t, []any{"subscription.created", "topic.deleted"}, types)
	for path, status := range map[string]int{
		"/queues/never/history": 404, "/queues/%00/history": 404, "/queues/past/history?asOf=1": 400, "/subscriptions/x/history": 400,
		"/subscriptions/" + pastTopic + "/history": 404, "/queues/past/history?cursor=x": 400, "/queues/past/history?limit=501": 400,
	} {
		require.Equal(t, status, b.get(path).status, path)
	}
	b.who.Scopes = []string{web.ScopeConsume}
	require.Equal(t, http.StatusForbidden, b.get("/queues/past/history").status)
}

func without(m map[string]any, name string) map[string]any {
	delete(m, name)
	return m
}

// Whatever ?asOf= is, it is a position that is one, or refused.
func FuzzParseAsOf(f *testing.F) {
	for _, text := range []string{"", "0", "1859476774117081088", "-1", "+1", "1e3", "9223372036854775808", "2026-01-31T08:00:00Z", "2026-01-31T08:00:00.0009+14:00", "9998-12-31T23:59:59Z", "1970-12-31T23:59:59Z"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		position, ok := parseAsOf(text)
		if !ok {
			return
		}
		require.GreaterOrEqual(t, position, int64(0))
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			require.Equal(t, n, position)
			return
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		if at.Year() < 2248 { // as long as positions last
			require.Equal(t, at.UnixMilli(), position>>20)
			require.Equal(t, at.UnixMilli()+1, (position+1)>>20)
		}
	})
}
