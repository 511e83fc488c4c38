package query

import (
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// What ?kind= and ?status= of jobs may say.
var (
	jobKinds    = []string{"redrive", "replay", "seek"}                         //nolint:gochecknoglobals // constant
	jobStatuses = []string{"waiting", "running", "done", "cancelled", "failed"} //nolint:gochecknoglobals // constant
)

func showJob(j queries.Job) web.Job {
	return web.Job{
		ID: j.ID, Kind: j.Kind, Status: j.Status, Spec: web.Raw(j.Spec), Done: j.Done, Failed: j.Failed, Total: j.Total, Error: j.Error,
		CreatedBy: j.CreatedBy, CreatedAt: web.Time(j.CreatedAt), UpdatedAt: web.Time(j.UpdatedAt), FinishedAt: web.TimePtr(j.FinishedAt),
	}
}

func (h *Handlers) jobs(c echo.Context) error {
	l, err := h.parseList(c, "jobs", "kind", "status")
	if err != nil {
		return err
	}
	f := queries.JobFilter{Kind: c.QueryParam("kind"), Status: c.QueryParam("status")}
	for _, p := range []struct {
		name, value string
		known       []string
	}{{"kind", f.Kind, jobKinds}, {"status", f.Status, jobStatuses}} {
		if p.value != "" && !slices.Contains(p.known, p.value) {
			return web.Invalid(web.Detail{Field: p.name, Limit: "one of " + strings.Join(p.known, ", "), Problem: "is another"})
		}
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	rows, next, err := queries.Jobs(ctx, h.deps.DB(l.tenantID), l.tenantID, f, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	return answerList(h, c, l, rows, next, showJob, func(j queries.Job) string { return j.ID })
}

func (h *Handlers) job(c echo.Context) error {
	id, err := detailID(c)
	if err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	j, err := queries.JobByID(ctx, h.deps.DB(tenantID), tenantID, id)
	if err != nil {
		return h.failed(c, err, notFound(codeJobNotFound, "job", id))
	}
	return web.WriteRawJSON(c, http.StatusOK, showJob(j))
}
