package command_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/web"
)

// later is the answer to a message that is to be published later, or was at once.
type later struct {
	MessageID   string     `json:"messageId"`
	Queue       string     `json:"queue"`
	Partition   int        `json:"partition"`
	Offset      *int64     `json:"offset"`
	Status      string     `json:"status"`
	PublishedAt *time.Time `json:"publishedAt"`
	ScheduledAt *time.Time `json:"scheduledAt"`
	Duplicate   bool       `json:"duplicate"`
}

func TestAMessageIsPublishedLater(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sub := b.subscribed(t)
	b.fold(t)
	noon := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	for path, field := range map[string]string{
		"/publish/delayed":   `"delayMs":3600000`,
		"/publish/scheduled": `"scheduledAt":"` + noon.UTC().Format(time.RFC3339Nano) + `"`,
	} {
		body := `{"queue":"orders","payload":{ "a" : 1 },"partition":1,"maxRetryAttempts":0,"retryDelayMs":0,` + field + `}`
		rec := b.post(path, body, "Prefer", "", "Idempotency-Key", "k"+path)
		got := decode[later](t, rec, http.StatusCreated)
		require.NotEmpty(t, got.MessageID)
		require.WithinDuration(t, noon, *got.ScheduledAt, 30*time.Second)
		if path == "/publish/scheduled" {
			require.True(t, noon.Equal(*got.ScheduledAt))
		}
		require.Equal(t, later{MessageID: got.MessageID, Queue: "orders", Partition: 1, Status: "scheduled", ScheduledAt: got.ScheduledAt}, got)
		require.Contains(t, rec.Body.String(), `"offset":null`)
		require.Contains(t, rec.Body.String(), `"publishedAt":null`)
		again := got
		again.Duplicate = true
		require.Equal(t, again, decode[later](t, b.post(path, body, "Idempotency-Key", "k"+path), http.StatusAccepted))
		requireProblem(t, b.post(path, `{"queue":"orders","payload":2,`+field+`}`, "Idempotency-Key", "k"+path), http.StatusUnprocessableEntity, "MQ_IDEMPOTENCY_KEY_REUSED")
	}
	// nobody gets it before
	var pulled pulled
	b.must(t, &pulled, "/subscriptions/"+sub+"/pull", `{}`)
	require.Empty(t, pulled.Messages)
}

func TestWhatIsDueIsPublishedAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sub := b.subscribed(t)
	bodies := map[string]string{
		"/publish/delayed":   `{"queue":"orders","payload":1,"delayMs":0}`,
		"/publish/scheduled": `{"queue":"orders","payload":1,"scheduledAt":"` + time.Now().Add(-10*time.Second).UTC().Format(time.RFC3339Nano) + `"}`,
	}
	for path, body := range bodies {
		got := decode[later](t, b.post(path, body), http.StatusAccepted)
		require.Equal(t, "published", got.Status)
		require.NotNil(t, got.Offset)
		require.NotNil(t, got.PublishedAt)
		require.Nil(t, got.ScheduledAt)
	}
	var pulled pulled
	b.must(t, &pulled, "/subscriptions/"+sub+"/pull", `{}`)
	require.Len(t, pulled.Messages, 2)
}

func TestAMessageSaysHowItIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sub := b.subscribed(t)
	const how = `"maxRetryAttempts":1000,"retryDelayMs":86400000`
	const never = `"maxRetryAttempts":0`
	for path, body := range map[string]string{
		"/publish":               `{"queue":"orders","payload":1,` + how + `}`,
		"/topics/orders/publish": `{"payload":1,` + how + `}`,
		"/publish/batch":         `{"messages":[{"queue":"orders","payload":2,` + never + `},{"queue":"orders","payload":2,` + never + `}]}`,
	} {
		require.Equal(t, http.StatusAccepted, b.post(path, body).Code, path)
	}
	var got pulled
	b.must(t, &got, "/subscriptions/"+sub+"/pull", `{}`)
	require.Len(t, got.Messages, 4)
	for _, m := range got.Messages {
		var answer settled
		b.must(t, &answer, "/subscriptions/"+sub+"/nack", `{"ackTokens":["`+m.AckToken+`"]}`)
		want := map[string]string{"1": "retrying", "2": "dead_letter"}[string(m.Payload)]
		require.Equal(t, want, answer.Results[0].Status, string(m.Payload))
	}
}

