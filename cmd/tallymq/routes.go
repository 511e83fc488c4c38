package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/docs"
	"github.com/tallymq/tallymq/handlers/feed"
	"github.com/tallymq/tallymq/handlers/internalapi"
	"github.com/tallymq/tallymq/handlers/monitor"
	"github.com/tallymq/tallymq/handlers/query"
	"github.com/tallymq/tallymq/handlers/rebuild"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/cron"
	"github.com/tallymq/tallymq/infra/limits"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/telemetry"
	"github.com/tallymq/tallymq/projections"
	"github.com/tallymq/tallymq/queries"
)

// edge is the HTTP server's routes: health, and once the stores are ready the API.
func (s *service) edge(o options, api func(e *echo.Echo, g *echo.Group)) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = web.ErrorHandler(s.logger)
	e.Use(web.RequestIDs, telemetry.HTTP(telemetry.HTTPConfig{
		Metrics: s.metrics, Tracing: s.tracing, Logger: s.logger, RequestID: web.RequestID,
		Tenant: func(c echo.Context) string { return web.IdentityOf(c).TenantID },
	}), web.Recover)
	e.GET("/livez", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	e.GET("/readyz", s.readyz)
	docs.Register(e)
	if s.metrics != nil {
		e.GET("/metrics", echo.WrapHandler(s.metrics.Handler()))
	}
	group := e.Group(apiPrefix)
	if api == nil {
		starting := func(echo.Context) error { return web.Unavailable("starting: waiting for Redis and Postgres") }
		group.Any("/*", starting)
		e.Any(internalPrefix+"/*", starting)
		return e
	}
	// Not the group's own middleware: echo would answer 404 for a wrong method.
	e.Use(web.SlowBodies(web.BodyBytesPerSecondMin, web.BodyGrace))
	callers := access{token: o.token, logger: s.logger}
	if s.tokens != nil {
		callers.tokens = s.tokens
	}
	e.Use(callers.identify)
	e.Use(web.RateLimit(s.limiter, func(c echo.Context) string { return web.IdentityOf(c).TenantID }))
	e.Use(boundBodies(bodyBytesMax))
	api(e, group)
	if o.noop {
		e.POST(noopPath, func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	}
	return e
}

func (s *service) routes(e *echo.Echo, g *echo.Group) {
	writes := command.New(command.Deps{
		TraceParent: telemetry.Traceparent, Refused: s.observer.Refused,
		Commands: s.dispatcher, NewID: newID, PayloadBytesMax: s.cfg.MessageSizeBytesMax, Logger: s.logger,
		Jobs: jobDesk{s}, Secret: s.secret, MessageStatus: s.messageStatus, StoredMessage: s.storedMessage, NextTick: cron.Next, Open: s.openShown,
		Stopping: s.draining, Waiting: limits.NewGate("waiting pulls", s.cfg.TenantLongPolls, s.cfg.LongPolls),
	})
	reads := query.New(query.Deps{
		DB: func(tenantID string) queries.DB { return s.reader(tenantID, false) }, Cursors: web.Cursors{Key: s.keys.cursors}, State: s.queueState,
		Open: s.openShown, OpenEvent: s.openEvent, MessageIDBound: postgres.MessageIDBound, Logger: s.logger,
		LedgerLive: s.ledgerLive, WaitFolded: s.waitFolded, AllTenants: func() queries.DB { return postgres.AllTenants(s.pool) },
		Live: s.liveMessage, NextTick: cron.Next, Horizon: s.horizon, SignProof: s.signProof,
	})
	watch := monitor.New(monitor.Deps{Measure: s.measure, Health: s.health.now, Status: s.status})
	if s.roles.has(roleCommand) {
		writes.Register(g)
	}
	if s.roles.has(roleQuery) {
		reads.Register(g)
	}
	watch.Register(g)
	rebuild.New(rebuild.Deps{PlatformTenant: s.cfg.PlatformTenant, Name: projections.Name, Projections: s.standing, Rebuild: s.askRebuild}).Register(g)
	if s.roles.has(roleQuery) {
		feed.New(feed.Deps{
			DB: s.reader, Cursors: web.Cursors{Key: s.keys.cursors}, Shards: s.cfg.Shards, Changed: s.log.Moved, OpenEvent: s.openEvent, Logger: s.logger, Stopping: s.draining,
		}).Register(g)
	}
	internalapi.Register(e.Group(internalPrefix), internalapi.Deps{
		TenantID: s.cfg.PlatformTenant, Publish: writes.PublishToTopic, Detail: reads.Queue, Metrics: watch.Document, Health: watch.Health,
	})
}

// messageStatus is what the read side knows of a message, "" for nothing.
func (s *service) messageStatus(ctx context.Context, tenantID, messageID string) (string, error) {
	m, err := queries.MessageByID(ctx, s.reader(tenantID, false), tenantID, messageID)
	if errors.Is(err, queries.ErrNotFound) {
		return "", nil
	}
	return m.Status, err //nolint:wrapcheck // says what it does
}

// horizon is since when messages are kept, zero where retention has dropped nothing yet.
func (s *service) horizon(ctx context.Context) (time.Time, error) {
	value, err := postgres.Setting(ctx, s.pool, postgres.HorizonSetting)
	if err != nil || value == "" {
		return time.Time{}, err //nolint:wrapcheck // says what it does
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return at, fmt.Errorf("setting %s: %w", postgres.HorizonSetting, err)
	}
	return at, nil
}

// reader is what a caller's queries run on: it shows one tenant's rows, or all.
func (s *service) reader(tenantID string, allTenants bool) queries.DB { //nolint:ireturn // it is what queries take
	if allTenants {
		return postgres.AllTenants(s.pool)
	}
	return postgres.ForTenant(s.pool, tenantID)
}

// readyz answers 200 while both stores answer and this instance takes work.
func (s *service) readyz(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), time.Second)
	defer cancel()
	if !s.ready.Load() {
		return web.Unavailable("starting or stopping")
	}
	if err := s.redis.Ping(ctx).Err(); err != nil {
		return web.Unavailable("Redis does not answer")
	}
	if err := s.pool.Ping(ctx); err != nil {
		return web.Unavailable("Postgres does not answer")
	}
	return c.NoContent(http.StatusOK)
}
