package command_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/web"
)

// fakeJobs notes what is asked for. It knows queue orders of the tenant and any
// subscription but nothere.
type fakeJobs struct {
	// fail is what it answers with, unless nil.
	fail error

	mu    sync.Mutex
	asked []any
	jobs  map[string]web.Job
}

// olderAsked is a call of Older.
type olderAsked struct{ subscriptionID, to string }

func (f *fakeJobs) start(caller commands.Caller, kind string, asked any) (web.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return web.Job{}, f.fail
	}
	f.asked = append(f.asked, asked)
	job := web.Job{
		ID: newID(), Kind: kind, Status: "waiting", Spec: web.Raw(`{"x": 1}`), CreatedBy: caller.Subject,
		CreatedAt: web.Time(time.UnixMilli(1)), UpdatedAt: web.Time(time.UnixMilli(2)),
	}
	if f.jobs == nil {
		f.jobs = map[string]web.Job{}
	}
	f.jobs[caller.TenantID+job.ID] = job
	return job, nil
}

func (f *fakeJobs) Redrive(_ context.Context, caller commands.Caller, subscriptionID string, filter command.RedriveFilter) (web.Job, error) {
	if subscriptionID == nothere || caller.TenantID != tenant {
		return web.Job{}, &commands.Refusal{Code: commands.CodeSubscriptionNotFound, Reason: "no subscription"}
	}
	return f.start(caller, "redrive", filter)
}

func (f *fakeJobs) Replay(_ context.Context, caller commands.Caller, r command.Replay) (web.Job, error) {
	if r.Queue != "orders" || caller.TenantID != tenant {
		return web.Job{}, &commands.Refusal{Code: commands.CodeQueueNotFound, Reason: "no queue"}
	}
	return f.start(caller, "replay", r)
}

func (f *fakeJobs) Older(_ context.Context, caller commands.Caller, s commands.Subscription, to string) (web.Job, error) {
	return f.start(caller, "seek", olderAsked{s.Config.SubscriptionID, to})
}

func (f *fakeJobs) Cancel(_ context.Context, caller commands.Caller, jobID string) (web.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	job, ok := f.jobs[caller.TenantID+jobID]
	switch {
	case !ok:
		return job, &commands.Refusal{Code: commands.CodeJobNotFound, Reason: "no job"}
	case job.Status == "cancelled":
		return job, &commands.Refusal{Code: commands.CodeConflict, Reason: "it has ended"}
	}
	job.Status = "cancelled"
	f.jobs[caller.TenantID+jobID] = job
	return job, nil
}

// last is what was asked for last.
func (f *fakeJobs) last(t testing.TB) any {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.NotEmpty(t, f.asked)
	return f.asked[len(f.asked)-1]
}

func withJobs(t testing.TB) (*testBundle, *fakeJobs) {
	t.Helper()
	jobs := &fakeJobs{}
	return setup(t, func(d *command.Deps) { d.Jobs = jobs }), jobs
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	got, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return got
}

func TestARedriveIsAJob(t *testing.T) {
	t.Parallel()
	b, jobs := withJobs(t)
	path := "/subscriptions/" + newID() + "/redrive"
	ids := strings.Repeat(`"`+nothere+`",`, command.RedriveIDsMax-1) + `"` + nothere + `"`
	most := make([]string, command.RedriveIDsMax)
	for i := range most {
		most[i] = nothere
	}
	for body, want := range map[string]command.RedriveFilter{
		`{}`: {},
		`{"messageIds":null,"reason":"","from":null}`: {},
		`{"messageIds":[` + ids + `]}`:                {MessageIDs: most},
		`{"reason":"webhook","from":"1970-01-01T00:00:00Z","to":"2199-12-31T23:59:59.999Z"}`: {
			Reason: events.ReasonWebhook, From: at(t, "1970-01-01T00:00:00Z"), To: at(t, "2199-12-31T23:59:59.999Z"),
		},
	} {
		rec := b.post(path, body, "Prefer", "", "X-Test-Subject", "ann", "X-Test-Scope", web.ScopeConsume)
		require.Equal(t, http.StatusAccepted, rec.Code, rec.Body)
		require.Equal(t, want, jobs.last(t), body)
		id := decode[created](t, rec, http.StatusAccepted).ID
		require.Equal(t, "/api/v1/mq/jobs/"+id, rec.Header().Get("Location"))
		require.Equal(t, `{"id":"`+id+`","kind":"redrive","status":"waiting","spec":{"x": 1},"done":0,"failed":0,"total":null,"error":null,`+
			`"createdBy":"ann","createdAt":"1970-01-01T00:00:00.001Z","updatedAt":"1970-01-01T00:00:00.002Z","finishedAt":null}`, rec.Body.String())
	}
	for _, reason := range []string{events.ReasonNack, events.ReasonLeaseExpired, events.ReasonReleased, events.ReasonUnreadable, events.ReasonWebhook} {
		require.Equal(t, http.StatusAccepted, b.post(path, `{"reason":"`+reason+`"}`).Code, reason)
	}
	jobs.fail = &commands.Refusal{Code: commands.CodeConflict, Reason: "too many"}
	requireProblem(t, b.post(path, `{}`), http.StatusConflict, conflict)
	jobs.fail = fmt.Errorf("jobs: %w", commands.ErrUnavailable)
	requireProblem(t, b.post(path, `{}`), http.StatusServiceUnavailable, "MQ_UNAVAILABLE")
}

