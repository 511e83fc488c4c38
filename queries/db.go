package queries

import (
	"context"
	"errors"
	"fmt"

	"github.com/Masterminds/squirrel"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is what queries run on: a pool, a connection or a transaction.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// ErrNotFound reports that the tenant has no such row.
var ErrNotFound = errors.New("not found")

// ErrUnavailable reports that Postgres did not answer, or not now.
var ErrUnavailable = errors.New("the database does not answer")

// passing are the classes of errors that pass by themselves (PostgreSQL manual,
// appendix A): connection, transaction rollback, resources, lock, operator, system.
var passing = map[string]bool{"08": true, "40": true, "53": true, "55": true, "57": true, "58": true} //nolint:gochecknoglobals // constant

// classify marks errors that pass. What Postgres refuses, or what does not fit our
// structs, is a fault.
func classify(err error) error {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && !passing[refused.Code[:2]] {
		return err
	}
	if _, ok := errors.AsType[pgx.ScanArgError](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Page asks for a part of a list.
type Page struct {
	// Limit is how many items at most.
	Limit int
	// After is the last item's key on the page before, empty for the first page.
	After []string
}

var sq = squirrel.StatementBuilder.PlaceholderFormat(squirrel.Dollar) //nolint:gochecknoglobals // an immutable builder

// collect runs a query and reads its rows into structs by position.
func collect[T any](ctx context.Context, db DB, what string, q squirrel.Sqlizer) ([]T, error) {
	sql, args, err := q.ToSql()
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", what, err)
	}
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", what, classify(err))
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", what, classify(err))
	}
	return list, nil
}

// one returns the only row, or ErrNotFound.
func one[T any](list []T, err error) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	if len(list) == 0 {
		return none, ErrNotFound
	}
	return list[0], nil
}

// more cuts a list that was read one item past the limit and reports whether
// there was that one.
func more[T any](list []T, limit int) ([]T, bool) {
	if len(list) > limit {
		return list[:limit], true
	}
	return list, false
}
