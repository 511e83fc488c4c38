package command_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

// keyFilter lets messages of one key pass.
type keyFilter struct {
	Key string `json:"key"`
}

func (f keyFilter) Match(key string, _ map[string]string, _ []byte) (passes bool, why string) {
	if key != f.Key {
		return false, fmt.Sprintf("key is %q", key)
	}
	return true, ""
}

var errNoFilter = errors.New("it is no filter")

func compileFilter(raw []byte) (commands.Filter, error) { //nolint:ireturn // as the dispatcher wants it
	var f keyFilter
	if err := json.Unmarshal(raw, &f); err != nil || strings.Contains(string(raw), "nonsense") {
		return nil, errNoFilter
	}
	return f, nil
}

type sought struct {
	SubscriptionID string `json:"subscriptionId"`
	To             string `json:"to"`
	Older          bool   `json:"older"`
	JobID          string `json:"jobId"`
}

func TestASeekMovesTheGroup(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sub := b.subscribed(t)
	b.fold(t)
	for range 3 {
		require.Equal(t, http.StatusAccepted, b.post("/publish", `{"queue":"orders","payload":1,"partition":0}`).Code)
	}
	path := "/subscriptions/" + sub
	for _, tc := range []struct {
		to, shown string
		messages  int
	}{
		{`"latest"`, "latest", 0}, {`"earliest"`, "earliest", 3}, {`1`, "1", 2}, {`"2"`, "2", 1}, {`"2026-01-31T08:00:00Z"`, "2026-01-31T08:00:00Z", 3}, {`"2199-01-31T08:00:00+01:00"`, "2199-01-31T08:00:00+01:00", 0},
	} {
		rec := b.post(path+"/seek", `{"to":`+tc.to+`}`, "Prefer", "")
		require.Equal(t, http.StatusOK, rec.Code, rec.Body)
		require.JSONEq(t, `{"subscriptionId":"`+sub+`","to":"`+tc.shown+`","older":false}`, rec.Body.String(), tc.to)
		var got pulled
		b.must(t, &got, path+"/pull", `{}`)
		require.Len(t, got.Messages, tc.messages, tc.to)
	}
	require.Equal(t, http.StatusAccepted, b.post(path+"/seek", `{"to":"latest"}`).Code)
	// which version it is of
	requireProblem(t, b.post(path+"/seek", `{"to":"latest"}`, "If-Match", `"9"`), http.StatusPreconditionFailed, mismatch)
	p := requireProblem(t, b.post(path+"/seek", `{"to":"latest"}`, "If-Match", `9`), http.StatusBadRequest, invalid)
	require.Equal(t, etagLimit, p.Details[0].Limit)
	require.Equal(t, http.StatusAccepted, b.post(path+"/seek", `{"to":"latest"}`, "If-Match", `"1"`).Code)
}

func TestWhatOnlyHistoryHasIsAJobs(t *testing.T) {
	t.Parallel()
	b, jobs := withJobs(t)
	sub := b.subscribed(t)
	for range 2 {
		require.Equal(t, http.StatusAccepted, b.post("/publish", `{"queue":"orders","payload":1,"partition":0}`).Code)
	}
	// given that Redis has dropped the first message
	keys, err := b.client.Keys(t.Context(), b.prefix+"*").Result()
	require.NoError(t, err)
	trimmed := int64(0)
	for _, key := range keys {
		if strings.Contains(key, "q:") && strings.HasSuffix(key, ":0") {
			n, err := b.client.XTrimMaxLen(t.Context(), key, 1).Result()
			require.NoError(t, err)
			trimmed += n
		}
	}
	require.Equal(t, int64(1), trimmed)
	got := decode[sought](t, b.post("/subscriptions/"+sub+"/seek", `{"to":0}`), http.StatusAccepted)
	require.NotEmpty(t, got.JobID)
	require.Equal(t, sought{SubscriptionID: sub, To: "0", Older: true, JobID: got.JobID}, got)
	require.Equal(t, olderAsked{sub, "0"}, jobs.last(t))
	jobs.fail = &commands.Refusal{Code: commands.CodeConflict, Reason: "100 jobs are waiting"}
	p := requireProblem(t, b.post("/subscriptions/"+sub+"/seek", `{"to":0}`), http.StatusConflict, conflict)
	require.Equal(t, "the subscription is at 0, but what only history has does not come: 100 jobs are waiting", p.Message)
}

