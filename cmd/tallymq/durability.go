package main

import (
	"context"

	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

// warnOfLoss says where a store is not as durable as a 201 promises. It only says so:
// a managed store may be durable in ways of its own, and may not show its settings.
func (s *service) warnOfLoss(ctx context.Context) {
	for _, problem := range append(redis.Durability(ctx, s.redis), postgres.Durability(ctx, s.pool)...) {
		s.logger.Warn("acknowledged messages can be lost", "because", problem)
	}
}
