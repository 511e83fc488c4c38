package postgres

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// serviceKeyBytes is the length of a service key.
const serviceKeyBytes = 32

// ServiceKey returns the store's secret of that name, made when first asked for.
// Every instance gets the same.
func ServiceKey(ctx context.Context, pool *pgxpool.Pool, name string) ([]byte, error) {
	fresh := make([]byte, serviceKeyBytes)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("service key %s: %w", name, err)
	}
	var secret []byte
	err := pool.QueryRow(ctx, `
		WITH made AS (INSERT INTO service_keys (name, secret) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING secret)
		SELECT secret FROM made UNION ALL SELECT secret FROM service_keys WHERE name = $1 LIMIT 1`, name, fresh).Scan(&secret)
	if err != nil {
		// Two instances made it at once: the other's row was not visible yet.
		err = pool.QueryRow(ctx, `SELECT secret FROM service_keys WHERE name = $1`, name).Scan(&secret)
	}
	if err != nil {
		return nil, fmt.Errorf("service key %s: %w", name, err)
	}
	return secret, nil
}

// FixSetting gives a setting its value if it has none, and returns the value it
// has: what a store is, is decided when it is first used.
func FixSetting(ctx context.Context, pool *pgxpool.Pool, name, value string) (string, error) {
	if _, err := pool.Exec(ctx, `INSERT INTO store_settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, value); err != nil {
		return "", fmt.Errorf("setting %s: %w", name, err)
	}
	var stored string
	if err := pool.QueryRow(ctx, `SELECT value FROM store_settings WHERE name = $1`, name).Scan(&stored); err != nil {
		return "", fmt.Errorf("setting %s: %w", name, err)
	}
	return stored, nil
}

// Setting returns a setting's value, "" where it has none.
func Setting(ctx context.Context, pool *pgxpool.Pool, name string) (string, error) {
	var value string
	err := pool.QueryRow(ctx, `SELECT coalesce((SELECT value FROM store_settings WHERE name = $1), '')`, name).Scan(&value)
	if err != nil {
		return "", fmt.Errorf("setting %s: %w", name, err)
	}
	return value, nil
}

// Durability returns in words what settings of the server let it lose what it has
// committed.
func Durability(ctx context.Context, pool *pgxpool.Pool) []string {
	var problems []string
	for _, name := range []string{"synchronous_commit", "fsync"} {
		var value string
		if err := pool.QueryRow(ctx, `SELECT coalesce(current_setting($1, true), '')`, name).Scan(&value); err == nil && value == "off" {
			problems = append(problems, "Postgres has "+name+" off")
		}
	}
	return problems
}
