package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/tallymq/tallymq/infra/backup"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

// prefixSetting is the store setting that says how the store's keys in Redis begin.
const prefixSetting = "redis_key_prefix"

// errFinal marks what no waiting mends.
var errFinal = errors.New("cannot start")

// prepare makes sure that the stores are there, belong together and are as this
// program expects them.
func (s *service) prepare(ctx context.Context) error {
	if err := redis.WaitReady(ctx, s.redis, s.logger); err != nil {
		return err //nolint:wrapcheck // says what it waits for
	}
	if err := postgres.WaitReady(ctx, s.pool, s.logger); err != nil {
		return err //nolint:wrapcheck // says what it waits for
	}
	if err := postgres.Migrate(ctx, s.pool, s.logger); err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if err := backup.CheckEnded(ctx, s.pool); err != nil {
		return err //nolint:wrapcheck // says what it is about
	}
	if err := postgres.EnsurePartitions(ctx, s.pool, time.Now()); err != nil {
		// The default partitions take what has none of its own; it is tried again.
		s.logger.Warn("partitions are not made yet", "error", err)
	}
	shards, err := postgres.FixSetting(ctx, s.pool, "shards", strconv.Itoa(s.cfg.Shards))
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if shards != strconv.Itoa(s.cfg.Shards) {
		return fmt.Errorf("%w: SHARDS: is %d, but this store was first used with %s, which cannot be changed", errFinal, s.cfg.Shards, shards)
	}
	prefix, err := postgres.FixSetting(ctx, s.pool, prefixSetting, s.cfg.RedisKeyPrefix)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if prefix != s.cfg.RedisKeyPrefix {
		return fmt.Errorf("%w: REDIS_KEY_PREFIX: is %q, but this store was first used with %q, which cannot be changed", errFinal, s.cfg.RedisKeyPrefix, prefix)
	}
	if err := s.watch.begin(ctx); err != nil {
		return err
	}
	s.warnOfLoss(ctx)
	if s.keys.tokens, err = postgres.ServiceKey(ctx, s.pool, "ack-tokens"); err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if s.keys.cursors, err = postgres.ServiceKey(ctx, s.pool, "cursors"); err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if s.keys.webhooks, err = postgres.ServiceKey(ctx, s.pool, "webhook-secrets"); err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	return s.openKeyring(ctx)
}

// isFinal reports whether an error at start is for a person to mend. All else is
// waited for: a store may be restarting, full of connections, or locked for a moment.
func isFinal(err error) bool {
	_, migration := errors.AsType[*goose.PartialError](err)
	return migration || errors.Is(err, errFinal) || errors.Is(err, redis.ErrForeignLog) || errors.Is(err, backup.ErrUnfinished)
}
