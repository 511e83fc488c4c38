package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/tallymq/tallymq/migrations"
)

// Limits of connections.
const (
	// poolMax is how many connections queries share; projections have their own.
	poolMax        = 10
	connectTimeout = 3 * time.Second
	cancelDelay    = 50 * time.Millisecond
	cancelDeadline = 2 * time.Second
)

// Open returns a pool. It does not connect yet: see [WaitReady].
func Open(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	if cfg.MaxConns < poolMax {
		cfg.MaxConns = poolMax
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = "tallymq"
	// A query whose caller has left, or whose time is over, ends on the server too.
	cfg.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, CancelRequestDelay: cancelDelay, DeadlineDelay: cancelDeadline}
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open Postgres: %w", err)
	}
	return pool, nil
}

// Connect returns one connection for long use, as projections need. The server
// ends it when our machine is gone without a word.
func Connect(ctx context.Context, url string) (*pgx.Conn, error) {
	// Parsed as the pool's: a URL may have settings that are the pool's alone.
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	cfg := pool.ConnConfig
	cfg.ConnectTimeout = connectTimeout
	maps.Copy(cfg.RuntimeParams, map[string]string{
		"application_name": "tallymq projector", "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3",
	})
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	return conn, nil
}

// WaitReady returns once Postgres answers, or with the context's error. It says
// once what it waits for and once that it is over.
func WaitReady(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) error {
	said := false
	for {
		err := pool.Ping(ctx)
		if err == nil {
			if said {
				logger.Info("Postgres is ready")
			}
			return nil
		}
		if !said {
			said = true
			logger.Warn("waiting for Postgres (DATABASE_URL)", "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for Postgres: %w (last: %w)", ctx.Err(), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// roleTries and rolePause bound how often, and after what pause, a migration is
// tried again that did not find a role.
const (
	roleTries = 5
	rolePause = 100 * time.Millisecond

	// undefinedObject is PostgreSQL's SQLSTATE for a role that is not there (appendix A).
	undefinedObject = "42704"
)

// Migrate brings the schema up to date. Instances that start together wait for
// each other.
//
// Roles belong to the whole server, and instances of another database are not
// waited for: for a moment after its commit, theirs is there for a unique index
// and not yet for the name caches of other sessions. So a migration that finds
// no such role is tried again, in a transaction that looks anew.
func Migrate(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) error {
	return MigrateTo(ctx, pool, logger, math.MaxInt64)
}

// MigrateTo is Migrate up to a version of the schema; one that is newer stays as it is.
func MigrateTo(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger, version int64) error {
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for try := 1; ; try++ {
		results, err := provider.UpTo(ctx, version)
		if partial, ok := errors.AsType[*goose.PartialError](err); ok {
			results = partial.Applied
		}
		for _, r := range results {
			logger.Info("migrated", "migration", r.Source.Path, "took", r.Duration.Round(time.Millisecond))
		}
		if err == nil {
			return nil
		}
		cause, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || cause.Code != undefinedObject || try == roleTries {
			return fmt.Errorf("migrate: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("migrate: %w (last: %w)", ctx.Err(), err)
		case <-time.After(rolePause):
		}
	}
}
