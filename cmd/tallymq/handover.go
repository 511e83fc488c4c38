package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/handlers/handover"
	"github.com/tallymq/tallymq/handlers/internalapi"
	"github.com/tallymq/tallymq/infra/postgres"
)

// newHandover returns what hands the platform's messages and the lifecycle events on to
// the services whose URLs are set. Where none is, it does nothing.
func (s *service) newHandover() *handover.Forwarder {
	return handover.New(handover.Config{
		PlatformTenant: s.cfg.PlatformTenant,
		Queues: []handover.Queue{
			{Name: internalapi.QueueUserEvents, URL: s.cfg.UserURL},
			{Name: internalapi.QueueUserNotifications, URL: s.cfg.UserURL},
			{Name: internalapi.QueueNotifications, URL: s.cfg.NotificationURL},
			{Name: internalapi.QueueAuditLogs, URL: s.cfg.AuditURL},
		},
		EventsURL: s.cfg.AuditURL, Token: s.cfg.ServiceToken, Shards: s.cfg.Shards,
		Commands: s.dispatcher, DB: postgres.AllTenants(s.pool),
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, s.cfg.DatabaseURL) },
		Changed: s.log.Moved, OpenEvent: s.openEvent, NewID: newID, Logger: s.logger,
	})
}