func TestAFilterIsTried(t *testing.T) {
	t.Parallel()
	b := setup(t)
	free := b.subscribed(t)
	own := b.changes(t, http.MethodPost, "/subscriptions", `{"queue":"orders","consumerGroup":"g","messageFilter":{"key":"a"}}`).ID
	for _, tc := range []struct{ sub, body, want string }{
		{free, `{"payload":null}`, `{"matches":true,"why":"the subscription has no filter"}`},
		{free, `{"payload":1,"key":"b","messageFilter":{"key":"a"}}`, `{"matches":false,"why":"key is \"b\""}`},
		{own, `{"payload":1,"key":"a","headers":{"h":"v"}}`, `{"matches":true,"why":""}`},
		{own, `{"payload":1,"messageFilter":null}`, `{"matches":false,"why":"key is \"\""}`},
		{own, `{"payload":1,"key":"b","messageFilter":{"key":"b"}}`, `{"matches":true,"why":""}`},
		{own, `{"payload":1,"key":"b"}`, `{"matches":false,"why":"key is \"b\""}`},
	} {
		rec := b.post("/subscriptions/"+tc.sub+"/test-filter", tc.body, "Prefer", "")
		require.Equal(t, http.StatusOK, rec.Code, rec.Body)
		require.JSONEq(t, tc.want, rec.Body.String(), tc.body)
	}
	p := requireProblem(t, b.post("/subscriptions/"+own+"/test-filter", `{"payload":1,"messageFilter":{"nonsense":1}}`), http.StatusBadRequest, invalid)
	require.Equal(t, errNoFilter.Error(), p.Details[0].Problem)
}

type secrets struct {
	Secrets   []string   `json:"secrets"`
	RotatedAt *time.Time `json:"rotatedAt"`
}

func TestAWebhooksSecretsAreShownAndRotated(t *testing.T) {
	t.Parallel()
	b := setup(t)
	consumer := b.subscribed(t)
	b.fold(t)
	hook := b.changes(t, http.MethodPost, "/subscriptions", `{"queue":"orders","consumerGroup":"hook","subscriptionType":"webhook","handlerConfig":{"url":"https://example.com"}}`).ID
	path := "/subscriptions/" + hook
	show := func() secrets {
		t.Helper()
		rec := b.do(http.MethodGet, path+"/secret", "")
		require.Equal(t, "no-store", rec.Header().Get("Cache-Control"))
		return decode[secrets](t, rec, http.StatusOK)
	}
	first := "whsec_" + hook + " 0"
	require.Equal(t, secrets{Secrets: []string{first}}, show())
	b.refusesNothingness(t, path+"/rotate-secret", "/subscriptions/%s/rotate-secret")
	requireProblem(t, b.post(path+"/rotate-secret", "", "If-Match", `"9"`), http.StatusPreconditionFailed, mismatch)
	rec := b.post(path+"/rotate-secret", "", "Prefer", "respond-async", "If-Match", `"1"`)
	got := decode[secrets](t, rec, http.StatusAccepted)
	require.Equal(t, `"2"`, rec.Header().Get("ETag"))
	require.Equal(t, "no-store", rec.Header().Get("Cache-Control"))
	require.Equal(t, []string{"whsec_" + hook + " 1", first}, got.Secrets)
	require.WithinDuration(t, time.Now(), *got.RotatedAt, 30*time.Second)
	require.Equal(t, got, show())
	// a second time would leave who still has the first without any
	requireProblem(t, b.post(path+"/rotate-secret", ""), http.StatusConflict, conflict)
	require.Equal(t, got, show())
	// of others, of none, and of what is no webhook
	for method, what := range map[string]string{http.MethodGet: "/secret", http.MethodPost: "/rotate-secret"} {
		requireProblem(t, b.do(method, path+what, "", "X-Test-Tenant", otherTenant), http.StatusNotFound, noSub)
		requireProblem(t, b.do(method, "/subscriptions/"+nothere+what, ""), http.StatusNotFound, noSub)
		requireProblem(t, b.do(method, "/subscriptions/"+consumer+what, ""), http.StatusConflict, conflict)
		p := requireProblem(t, b.do(method, "/subscriptions/x"+what, ""), http.StatusBadRequest, invalid)
		require.Equal(t, "id", p.Details[0].Field)
		p = requireProblem(t, b.do(method, path+what+"?x=1", ""), http.StatusBadRequest, invalid)
		require.Equal(t, "x", p.Details[0].Field)
	}
}
