package rebuild

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

// BodyMax bounds the body of a request.
const BodyMax = 4 << 10

// timeout bounds a request: what it asks for goes on in the background.
const timeout = 10 * time.Second

// Projection is a projection and how far it is.
type Projection struct {
	Name string `json:"name"`
	// Version is what the read tables were folded with, CodeVersion what this instance
	// folds with.
	Version     int          `json:"version"`
	CodeVersion int          `json:"codeVersion"`
	Checkpoints []Checkpoint `json:"checkpoints"`
	// Rebuild is the last one, null where there was none.
	Rebuild *Rebuild `json:"rebuild"`
}

// Checkpoint is how far a shard is folded.
type Checkpoint struct {
	Shard     int      `json:"shard"`
	Position  string   `json:"position"`
	UpdatedAt web.Time `json:"updatedAt"`
}

// Rebuild is a rebuild and how far it is.
type Rebuild struct {
	ID         string  `json:"id"`
	Projection string  `json:"projection"`
	Version    int     `json:"version"`
	Reason     string  `json:"reason"`
	Status     string  `json:"status"`
	Phase      string  `json:"phase"`
	Events     int64   `json:"events"`
	Total      *int64  `json:"total"`
	Error      *string `json:"error"`
	// EventsPerSecond is since it began, and LeftMs what that makes of the rest.
	EventsPerSecond *float64  `json:"eventsPerSecond"`
	LeftMs          *int64    `json:"leftMs"`
	Tables          []Table   `json:"tables"`
	RequestedAt     web.Time  `json:"requestedAt"`
	StartedAt       *web.Time `json:"startedAt"`
	UpdatedAt       web.Time  `json:"updatedAt"`
	FinishedAt      *web.Time `json:"finishedAt"`
}

// Table is a read table that was folded anew, held against the one it took the place of.
type Table struct {
	Table      string `json:"table"`
	SHA256     string `json:"sha256"`
	LiveSHA256 string `json:"liveSha256"`
	Differed   bool   `json:"differed"`
	// Partial says that the hashes are of what retention left of the history.
	Partial bool `json:"partial"`
}

// Deps is what the handlers need.
type Deps struct {
	// PlatformTenant is the tenant whose administrators get in.
	PlatformTenant string
	Projections    func(ctx context.Context) ([]Projection, error)
	// Rebuild asks for a rebuild, or returns the one that is under way.
	Rebuild func(ctx context.Context) (Rebuild, error)
	// Name is the one projection's.
	Name string
}

// Handlers serves projections.
type Handlers struct{ deps Deps }

// New returns handlers.
func New(deps Deps) *Handlers { return &Handlers{deps: deps} }

// Register adds the routes to the API's group.
func (h *Handlers) Register(g *echo.Group) {
	admin := web.RequireScope(web.ScopeAdmin)
	g.GET("/admin/projections", h.list, admin, h.platformOnly)
	g.POST("/admin/projections/rebuild", h.rebuild, admin, h.platformOnly)
}

// platformOnly lets in who speaks for the platform: a tenant's administrator must not
// rebuild what is everybody's.
func (h *Handlers) platformOnly(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		who := web.IdentityOf(c)
		if !who.Platform && who.TenantID != h.deps.PlatformTenant {
			return &web.Error{Status: http.StatusForbidden, Code: web.CodeForbidden, Message: "projections are the platform's: with the service token, or a token of the platform's tenant"}
		}
		return next(c)
	}
}

func (h *Handlers) list(c echo.Context) error {
	if err := web.CheckQuery(c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), timeout)
	defer cancel()
	all, err := h.deps.Projections(ctx)
	if err != nil {
		return web.Unavailable("Postgres cannot be asked now; try again")
	}
	return web.WriteJSON(c, http.StatusOK, struct {
		Data []Projection `json:"data"`
	}{all})
}

func (h *Handlers) rebuild(c echo.Context) error {
	if err := web.CheckQuery(c); err != nil {
		return err
	}
	var req struct {
		Projection *string `json:"projection"`
	}
	if err := web.Decode(c, &req, BodyMax); err != nil {
		return err
	}
	if req.Projection != nil && *req.Projection != h.deps.Name {
		return web.Invalid(web.Detail{Field: "projection", Limit: h.deps.Name, Problem: "there is no other"})
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), timeout)
	defer cancel()
	asked, err := h.deps.Rebuild(ctx)
	if err != nil {
		return web.Unavailable("Postgres cannot be asked now; try again")
	}
	return web.WriteJSON(c, http.StatusAccepted, asked)
}
