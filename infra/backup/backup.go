package backup

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// workersMax is how many connections read, or write, at once: as many as there are
// processors, and no more than this. Each holds a few MiB.
const workersMax = 4

func workers() int { return min(workersMax, runtime.GOMAXPROCS(0)) }

// progressRows is after how many rows progress is told.
const progressRows = 1000

// Progress is told how far a phase of the work is. Any goroutine may call it.
type Progress func(phase string, done, total int64)

// Options says what to back up, and where to.
type Options struct {
	Dir            string
	ServiceVersion string
	// Projection is the projection whose checkpoints say how far history goes.
	Projection string
	// Progress may be nil.
	Progress Progress

	// Tests have other ones of create and [SegmentBytesMax].
	open            opener
	segmentBytesMax int64
}

// Summary is what a backup has done.
type Summary struct {
	Manifest Manifest
	// Events and Rows are what this run added: of history, and of other tables.
	Events, Rows int64
	Segments     int
	// RawBytes and Bytes are before and after compression.
	RawBytes, Bytes int64
}

// run is a backup under way.
type run struct {
	Options

	pool     *pgxpool.Pool
	snapshot string
	// old is the manifest that there was, its generation 0 for none.
	old Manifest
	// upTo are the positions of the checkpoints, by shard.
	upTo map[int]int64

	mu sync.Mutex
	// unfinished is the manifest to be.
	unfinished Manifest
	done       int64
	total      int64
	summary    Summary
}

// Run makes a backup into a directory, or adds to one what has happened since.
func Run(ctx context.Context, pool *pgxpool.Pool, o Options) (Summary, error) {
	b := &run{Options: o, pool: pool}
	if b.open == nil {
		b.open = create
	}
	if b.segmentBytesMax == 0 {
		b.segmentBytesMax = SegmentBytesMax
	}
	unlock, err := lockDir(o.Dir)
	if err != nil {
		return Summary{}, err
	}
	defer unlock()
	if b.old, err = Load(o.Dir); err != nil && !isMissing(err) {
		return Summary{}, err
	}
	// This transaction is what the others take their snapshot from: it is there to the end.
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := b.prepare(ctx, tx); err != nil {
			return err
		}
		tasks, err := b.plan(ctx, tx)
		if err != nil {
			return err
		}
		return b.work(ctx, tasks)
	})
	if err != nil {
		return Summary{}, err //nolint:wrapcheck // wrapped inside
	}
	return b.summary, b.complete()
}

