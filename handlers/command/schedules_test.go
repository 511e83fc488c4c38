package command_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/web"
)

type schedule struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Queue         string            `json:"queue"`
	TopicID       string            `json:"topicId"`
	TenantID      string            `json:"tenantId"`
	Cron          string            `json:"cron"`
	TimeZone      string            `json:"timeZone"`
	Payload       json.RawMessage   `json:"payload"`
	Key           string            `json:"key"`
	Headers       map[string]string `json:"headers"`
	CorrelationID string            `json:"correlationId"`
	ContentType   string            `json:"contentType"`
	TTLMs         *int64            `json:"ttlMs"`
	Status        string            `json:"status"`
	CreatedAt     time.Time         `json:"createdAt"`
	UpdatedAt     time.Time         `json:"updatedAt"`
	Version       int64             `json:"version"`
	NextAt        *time.Time        `json:"nextAt"`
}

func (b *testBundle) schedule(t testing.TB, rec *httptest.ResponseRecorder, status int) schedule {
	t.Helper()
	s := decode[schedule](t, rec, status)
	require.Equal(t, []string{`"1"`, `"2"`, `"3"`}[s.Version-1], rec.Header().Get("ETag"))
	return s
}

func TestASchedulesLife(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders"}`)
	b.fold(t)
	body := `{"name":"daily","queue":"orders","cron":"30 8 * * *","timeZone":"Europe/Berlin","payload":{ "a" : 1.0 },"key":"k","headers":{"h":"v"},"correlationId":"c","contentType":"text/plain","ttlMs":5}`
	rec := b.post("/schedules", body, "Prefer", "", "Idempotency-Key", "k")
	first := b.schedule(t, rec, http.StatusCreated)
	require.Equal(t, "/api/v1/mq/schedules/"+first.ID, rec.Header().Get("Location"))
	require.Contains(t, rec.Body.String(), `"payload":{ "a" : 1.0 }`)
	require.Equal(t, schedule{
		ID: first.ID, Name: "daily", Queue: "orders", TopicID: first.TopicID, TenantID: tenant, Cron: "30 8 * * *", TimeZone: "Europe/Berlin",
		Payload: json.RawMessage(`{ "a" : 1.0 }`), Key: "k", Headers: map[string]string{"h": "v"}, CorrelationID: "c", ContentType: "text/plain",
		TTLMs: new(int64(5)), Status: "active", CreatedAt: first.CreatedAt, UpdatedAt: first.CreatedAt, Version: 1, NextAt: first.NextAt,
	}, first)
	require.NotNil(t, first.NextAt)
	require.True(t, first.NextAt.After(time.Now()) && first.NextAt.Before(time.Now().Add(25*time.Hour+time.Minute)), first.NextAt)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	require.Equal(t, "08:30", first.NextAt.In(berlin).Format("15:04"))
	// the same request again, and another under its key
	require.Equal(t, first.ID, b.schedule(t, b.post("/schedules", body, "Idempotency-Key", "k"), http.StatusAccepted).ID)
	requireProblem(t, b.post("/schedules", strings.Replace(body, "daily", "d", 1), "Idempotency-Key", "k"), http.StatusUnprocessableEntity, "MQ_IDEMPOTENCY_KEY_REUSED")
	// pause and resume, twice each
	path := "/schedules/" + first.ID
	for n, step := range []struct {
		what, status string
		version      int64
	}{{"pause", "paused", 2}, {"pause", "paused", 2}, {"resume", "active", 3}, {"resume", "active", 3}} {
		rec := b.post(path+"/"+step.what, []string{"", "{}"}[n%2], "Prefer", "")
		s := b.schedule(t, rec, http.StatusOK)
		require.Equal(t, []any{step.status, step.version, first.CreatedAt}, []any{s.Status, s.Version, s.CreatedAt})
		require.JSONEq(t, string(first.Payload), string(s.Payload))
		require.Equal(t, step.status == "active", s.NextAt != nil)
		require.False(t, s.UpdatedAt.Before(first.UpdatedAt))
	}
	require.Equal(t, http.StatusNoContent, b.do(http.MethodDelete, path, "", "Prefer", "").Code)
	requireProblem(t, b.do(http.MethodDelete, path, ""), http.StatusNotFound, noSchedule)
	requireProblem(t, b.post(path+"/pause", ""), http.StatusNotFound, noSchedule)
}

