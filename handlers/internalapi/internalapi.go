package internalapi

import (
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

// The platform's queues.
const (
	QueueUserEvents        = "user-events"
	QueueUserNotifications = "user-notifications"
	QueueNotifications     = "notifications"
	QueueAuditLogs         = "audit-logs"
)

// Queues are all of them.
func Queues() []string {
	return []string{QueueUserEvents, QueueUserNotifications, QueueNotifications, QueueAuditLogs}
}

// Deps is what the routes lead to.
type Deps struct {
	// TenantID owns the queues.
	TenantID string
	// Publish publishes to the queue that the path parameter name names, Detail shows
	// it.
	Publish, Detail echo.HandlerFunc
	// Metrics is the metrics document, Health the components' health.
	Metrics, Health echo.HandlerFunc
}

// Register adds the routes to a group. Who may call them is checked before.
func Register(g *echo.Group, deps Deps) {
	publish := func(queue string) echo.HandlerFunc { return on(deps.TenantID, queue, deps.Publish) }
	g.POST("/user-events", publish(QueueUserEvents))
	g.POST("/user-notifications", publish(QueueUserNotifications))
	g.POST("/audit-logs", publish(QueueAuditLogs))
	g.POST("/notifications", publish(QueueNotifications))
	g.GET("/audit-queue-status", on(deps.TenantID, QueueAuditLogs, deps.Detail))
	g.GET("/notification-queue", on(deps.TenantID, QueueNotifications, deps.Detail))
	g.GET("/metrics", deps.Metrics)
	g.GET("/health-detailed", deps.Health)
}

// on has a handler work on a queue of the platform's tenant. The tenant that the caller
// named is the one on whose behalf.
func on(tenantID, queue string, handler echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		who := web.IdentityOf(c)
		who.OnBehalfOf, who.TenantID, who.AllTenants = who.TenantID, tenantID, false
		web.SetIdentity(c, who)
		c.SetParamNames("name")
		c.SetParamValues(queue)
		return handler(c)
	}
}
