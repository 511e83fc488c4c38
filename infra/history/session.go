package history

import (
	"bytes"
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errStandby reports that another reads the shard for the group.
var errStandby = errors.New("another subscriber of the group reads the shard")

// A reader's lock is the session's: losing the connection is losing the lock and the
// means to move the offset. Nobody waits for it inside Postgres, which would hold back
// its vacuum.
const (
	readerLock   = `(hashtextextended('tallymq:history:' || current_schema() || ':' || $1::text || ':' || $2::text, $3::bigint))`
	lockReader   = `SELECT pg_try_advisory_lock` + readerLock
	unlockReader = `SELECT pg_advisory_unlock` + readerLock
)

// beginner gives watermill-sql's subscriber its transactions.
type beginner struct {
	pool   *pgxpool.Pool
	reader reader
	onGap  func(GapError) error
	logger *slog.Logger
}

var _ sql.Beginner = beginner{}

func (b beginner) BeginTx(ctx context.Context, _ *stdsql.TxOptions) (sql.Tx, error) { //nolint:ireturn // the library's
	conn, err := b.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &tx{beginner: b, conn: conn}, nil
}

func (b beginner) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) { //nolint:ireturn // the library's
	return sql.BeginnerFromPgx(b.pool).ExecContext(ctx, query, args...) //nolint:wrapcheck // passed on
}

func (b beginner) QueryContext(ctx context.Context, query string, args ...any) (sql.Rows, error) { //nolint:ireturn // the library's
	return sql.BeginnerFromPgx(b.pool).QueryContext(ctx, query, args...) //nolint:wrapcheck // passed on
}

// tx is what a page of events is handled in. The library selects the page, has it
// handled, message by message, and then moves the offset. With a transaction around
// all of that, the partitions of the history would be locked while handlers work, so
// that none could be made or dropped and in the end the projectors had to wait. So the
// page is read by itself, under the reader's lock, and so is the offset moved, unless a
// handler takes [sql.TxFromContext]: its first statement begins a transaction, to have
// its own writes and the offset's committed as one.
type tx struct {
	beginner

	conn *pgxpool.Conn
	// paged, locked and begun are how far it is.
	paged, locked bool
	begun         pgx.Tx
}

// QueryContext reads the page the first time, and then is a handler's.
func (t *tx) QueryContext(ctx context.Context, query string, args ...any) (sql.Rows, error) { //nolint:ireturn // the library's
	if !t.paged {
		t.paged = true
		ctx, cancel := context.WithTimeout(ctx, statementTimeout)
		defer cancel()
		return t.page(ctx, query, args)
	}
	begun, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	return sql.TxFromPgx(begun).QueryContext(ctx, query, args...) //nolint:wrapcheck // passed on
}

func (t *tx) page(ctx context.Context, query string, args []any) (*page, error) {
	if err := t.conn.QueryRow(ctx, lockReader, t.reader.args()...).Scan(&t.locked); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if !t.locked {
		return nil, errStandby
	}
	rows, err := t.conn.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	p := &page{types: t.conn.Conn().TypeMap()}
	p.rows, err = pgx.CollectRows(rows, p.keep)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if err := t.complete(ctx, t.conn, len(p.rows) == 0); err != nil {
		return nil, err
	}
	return p, nil
}

// ExecContext moves the offset, or is a handler's. What was acked is saved although
// the subscriber ends. An offset by itself does not wait for the disk: losing it in a
// crash of Postgres costs that its messages come again.
func (t *tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) { //nolint:ireturn // the library's
	if query == advanceReader {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		if t.begun == nil {
			tag, err := t.conn.Exec(ctx, query, args...)
			return sql.PgxResult{CommandTag: tag}, err //nolint:wrapcheck // passed on
		}
	}
	begun, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	return sql.TxFromPgx(begun).ExecContext(ctx, query, args...) //nolint:wrapcheck // passed on
}

// beginDurable waits for the disk at its commit as the server is set to.
const beginDurable = `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit TO DEFAULT`

func (t *tx) begin(ctx context.Context) (pgx.Tx, error) {
	if t.begun != nil {
		return t.begun, nil
	}
	begun, err := t.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginDurable})
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	t.begun = begun
	return begun, nil
}

func (t *tx) Commit() error {
	return t.end(func(ctx context.Context) error { return t.begun.Commit(ctx) })
}

func (t *tx) Rollback() error {
	return t.end(func(ctx context.Context) error { return t.begun.Rollback(ctx) })
}

// end ends the transaction, if one was begun, and gives the lock and the connection
// back: a connection on which either fails is closed, and the lock with it.
func (t *tx) end(finish func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	defer t.conn.Release()
	var err error
	if t.begun != nil {
		err = finish(ctx)
	}
	if t.locked && !t.conn.Conn().IsClosed() {
		if _, unlockErr := t.conn.Exec(ctx, unlockReader, t.reader.args()...); unlockErr != nil {
			err = errors.Join(err, unlockErr, t.conn.Conn().Close(ctx))
		}
	}
	if err != nil {
		return fmt.Errorf("end: %w", err)
	}
	return nil
}

// page is rows that were read, so that their connection is free for other statements.
type page struct {
	types  *pgtype.Map
	fields []pgconn.FieldDescription
	rows   [][][]byte
	row    [][]byte
}

// keep keeps a row beyond its connection's buffers.
func (p *page) keep(row pgx.CollectableRow) ([][]byte, error) {
	if p.fields == nil {
		p.fields = slices.Clone(row.FieldDescriptions())
	}
	values := slices.Clone(row.RawValues())
	for i, v := range values {
		values[i] = bytes.Clone(v)
	}
	return values, nil
}

func (p *page) Next() bool {
	if len(p.rows) == 0 {
		return false
	}
	p.row, p.rows = p.rows[0], p.rows[1:]
	return true
}

func (p *page) Scan(dest ...any) error {
	return pgx.ScanRow(p.types, p.fields, p.row, dest...) //nolint:wrapcheck // passed on
}

func (*page) Close() error { return nil }
