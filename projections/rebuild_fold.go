package projections

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// Limits of folding a whole history.
const (
	// RebuildBatchEventsMax and RebuildBatchBytesMax bound one transaction. A message
	// that ends in the batch in which it began is one row written once, so batches are
	// large.
	RebuildBatchEventsMax = 10_000
	RebuildBatchBytesMax  = 4 << 20
	// rebuildAhead is how many batches of a shard are decoded ahead of the one that is
	// written.
	rebuildAhead = 1
	// rebuildWorkers is how many shards are folded at once. With what they have in hand
	// it bounds memory: (rebuildAhead + 2) batches each, decoded.
	rebuildWorkers = 2
	// rebuildReadMax is how many events one query reads. It bounds for how long a
	// snapshot holds back the vacuum of what the projectors change.
	rebuildReadMax = 200_000
	// copyRowsMin is how many rows are worth a COPY.
	copyRowsMin = 64
)

// endOfHistory is a position after every event.
const endOfHistory = events.Position(math.MaxInt64)

// batch is a part of a shard's history.
type batch struct {
	changes changes
	events  int64
	upTo    events.Position
	err     error
}

const rebuildRead = `SELECT position, event_id, kind, tenant_id, version, data FROM event_history
WHERE shard = $1 AND position > $2 AND position <= $3 ORDER BY position LIMIT $4`

// readBatches reads what stands after a position, up to another one included, folds it
// and hands it on, until there is no more.
func readBatches(ctx context.Context, conn *pgx.Conn, shard int, after, upTo events.Position, out chan<- batch) {
	defer close(out)
	for {
		n, last, err := readSome(ctx, conn, shard, after, upTo, out)
		if err != nil {
			select {
			case out <- batch{err: err}:
			case <-ctx.Done():
			}
			return
		}
		if n < rebuildReadMax {
			return
		}
		after = last
	}
}