func TestAScheduledMessageIsCancelled(t *testing.T) {
	t.Parallel()
	status, fault := map[string]string{}, error(nil)
	b := setup(t, func(d *command.Deps) {
		d.MessageStatus = func(_ context.Context, tenantID, messageID string) (string, error) {
			return status[tenantID+messageID], fault
		}
	})
	b.subscribed(t)
	b.fold(t)
	scheduled := func() (id, path string) {
		id = decode[later](t, b.post("/publish/delayed", `{"queue":"orders","payload":1,"delayMs":3600000}`), http.StatusAccepted).MessageID
		return id, "/messages/" + id + "/cancel"
	}
	id, path := scheduled()
	b.refusesNothingness(t, path, "/messages/%s/cancel")
	requireProblem(t, b.post(path, "", "X-Test-Tenant", otherTenant), http.StatusNotFound, noMessage)
	requireProblem(t, b.post("/messages/"+nothere+"/cancel", ""), http.StatusNotFound, noMessage)
	rec := b.post(path, "", "Prefer", "")
	require.Equal(t, http.StatusOK, rec.Code, rec.Body)
	require.JSONEq(t, `{"messageId":"`+id+`","status":"cancelled"}`, rec.Body.String())
	// again: the read side knows
	status[tenant+id] = "cancelled"
	require.Equal(t, http.StatusOK, b.post(path, "{}", "Prefer", "").Code)
	requireProblem(t, b.post(path, "", "X-Test-Tenant", otherTenant), http.StatusNotFound, noMessage)
	// without waiting for the fold
	_, path = scheduled()
	rec = b.post(path, "")
	require.Equal(t, http.StatusAccepted, rec.Code, rec.Body)
	// published already, in whatever way that went on
	for _, other := range []string{"published", "consumed", "failed", "dead_letter", "expired", "purged"} {
		status[tenant+nothere] = other
		p := requireProblem(t, b.post("/messages/"+nothere+"/cancel", ""), http.StatusConflict, conflict)
		require.Contains(t, p.Message, "is "+other)
	}
	// the read side is behind, or silent
	status[tenant+nothere] = "scheduled"
	p := requireProblem(t, b.post("/messages/"+nothere+"/cancel", ""), http.StatusServiceUnavailable, "MQ_UNAVAILABLE")
	require.Equal(t, 1, p.RetryAfter)
	fault = errors.New("password of postgres")
	p = requireProblem(t, b.post("/messages/"+nothere+"/cancel", ""), http.StatusServiceUnavailable, "MQ_UNAVAILABLE")
	require.NotContains(t, p.Message, "postgres")
}

func TestWhoMayNotPublishMayNotCancel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders","allowedProducers":["ann"]}`)
	body := fmt.Sprintf(`{"queue":"orders","payload":1,"delayMs":%d}`, int64(commands.DelayMsMax))
	requireProblem(t, b.post("/publish/delayed", body, "X-Test-Subject", "bob", "X-Test-Scope", web.ScopePublish), http.StatusForbidden, "MQ_FORBIDDEN")
	id := decode[later](t, b.post("/publish/delayed", body, "X-Test-Subject", "ann", "X-Test-Scope", web.ScopePublish), http.StatusAccepted).MessageID
	requireProblem(t, b.post("/messages/"+id+"/cancel", "", "X-Test-Subject", "bob", "X-Test-Scope", web.ScopePublish), http.StatusForbidden, "MQ_FORBIDDEN")
	require.Equal(t, http.StatusAccepted, b.post("/messages/"+id+"/cancel", "", "X-Test-Subject", "ann", "X-Test-Scope", web.ScopePublish).Code)
}