// lockDir makes the directory if need be, for one backup at a time.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("backup: another backup into %s is under way: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// prepare reads what the store is, and what of the directory's segments stays.
func (b *run) prepare(ctx context.Context, tx pgx.Tx) error {
	// Rows that a policy hides from this user are an error, and not left out.
	if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL row_security = off`); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := tx.QueryRow(ctx, `SELECT pg_export_snapshot()`).Scan(&b.snapshot); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	m, err := describe(ctx, tx)
	if err != nil {
		return err
	}
	m.ServiceVersion, m.Generation = b.ServiceVersion, b.old.Generation+1
	b.unfinished = m
	if b.upTo, err = checkpointsOf(ctx, tx, b.Projection); err != nil {
		return err
	}
	return b.keep(ctx, tx)
}

// generationDir is where a generation's segments are, relative to the directory.
func generationDir(generation int) string { return fmt.Sprintf("%06d", generation) }

// unfinishedPath is where what is complete of the generation under way is noted.
func (b *run) unfinishedPath() string {
	return filepath.Join(b.Dir, generationDir(b.unfinished.Generation), unfinishedName)
}

// work has several connections do the tasks, all on the one snapshot.
func (b *run) work(ctx context.Context, tasks []task) error {
	queue := make(chan task, len(tasks))
	for _, t := range tasks {
		queue <- t
	}
	close(queue)
	group, ctx := errgroup.WithContext(ctx)
	for range workers() {
		group.Go(func() error { return b.reader(ctx, queue) })
	}
	return group.Wait() //nolint:wrapcheck // wrapped inside
}

// readerSettings have values be written as they can be read anywhere, and rows be read by
// the index that has their order: sorting a whole shard would fill Postgres' disk.
const readerSettings = `
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET TRANSACTION SNAPSHOT '%s';
SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 1; SET LOCAL enable_sort = off; SET LOCAL row_security = off; SET LOCAL idle_in_transaction_session_timeout = 0;`

func (b *run) reader(ctx context.Context, queue <-chan task) error {
	pooled, err := b.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	// A connection that is within a transaction does not go back to the pool.
	defer pooled.Release()
	conn := pooled.Conn()
	if _, err := conn.PgConn().Exec(ctx, fmt.Sprintf(readerSettings, strings.ReplaceAll(b.snapshot, "'", "''"))).ReadAll(); err != nil {
		return fmt.Errorf("backup: snapshot: %w", err)
	}
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = zip.Close() }()
	for t := range queue {
		if err := b.read(ctx, conn, zip, t); err != nil {
			return err
		}
	}
	return nil
}

// read writes a task's rows into segments.
func (b *run) read(ctx context.Context, conn *pgx.Conn, zip *zstd.Encoder, t task) (err error) {
	// Where reading ends early, so does the query.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sql := "SELECT " + quoted(t.segment.Columns) + " " + t.from
	if t.segment.Table == history {
		sql += " ORDER BY position"
	}
	args := make([][]byte, 0, len(t.args))
	for _, a := range t.args {
		args = append(args, []byte(a))
	}
	result := conn.PgConn().ExecParams(ctx, sql, args, nil, nil, nil)
	var w *segmentWriter
	defer func() {
		if err != nil {
			cancel()
			if w != nil {
				w.abandon()
			}
			_, _ = result.Close()
		}
	}()
	rows := int64(0)
	for result.NextRow() {
		if w == nil {
			if w, err = b.begin(t, result, zip); err != nil {
				return err
			}
			t.number++
		}
		if err := w.add(result.Values()); err != nil {
			return err
		}
		if rows++; rows%progressRows == 0 {
			b.progress(progressRows)
		}
		if w.segment.RawBytes >= b.segmentBytesMax {
			if err := b.finish(w); err != nil {
				return err
			}
			w = nil
		}
	}
	if _, err := result.Close(); err != nil {
		return fmt.Errorf("backup: read %s: %w", t.segment.Table, err)
	}
	b.progress(rows % progressRows)
	if w == nil {
		return nil
	}
	return b.finish(w)
}

func quoted(columns []string) string {
	names := make([]string, 0, len(columns))
	for _, c := range columns {
		names = append(names, pgx.Identifier{c}.Sanitize())
	}
	return strings.Join(names, ", ")
}

// begin begins a segment.
func (b *run) begin(t task, result *pgconn.ResultReader, zip *zstd.Encoder) (*segmentWriter, error) {
	s := t.segment
	s.Columns = nil
	name := s.Table
	if s.Table == history {
		name = fmt.Sprintf("%s-%03d-%s", s.Table, s.Shard, s.Scope)
	}
	s.File = path.Join(generationDir(b.unfinished.Generation), fmt.Sprintf("%s-%04d.ndjson.zst", name, t.number))
	return newSegmentWriter(b.Dir, s, result.FieldDescriptions(), zip, b.open)
}

// finish notes a segment that is complete.
func (b *run) finish(w *segmentWriter) error {
	s, err := w.finish()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unfinished.Segments = append(b.unfinished.Segments, s)
	b.summary.Segments++
	b.summary.RawBytes += s.RawBytes
	b.summary.Bytes += s.Bytes
	if s.Table != history {
		b.summary.Rows += s.Rows
		return nil
	}
	b.summary.Events += s.Rows
	return b.unfinished.save(b.unfinishedPath(), b.open)
}

func (b *run) progress(rows int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += rows
	if b.Progress != nil {
		b.Progress("backing up", b.done, b.total)
	}
}

// complete writes the manifest, and takes away what it replaces.
func (b *run) complete() error {
	m := &b.unfinished
	for _, s := range b.old.Segments {
		if !slices.ContainsFunc(m.Segments, func(kept Segment) bool { return kept.File == s.File }) {
			m.Replaced = append(m.Replaced, s.File)
		}
	}
	if err := m.save(filepath.Join(b.Dir, manifestName), b.open); err != nil {
		return err
	}
	b.summary.Manifest = *m
	// From here on the backup is there, whatever else fails.
	_ = os.Remove(b.unfinishedPath())
	for _, file := range m.Replaced {
		_ = os.Remove(filepath.Join(b.Dir, filepath.FromSlash(file)))
		_ = os.Remove(filepath.Join(b.Dir, filepath.FromSlash(path.Dir(file)))) // where it was the last
	}
	return nil
}