func TestAReplayIsAJob(t *testing.T) {
	t.Parallel()
	b, jobs := withJobs(t)
	for body, want := range map[string]command.Replay{
		`{"subscriptionId":"` + nothere + `"}`:               {Queue: "orders", SubscriptionID: nothere},
		`{"queue":"others","subscriptionId":null,"speed":0}`: {Queue: "orders", TargetQueue: "others"},
		`{"queue":"others","speed":100}`:                     {Queue: "orders", TargetQueue: "others", Speed: command.ReplaySpeedMax},
		`{"queue":"others","speed":0.25,"from":"2026-01-31T09:00:00+01:00","to":"2026-01-31T08:00:00.001Z"}`: {
			Queue: "orders", TargetQueue: "others", Speed: 0.25, From: at(t, "2026-01-31T08:00:00Z"), To: at(t, "2026-01-31T08:00:00.001Z"),
		},
	} {
		rec := b.post("/queues/orders/replay", body, "Prefer", "")
		id := decode[created](t, rec, http.StatusAccepted).ID
		require.Equal(t, "/api/v1/mq/jobs/"+id, rec.Header().Get("Location"))
		got, ok := jobs.last(t).(command.Replay)
		require.True(t, ok)
		require.True(t, want.From.Equal(got.From) && want.To.Equal(got.To), body)
		got.From, got.To = want.From, want.To
		require.Equal(t, want, got, body)
	}
	jobs.fail = &commands.Refusal{Code: commands.CodeConflict, Reason: "too many"}
	requireProblem(t, b.post("/queues/orders/replay", `{"queue":"others"}`), http.StatusConflict, conflict)
}

func TestAJobIsCancelledOnce(t *testing.T) {
	t.Parallel()
	b, _ := withJobs(t)
	id := decode[created](t, b.post("/queues/orders/replay", `{"queue":"others"}`), http.StatusAccepted).ID
	path := "/jobs/" + id + "/cancel"
	requireProblem(t, b.post(path, "", "X-Test-Tenant", otherTenant), http.StatusNotFound, noJob)
	requireProblem(t, b.post("/jobs/"+nothere+"/cancel", "{}"), http.StatusNotFound, noJob)
	b.refusesNothingness(t, path, "/jobs/%s/cancel")
	var job struct {
		Status string          `json:"status"`
		Spec   json.RawMessage `json:"spec"`
	}
	rec := b.post(path, "", "Prefer", "")
	require.Equal(t, http.StatusOK, rec.Code, rec.Body)
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &job))
	require.Equal(t, "cancelled", job.Status)
	requireProblem(t, b.post(path, "{}"), http.StatusConflict, conflict)
}

// refusesNothingness sends what a request that has nothing to say must not have.
func (b *testBundle) refusesNothingness(t testing.TB, path, pattern string) {
	t.Helper()
	for _, bad := range []string{"x", "%00", "%ff", strings.ToUpper(nothere), nothere + "0"} {
		p := requireProblem(t, b.post(fmt.Sprintf(pattern, bad), ""), http.StatusBadRequest, invalid)
		require.Equal(t, []string{"id", uuidLimit}, []string{p.Details[0].Field, p.Details[0].Limit}, bad)
	}
	for body, field := range map[string]string{`{"nonsense":1}`: "nonsense", `[]`: "body", `{} {}`: "body", `{`: "body", "{\"\xff\":1}": "body"} {
		p := requireProblem(t, b.post(path, body), http.StatusBadRequest, invalid)
		require.Equal(t, field, p.Details[0].Field, body)
	}
	p := requireProblem(t, b.post(path+"?force=true", ""), http.StatusBadRequest, invalid)
	require.Equal(t, "force", p.Details[0].Field)
	p = requireProblem(t, b.post(path, "", "Idempotency-Key", "a b"), http.StatusBadRequest, invalid)
	require.Equal(t, "Idempotency-Key", p.Details[0].Field)
	requireProblem(t, b.post(path, "{}", "Content-Type", "text/plain"), http.StatusUnsupportedMediaType, wrongMedia)
	requireProblem(t, b.post(path, `{"x":"`+strings.Repeat("x", command.AdminBodyMax)+`"}`), http.StatusRequestEntityTooLarge, tooLarge)
}

// TestEachRouteWantsItsScopes: whoever has none of a route's scopes is refused before
// anything is looked at.
func TestEachRouteWantsItsScopes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const sub = "/subscriptions/" + nothere
	publish, admin, consume := web.ScopePublish, web.ScopeAdmin, web.ScopeConsume
	for route, scopes := range map[string][]string{
		"POST /publish/delayed":                  {publish},
		"POST /publish/scheduled":                {publish},
		"POST /messages/" + nothere + "/cancel":  {publish, admin},
		"POST /schedules":                        {publish, admin},
		"POST /schedules/" + nothere + "/pause":  {publish, admin},
		"POST /schedules/" + nothere + "/resume": {publish, admin},
		"DELETE /schedules/" + nothere:           {publish, admin},
		"POST " + sub + "/seek":                  {admin, consume},
		"POST " + sub + "/test-filter":           {admin, consume},
		"GET " + sub + "/secret":                 {admin, consume},
		"POST " + sub + "/rotate-secret":         {admin, consume},
		"POST " + sub + "/redrive":               {admin, consume},
		"POST /queues/orders/replay":             {admin},
		"POST /jobs/" + nothere + "/cancel":      {admin, consume},
	} {
		method, path, _ := strings.Cut(route, " ")
		for _, scope := range []string{"", publish, admin, consume, web.ScopeRead} {
			rec := b.do(method, path, "{}", "X-Test-Subject", "ann", "X-Test-Scope", scope)
			require.Equal(t, !slices.Contains(scopes, scope), rec.Code == http.StatusForbidden, "%s with %q: %s", route, scope, rec.Body)
		}
	}
}