func readSome(ctx context.Context, conn *pgx.Conn, shard int, after, upTo events.Position, out chan<- batch) (n int, last events.Position, err error) {
	rows, err := conn.Query(ctx, rebuildRead, pgx.QueryResultFormats{pgx.BinaryFormatCode, pgx.BinaryFormatCode, pgx.TextFormatCode, pgx.BinaryFormatCode, pgx.BinaryFormatCode, pgx.TextFormatCode},
		shard, int64(after), int64(upTo), rebuildReadMax)
	if err != nil {
		return 0, 0, fmt.Errorf("read history: %w", err)
	}
	defer rows.Close()
	var records []events.Record
	bytes := 0
	flush := func() error {
		if len(records) == 0 {
			return nil
		}
		c, err := fold(records)
		if err != nil {
			return err
		}
		select {
		case out <- batch{changes: c, events: int64(len(records)), upTo: last}:
		case <-ctx.Done():
			return ctx.Err()
		}
		records, bytes = records[:0], 0 // what was folded keeps events, and not their records
		return nil
	}
	var ids rowIDs
	for rows.Next() {
		r, size, err := ids.record(rows.RawValues(), shard)
		if err != nil {
			return 0, 0, err
		}
		records, last = append(records, r), r.Position
		n++
		if bytes += size; len(records) == RebuildBatchEventsMax || bytes >= RebuildBatchBytesMax {
			if err := flush(); err != nil {
				return 0, 0, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return 0, 0, fmt.Errorf("read history: %w", err)
	}
	return n, last, flush()
}

// rowIDs reads rows. Tenants come again and again, so the last one's text is kept.
type rowIDs struct {
	tenant     uuid.UUID
	tenantText string
}

func (i *rowIDs) record(raw [][]byte, shard int) (r events.Record, size int, err error) {
	const uuidBytes, bigintBytes = 16, 8
	if len(raw[0]) != bigintBytes || len(raw[1]) != uuidBytes || len(raw[3]) != uuidBytes || len(raw[4]) != bigintBytes {
		return r, 0, errors.New("read history: a row is not what event_history has")
	}
	tenant := uuid.UUID(raw[3])
	if i.tenantText == "" || tenant != i.tenant {
		i.tenant, i.tenantText = tenant, tenant.String()
	}
	r = events.Record{Shard: shard, Position: events.Position(fromBigint(raw[0])), ID: uuid.UUID(raw[1]).String(), TenantID: i.tenantText, Version: fromBigint(raw[4])}
	if r.Event, err = events.Decode(events.Kind(raw[2]), raw[5]); err != nil {
		return r, 0, fmt.Errorf("event %s at %d/%d: %w", r.ID, shard, r.Position, err)
	}
	return r, len(raw[5]), nil
}

// bulk applies a batch to the new tables in one transaction, in which also the shard's
// position moves.
func (w *writer) bulk(ctx context.Context, rebuildID string, shard int, from events.Position, b batch) error {
	all, err := b.changes.statements()
	if err != nil {
		return err
	}
	moves, err := advanceStatement(rebuildID, shard, from, b.upTo, b.events)
	if err != nil {
		return err
	}
	next := []statement{{sql: `BEGIN`}, moves}
	for _, s := range all {
		copying := copyStatement(s.sql)
		if copying == "" || s.rows < copyRowsMin {
			next = append(next, s)
			continue
		}
		if err := w.run(ctx, next); err != nil {
			return w.failed(b, shard, from, err)
		}
		next = next[:0]
		if _, err := w.conn.CopyFrom(ctx, newCopyReader(s.params, s.rows), copying); err != nil {
			return w.failed(b, shard, from, err)
		}
	}
	if err := w.run(ctx, append(next, statement{sql: `COMMIT`})); err != nil {
		return w.failed(b, shard, from, err)
	}
	return nil
}

// advanceStatement moves a rebuild's position from where it is believed to be.
func advanceStatement(rebuildID string, shard int, from, to events.Position, n int64) (statement, error) {
	id, err := uuid.Parse(rebuildID)
	if err != nil {
		return statement{}, fmt.Errorf("rebuild: %w", err)
	}
	return statement{sql: `SELECT advance_rebuild($1::uuid, $2::smallint, $3::bigint, $4::bigint, $5::bigint)`, params: [][]byte{
		id[:], smallint(shard), bigint(int64(from)), bigint(int64(to)), bigint(n),
	}}, nil
}

func (*writer) failed(b batch, shard int, from events.Position, err error) error {
	return fmt.Errorf("fold %d events of shard %d after %d: %w", b.events, shard, from, err)
}

// worker folds shards, one at a time: one connection reads, one writes.
type worker struct {
	reader, writer *pgx.Conn
	w              *writer
}

func (r *rebuild) newWorker(ctx context.Context) (*worker, error) {
	out := &worker{}
	for _, conn := range []**pgx.Conn{&out.reader, &out.writer} {
		var err error
		if *conn, err = r.o.Connect(ctx); err != nil {
			out.close()
			return nil, fmt.Errorf("rebuild: %w", err)
		}
	}
	if err := r.shadow.first(ctx, out.writer, ""); err != nil {
		out.close()
		return nil, err
	}
	// What a crash of the server takes, it takes together with the position.
	if _, err := out.writer.Exec(ctx, `SET synchronous_commit TO off`); err != nil {
		out.close()
		return nil, fmt.Errorf("rebuild: %w", err)
	}
	out.w = newWriter(out.writer.PgConn())
	return out, nil
}

func (w *worker) close() {
	for _, conn := range []*pgx.Conn{w.reader, w.writer} {
		closeConn(conn)
	}
}

// foldAll folds every shard up to a position, or to where its history ends now. It
// returns how many events that were.
func (r *rebuild) foldAll(ctx context.Context, upTo map[int]events.Position) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shards := make(chan int, r.o.Shards)
	for shard := range r.o.Shards {
		shards <- shard
	}
	close(shards)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	var total int64
	for _, w := range r.workers {
		wg.Go(func() {
			for shard := range shards {
				end, bounded := upTo[shard]
				if !bounded {
					end = endOfHistory
				}
				n, err := r.foldShard(ctx, w, shard, end)
				mu.Lock()
				total += n
				if err != nil && first == nil {
					first = err
					cancel()
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return total, first
}

func (r *rebuild) foldShard(ctx context.Context, w *worker, shard int, upTo events.Position) (n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	batches := make(chan batch, rebuildAhead)
	read := make(chan struct{})
	at := r.position(shard)
	go func() {
		defer close(read)
		readBatches(ctx, w.reader, shard, at, upTo, batches)
	}()
	defer func() {
		cancel()
		<-read
	}()
	for b := range batches {
		if b.err != nil {
			return n, b.err
		}
		// A purge looks for a topic's messages.
		if len(b.changes.purges) > 0 {
			if err := r.makeIndexes(ctx, r.conn); err != nil {
				return n, err
			}
		}
		if err := w.w.bulk(ctx, r.state.ID, shard, at, b); err != nil {
			return n, err
		}
		at = b.upTo
		n += b.events
		r.advance(shard, at, b.events)
	}
	return n, ctx.Err() //nolint:wrapcheck // asked to stop
}