func TestASchedulesDefaults(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders"}`)
	rec := b.post("/schedules", `{"queue":"orders","cron":"@hourly","payload":null,"status":"paused"}`)
	s := b.schedule(t, rec, http.StatusAccepted)
	require.Equal(t, []string{s.ID, "UTC", "paused", "null"}, []string{s.Name, s.TimeZone, s.Status, string(s.Payload)})
	for _, text := range []string{`"headers":{}`, `"nextAt":null`} {
		require.Contains(t, rec.Body.String(), text)
	}
	for _, absent := range []string{`"key"`, `"correlationId"`, `"contentType"`, `"ttlMs"`} {
		require.NotContains(t, rec.Body.String(), absent)
	}
	s = b.schedule(t, b.post("/schedules/"+s.ID+"/resume", ""), http.StatusAccepted)
	require.NotNil(t, s.NextAt)
}

func TestHostileChangesOfSchedules(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders"}`)
	id := decode[schedule](t, b.post("/schedules", `{"queue":"orders","cron":"@daily","payload":1}`), http.StatusAccepted).ID
	version := 1
	for _, c := range []change{{http.MethodPost, "/pause", ""}, {http.MethodPost, "/resume", ""}, {http.MethodDelete, "", ""}} {
		path := "/schedules/" + id + c.path
		if c.method == http.MethodPost {
			b.refusesNothingness(t, path, "/schedules/%s"+c.path)
		}
		requireProblem(t, b.do(c.method, path, "", "X-Test-Tenant", otherTenant), http.StatusNotFound, noSchedule)
		requireProblem(t, b.do(c.method, "/schedules/"+nothere+c.path, ""), http.StatusNotFound, noSchedule)
		p := requireProblem(t, b.do(c.method, "/schedules/x"+c.path, ""), http.StatusBadRequest, invalid)
		require.Equal(t, "id", p.Details[0].Field)
		p = requireProblem(t, b.do(c.method, path, "", "If-Match", `W/"1"`), http.StatusBadRequest, invalid)
		require.Equal(t, etagLimit, p.Details[0].Limit)
		requireProblem(t, b.do(c.method, path, "", "If-Match", `"99"`), http.StatusPreconditionFailed, mismatch)
		rec := b.do(c.method, path, "", "If-Match", []string{`"1"`, `"2"`, `"3"`}[version-1])
		require.Equal(t, http.StatusAccepted, rec.Code, rec.Body)
		version++
	}
}

func TestWhoMayNotPublishMayNotSchedule(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders","allowedProducers":["ann"]}`)
	requireProblem(t, b.post("/schedules", `{"queue":"orders","cron":"@daily","payload":1}`, "X-Test-Subject", "bob", "X-Test-Scope", web.ScopePublish), http.StatusForbidden, "MQ_FORBIDDEN")
}

func TestAnEncryptedScheduleIsShownAsItWasGiven(t *testing.T) {
	t.Parallel()
	var broken bool
	seal := func(_ context.Context, tenantID, topicID, id string, payload []byte) ([]byte, error) {
		return json.Marshal(strings.Join([]string{tenantID, topicID, id, string(payload)}, "|"))
	}
	open := func(_ context.Context, tenantID, topicID, id string, payload []byte) ([]byte, error) {
		var text string
		if err := json.Unmarshal(payload, &text); err != nil || broken {
			return nil, errors.New("the key is elsewhere")
		}
		return []byte(strings.TrimPrefix(text, strings.Join([]string{tenantID, topicID, id, ""}, "|"))), nil
	}
	plain := setup(t)
	b := setup(t, func(d *command.Deps) {
		cfg := dispatcherConfig()
		cfg.Seal, cfg.Open = seal, open
		d.Commands, d.Open = commands.NewDispatcher(plain.log, cfg), open
	})
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders"}`)
	s := decode[schedule](t, b.post("/schedules", `{"queue":"orders","cron":"@daily","payload":{ "secret" : 1 }}`), http.StatusAccepted)
	require.JSONEq(t, `{"secret":1}`, string(s.Payload))
	s = decode[schedule](t, b.post("/schedules/"+s.ID+"/pause", ""), http.StatusAccepted)
	require.JSONEq(t, `{"secret":1}`, string(s.Payload))
	broken = true
	p := requireProblem(t, b.post("/schedules/"+s.ID+"/pause", ""), http.StatusServiceUnavailable, "MQ_UNAVAILABLE")
	require.NotContains(t, p.Message, "elsewhere")
}
