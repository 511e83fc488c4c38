package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Partitions of a day. A day's partition is made daysAhead before it begins, and
// one day back, for clocks that differ.
const (
	daysAhead  = 3
	daysBack   = 1
	day        = 24 * time.Hour
	lockWait   = "2s"
	nameLayout = "20060102"
	// HorizonSetting is the store setting that says since when messages are kept:
	// the first day that retention has not dropped.
	HorizonSetting = "message_horizon"
)

// partitioned are the tables with a partition per day, and how a day's first
// instant is written as a bound.
var partitioned = []struct {
	table   string
	options string
	bound   func(time.Time) string
}{
	{"message_records", " WITH (fillfactor = 65)", MessageIDBound},
	{"consumption_records", "", MessageIDBound},
	{"event_history_message", "", positionBound},
}

// MessageIDBound is the least text that a UUIDv7 minted at or after t can have
// (RFC 9562, section 5.7: the first 48 bits are ms since 1970).
func MessageIDBound(t time.Time) string {
	hex := fmt.Sprintf("%012x", t.UnixMilli())
	return hex[:8] + "-" + hex[8:]
}

// positionBound is the least position of an event at or after t.
func positionBound(t time.Time) string { return strconv.FormatInt(t.UnixMilli()<<20, 10) }

// EnsurePartitions makes the partitions of the days around now. Instances may do
// it at once.
func EnsurePartitions(ctx context.Context, pool *pgxpool.Pool, now time.Time) error {
	today := now.UTC().Truncate(day)
	for n := -daysBack; n <= daysAhead; n++ {
		from := today.Add(time.Duration(n) * day)
		if err := ensureDay(ctx, pool, from); err != nil {
			return fmt.Errorf("partitions of %s: %w", from.Format(time.DateOnly), err)
		}
	}
	return nil
}

// rowQuerier is a pool or a transaction.
type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ensureDay makes what is missing, each table in a transaction of its own: holding
// the lock of one while waiting for another's would be a deadlock with a projector.
func ensureDay(ctx context.Context, pool *pgxpool.Pool, from time.Time) error {
	for _, p := range partitioned {
		name := p.table + "_" + from.Format(nameLayout)
		var there bool
		look := func(q rowQuerier) error {
			if err := q.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&there); err != nil {
				return fmt.Errorf("look for %s: %w", name, err)
			}
			return nil
		}
		if err := look(pool); err != nil {
			return err
		}
		if there {
			continue
		}
		err := exclusively(ctx, pool, func(tx pgx.Tx) error {
			if err := look(tx); err != nil || there {
				return err
			}
			// The look may be of this session's name cache, from before it waited for the lock.
			sql := fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s PARTITION OF %s FOR VALUES FROM ('%s') TO ('%s')%s`,
				name, p.table, p.bound(from), p.bound(from.Add(day)), p.options)
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("make %s: %w", name, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DropExpired drops the partitions of days that ended before now minus keep, and
// what the default partitions hold from before.
func DropExpired(ctx context.Context, pool *pgxpool.Pool, now time.Time, keep time.Duration, logger *slog.Logger) error {
	horizon := now.UTC().Add(-keep).Truncate(day)
	// Of a dead letter without its message nothing could be done.
	if _, err := pool.Exec(ctx, `DELETE FROM dead_letters WHERE message_id < $1`, MessageIDBound(horizon)); err != nil {
		return fmt.Errorf("retention of dead letters: %w", err)
	}
	if _, err := pool.Exec(ctx, `DELETE FROM delivery_jobs WHERE finished_at < $1`, horizon); err != nil {
		return fmt.Errorf("retention of jobs: %w", err)
	}
	for _, p := range partitioned {
		expired, err := expiredPartitions(ctx, pool, p.table, horizon)
		if err != nil {
			return err
		}
		column := "message_id"
		if p.table == "event_history_message" {
			column = "position"
		}
		err = exclusively(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, fmt.Sprintf(`DELETE FROM %s_default WHERE %s < '%s'`, p.table, column, p.bound(horizon))); err != nil {
				return fmt.Errorf("retention of %s_default: %w", p.table, err)
			}
			for _, name := range expired {
				if _, err := tx.Exec(ctx, `DROP TABLE `+pgx.Identifier{name}.Sanitize()); err != nil {
					return fmt.Errorf("drop %s: %w", name, err)
				}
			}
			_, err := tx.Exec(ctx, `INSERT INTO store_settings (name, value) VALUES ($1, $2)
				ON CONFLICT (name) DO UPDATE SET value = greatest(store_settings.value, excluded.value)`, HorizonSetting, horizon.Format(time.RFC3339))
			if err != nil {
				return fmt.Errorf("note the horizon: %w", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(expired) > 0 {
			logger.Info("retention dropped partitions", "partitions", expired)
		}
	}
	return nil
}

func expiredPartitions(ctx context.Context, pool *pgxpool.Pool, table string, horizon time.Time) ([]string, error) {
	rows, err := pool.Query(ctx, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = to_regclass($1) ORDER BY c.relname`, table)
	if err != nil {
		return nil, fmt.Errorf("partitions of %s: %w", table, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("partitions of %s: %w", table, err)
	}
	var expired []string
	for _, name := range names {
		from, err := time.Parse(nameLayout, strings.TrimPrefix(name, table+"_"))
		if err == nil && from.Add(day).Compare(horizon) <= 0 {
			expired = append(expired, name)
		}
	}
	return expired, nil
}

// exclusively runs one change of partitions at a time, and does not make the
// projections wait long for it: it gives up after lockWait and is tried again
// with the next round.
func exclusively(ctx context.Context, pool *pgxpool.Pool, change func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { //nolint:wrapcheck // wrapped inside
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+lockWait+`'`); err != nil {
			return fmt.Errorf("lock partitions: %w", err)
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('tallymq:partitions:' || current_schema(), 0))`); err != nil {
			return fmt.Errorf("lock partitions: %w", err)
		}
		return change(tx)
	})
}
