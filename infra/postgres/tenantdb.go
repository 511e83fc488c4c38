package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The fences: what a query runs behind. All three settings end with the transaction,
// which is the implicit one of the round trip, so that whatever happens the
// connection is the owner's again. A tenant that is no UUID is refused here, and '*'
// is none.
const (
	tenantFence = `SELECT set_config('transaction_read_only', 'on', true), set_config('role', 'tallymq_reader', true),
		set_config('tallymq.tenant', $1::text::uuid::text, true)`
	platformFence = `SELECT set_config('transaction_read_only', 'on', true), set_config('role', 'tallymq_reader', true),
		set_config('tallymq.tenant', '*', true)`
)

// TenantDB runs queries that can only read, and only what one tenant may see, also
// where a query forgets to say whose rows it wants. It is a value: make one for each
// request. It guards against mistakes in queries, not against SQL that a caller wrote:
// that could set the role back.
type TenantDB struct {
	pool  *pgxpool.Pool
	fence string
	args  []any
}

// ForTenant returns what a tenant's queries run on: they see the tenant's rows and
// public topics.
func ForTenant(pool *pgxpool.Pool, tenantID string) TenantDB {
	return TenantDB{pool: pool, fence: tenantFence, args: []any{tenantID}}
}

// AllTenants returns what the platform's own queries run on: they see every tenant's
// rows, and still no keys or settings.
func AllTenants(pool *pgxpool.Pool) TenantDB {
	return TenantDB{pool: pool, fence: platformFence}
}

// Query is [pgxpool.Pool.Query] behind the fence, in the same one round trip, in which
// fence and query are one read-only transaction. Of pgx's optional arguments it takes
// a [pgx.QueryRewriter] only. The connection is given back when the rows are closed.
func (db TenantDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	batch := &pgx.Batch{}
	batch.Queue(db.fence, db.args...)
	batch.Queue(sql, args...)
	results := db.pool.SendBatch(ctx, batch)
	_, fenceErr := results.Exec()
	inner, err := results.Query()
	rows := &tenantRows{Rows: inner, results: results, err: fenceErr}
	if fenceErr != nil || err != nil {
		rows.Close()
		return rows, rows.Err()
	}
	return rows, nil
}

// tenantRows are rows that end their round trip when they are closed.
type tenantRows struct {
	pgx.Rows

	results pgx.BatchResults
	closed  bool
	// err is what failed beside the rows.
	err error
}

// Close reads what is left, ends the transaction and gives the connection back.
func (r *tenantRows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.Rows.Close()
	if err := r.results.Close(); r.err == nil {
		r.err = err
	}
}

func (r *tenantRows) Err() error {
	if err := r.Rows.Err(); err != nil && r.err == nil {
		return err //nolint:wrapcheck // as the pool's rows have it
	}
	return r.err
}

func (r *tenantRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *tenantRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err //nolint:wrapcheck // as the pool's rows have it
}

func (r *tenantRows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err //nolint:wrapcheck // as the pool's rows have it
}
