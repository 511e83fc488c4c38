package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"

	"github.com/tallymq/tallymq/migrations"
)

// NewestMigration is the version of the schema that this program brings about.
func NewestMigration() (int64, error) {
	files, err := migrations.FS.ReadDir(".")
	if err != nil {
		return 0, fmt.Errorf("migrations: %w", err)
	}
	var newest int64
	for _, f := range files {
		version, err := goose.NumericComponent(f.Name())
		if err != nil {
			return 0, fmt.Errorf("migration %s: %w", f.Name(), err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}

// EnsureDays makes the partitions of days, each of which begins at midnight UTC.
func EnsureDays(ctx context.Context, pool *pgxpool.Pool, days []time.Time) error {
	for _, from := range days {
		if err := ensureDay(ctx, pool, from.UTC().Truncate(day)); err != nil {
			return fmt.Errorf("partitions of %s: %w", from.Format(time.DateOnly), err)
		}
	}
	return nil
}
