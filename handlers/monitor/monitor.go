package monitor

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

// measureTimeout bounds one reading of the metrics.
const measureTimeout = 10 * time.Second

// Deps is what the handlers need.
type Deps struct {
	// Measure returns what is a tenant's own; "" is every tenant's.
	Measure func(ctx context.Context, tenantID string) (Metrics, error)
	Health  func() Health
	Status  func() Status
}

// Handlers serves monitoring.
type Handlers struct{ deps Deps }

// New returns handlers.
func New(deps Deps) *Handlers { return &Handlers{deps: deps} }

// Register adds the routes to the API's group. Health and status are for everybody: they
// name components, and no tenant's data.
func (h *Handlers) Register(g *echo.Group) {
	read := web.RequireScope(web.ScopeRead, web.ScopeAdmin)
	g.GET("/metrics", h.Document, read)
	g.GET("/metrics/topics", h.topics, read)
	g.GET("/metrics/consumers", h.consumers, read)
	g.GET("/health", h.Health)
	g.GET("/status", h.status)
}

func (h *Handlers) measure(c echo.Context) (Metrics, error) {
	if err := web.CheckQuery(c); err != nil {
		return Metrics{}, err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), measureTimeout)
	defer cancel()
	m, err := h.deps.Measure(ctx, web.IdentityOf(c).TenantID)
	if err != nil {
		return m, web.Unavailable("the metrics cannot be read now; try again")
	}
	return m, nil
}

// Document serves the metrics document.
func (h *Handlers) Document(c echo.Context) error {
	m, err := h.measure(c)
	if err != nil {
		return err
	}
	return web.WriteJSON(c, http.StatusOK, m.Document)
}

func (h *Handlers) topics(c echo.Context) error {
	m, err := h.measure(c)
	if err != nil {
		return err
	}
	return web.WriteJSON(c, http.StatusOK, list[Topic]{Data: m.Topics, IsTruncated: m.IsTruncated})
}

func (h *Handlers) consumers(c echo.Context) error {
	m, err := h.measure(c)
	if err != nil {
		return err
	}
	return web.WriteJSON(c, http.StatusOK, list[Consumer]{Data: m.Consumers, IsTruncated: m.IsTruncated})
}

// list is all there is, up to [QueuesMax] queues.
type list[T any] struct {
	Data        []T  `json:"data"`
	IsTruncated bool `json:"isTruncated"`
}

// Health serves the components' health: 503 where one is down, 200 where all work,
// be it badly.
func (h *Handlers) Health(c echo.Context) error {
	if err := web.CheckQuery(c); err != nil {
		return err
	}
	health := h.deps.Health()
	status := http.StatusOK
	if health.Status == StateDown {
		status = http.StatusServiceUnavailable
	}
	return web.WriteJSON(c, status, health)
}

func (h *Handlers) status(c echo.Context) error {
	if err := web.CheckQuery(c); err != nil {
		return err
	}
	return web.WriteJSON(c, http.StatusOK, h.deps.Status())
}
