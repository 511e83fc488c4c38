package projections

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tallymq/tallymq/events"
)

// Limits of a rebuild's last steps.
const (
	// RebuildTailMax is how many events, of all shards, may be left to fold while
	// projectors wait.
	RebuildTailMax = 5000
	// swapLockMin and swapLockMax are how long the swap waits for its locks, which holds
	// up who comes after it: short at first, longer the more often it was in vain.
	swapLockMin = 100 * time.Millisecond
	swapLockMax = 500 * time.Millisecond
	// vacuumWait is how long it waits for what holds up nobody else.
	vacuumWait = 5 * time.Second
	// swapTimeout bounds the transaction that swaps, in most of which nobody waits.
	swapTimeout = time.Minute
	// catchUpMax is how often it catches up before the swap is tried all the same.
	catchUpMax = 20
	// indexMemory is what the server may use to sort an index.
	indexMemory = "128MB"
)

// RebuildOptions says how to rebuild.
type RebuildOptions struct {
	Shards int
	// Connect opens a connection to the database, with the live tables' schema first in
	// its search path. Up to six are open at once.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Version is that of the folding code, [Version] where it is 0.
	Version int
	// Restart begins anew what another rebuild has begun.
	Restart bool
	// HorizonSetting and MessageIDBound are as for [Verify].
	HorizonSetting string
	MessageIDBound func(time.Time) string
	// Progress is told how far it is, often; it must not block. May be nil.
	Progress func(RebuildProgress)
	// Logger is told of retries; nil is nobody.
	Logger *slog.Logger
}

// RebuildProgress is how far a rebuild is.
type RebuildProgress struct {
	Phase string
	// Events are folded, of Total; what comes meanwhile is folded too, so they may be more.
	Events, Total int64
	// PerSecond is since this process works on it, and Left what that makes of the rest;
	// both are 0 where they are not known yet.
	PerSecond float64
	Left      time.Duration
}

// rebuild is one process' work on a rebuild.
type rebuild struct {
	o       RebuildOptions
	conn    *pgx.Conn
	shadow  shadow
	def     definition
	state   RebuildState
	workers []*worker
	// tail writes what is folded while projectors wait, on conn.
	tail *writer
	// horizon is the one by which the new tables were settled last.
	horizon time.Time

	mu        sync.Mutex
	phase     string
	positions map[int]events.Position
	// folded are this process' events, since began.
	folded, before int64
	began          time.Time
	// indexing is held by whoever makes indexes.
	indexing sync.Mutex
	indexed  bool
}

// Rebuild folds the whole history into new tables beside the read tables, while these are
// read and written, and swaps them in one transaction: at its commit the read tables are
// the fold of the history, byte for byte, by this version of the code. It takes up a
// rebuild that waits or that another process has left, or begins one;
// [ErrRebuildUnderWay] says that another process is at it. Whatever stops it, the read
// tables are whole, and the next call goes on where it stopped.
//
// Read tables that are empty, as in a database whose history was just restored, are
// filled by it; shards without a checkpoint get one, at the end of their history.
func Rebuild(ctx context.Context, o RebuildOptions) (RebuildState, error) {
	o.Version = cmp.Or(o.Version, Version)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	conn, err := o.Connect(ctx)
	if err != nil {
		return RebuildState{}, fmt.Errorf("rebuild: %w", err)
	}
	defer closeConn(conn)
	if err := lockRebuild(ctx, conn); err != nil {
		return RebuildState{}, err
	}
	defer unlockRebuild(conn)
	if o.Restart {
		if _, err := conn.Exec(ctx, `UPDATE projection_rebuilds SET status = $2, updated_at = now(), finished_at = now() WHERE projection = $1 AND status IN ('waiting', 'running')`, Name, RebuildDropped); err != nil {
			return RebuildState{}, fmt.Errorf("rebuild: %w", err)
		}
	}
	r := &rebuild{o: o, conn: conn, tail: newWriter(conn.PgConn())}
	if r.state, _, err = RequestRebuild(ctx, conn, ReasonRequest, o.Version); err != nil {
		return RebuildState{}, err
	}
	if r.state.Version > o.Version {
		return r.state, fmt.Errorf("rebuild: one is under way to version %d; this program folds version %d", r.state.Version, o.Version)
	}
	if err := r.run(ctx); err != nil {
		r.note(err)
		return r.state, err
	}
	return oneRebuild(ctx, conn, `SELECT `+rebuildColumns+` FROM projection_rebuilds r WHERE r.id = $1`, r.state.ID)
}

func lockRebuild(ctx context.Context, conn *pgx.Conn) error {
	var held bool
	err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('tallymq:rebuild:' || current_schema() || ':' || $1::text, 0))`, Name).Scan(&held)
	if err != nil {
		return fmt.Errorf("lock the rebuild: %w", err)
	}
	if !held {
		return ErrRebuildUnderWay
	}
	return nil
}

// unlockRebuild lets the next one begin at once: a server notices an end of connection a
// moment later.
func unlockRebuild(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	_, _ = conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`)
}

// note keeps what a rebuild stopped at for whoever asks.
func (r *rebuild) note(why error) {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	text := why.Error()
	r.state.Error = &text
	_, _ = r.conn.Exec(ctx, `UPDATE projection_rebuilds SET error = $2, updated_at = now() WHERE id = $1 AND status IN ('waiting', 'running')`, r.state.ID, text)
}

func (r *rebuild) run(ctx context.Context) error {
	for {
		err := r.once(ctx)
		// A migration came meanwhile: begin anew with what it made.
		if !errors.Is(err, errOtherDefinition) {
			return err
		}
		r.o.Logger.Warn("the read tables were changed while they were rebuilt; beginning anew")
	}
}

var errOtherDefinition = errors.New("rebuild: the read tables are not what they were when it began")

func (r *rebuild) once(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	defer r.closeWorkers()
	for range min(rebuildWorkers, r.o.Shards) {
		w, err := r.newWorker(ctx)
		if err != nil {
			return err
		}
		r.workers = append(r.workers, w)
	}
	if err := r.enter(ctx, PhaseFold); err != nil {
		return err
	}
	if _, err := r.foldAll(ctx, nil); err != nil {
		return err
	}
	if err := r.enter(ctx, PhaseIndex); err != nil {
		return err
	}
	writers := make([]*pgx.Conn, len(r.workers))
	for n, w := range r.workers {
		writers[n] = w.writer
	}
	if err := r.makeIndexes(ctx, writers...); err != nil {
		return err
	}
	if err := r.analyze(ctx, writers); err != nil {
		return err
	}
	if err := r.enter(ctx, PhaseCompare); err != nil {
		return err
	}
	tables, err := r.compare(ctx)
	if err != nil {
		return err
	}
	if err := r.enter(ctx, PhaseSwap); err != nil {
		return err
	}
	return r.swapWhenFree(ctx, tables)
}

// prepare makes the new tables, unless those of the rebuild are there.
func (r *rebuild) prepare(ctx context.Context) error {
	var err error
	if r.shadow, err = newShadow(ctx, r.conn); err != nil {
		return err
	}
	if err := checkDependents(ctx, r.conn); err != nil {
		return err
	}
	if r.def, err = define(ctx, r.conn, r.shadow); err != nil {
		return err
	}
	if err := r.shadow.ensureSchema(ctx, r.conn); err != nil {
		return err
	}
	var total int64
	if err := r.conn.QueryRow(ctx, `SELECT count(*) FROM event_history`).Scan(&total); err != nil {
		return fmt.Errorf("rebuild: count events: %w", err)
	}
	err = pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		if r.state.definition != r.def.sum() || r.state.Version != r.o.Version {
			if err := r.begin(ctx, tx); err != nil {
				return err
			}
		}
		r.state.definition, r.state.Version = r.def.sum(), r.o.Version
		_, err := tx.Exec(ctx, `UPDATE projection_rebuilds SET status = 'running', version = $2, definition = $3, total = $4, error = NULL, tables = NULL,
			started_at = coalesce(started_at, now()), updated_at = now() WHERE id = $1`, r.state.ID, r.o.Version, r.def.sum(), total)
		if err != nil {
			return fmt.Errorf("rebuild: %w", err)
		}
		_, err = r.shadow.syncPartitions(ctx, tx)
		return err
	})
	if err != nil {
		return err //nolint:wrapcheck // wrapped inside
	}
	r.state.Total = &total
	return r.readPositions(ctx)
}

// begin makes the new tables, empty.
func (r *rebuild) begin(ctx context.Context, tx pgx.Tx) error {
	if err := r.shadow.drop(ctx, tx); err != nil {
		return err
	}
	if err := r.shadow.create(ctx, tx, r.def); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM projection_rebuild_positions`); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	_, err := tx.Exec(ctx, `INSERT INTO projection_rebuild_positions (rebuild_id, shard, position, events) SELECT $1, n, 0, 0 FROM generate_series(0, $2::int - 1) AS n`, r.state.ID, r.o.Shards)
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

func (r *rebuild) readPositions(ctx context.Context) error {
	rows, err := r.conn.Query(ctx, `SELECT shard, position, events FROM projection_rebuild_positions WHERE rebuild_id = $1`, r.state.ID)
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.positions, r.before, r.folded, r.began, r.indexed = map[int]events.Position{}, 0, 0, time.Now(), false
	var shard int
	var position, n int64
	_, err = pgx.ForEachRow(rows, []any{&shard, &position, &n}, func() error {
		r.positions[shard] = events.Position(position)
		r.before += n
		return nil
	})
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

func (r *rebuild) position(shard int) events.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.positions[shard]
}

func (r *rebuild) advance(shard int, at events.Position, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.positions[shard] = at
	r.folded += n
	r.tell()
}

// tell reports progress; the lock is held.
func (r *rebuild) tell() {
	if r.o.Progress == nil {
		return
	}
	p := RebuildProgress{Phase: r.phase, Events: r.before + r.folded, Total: *r.state.Total}
	if took := time.Since(r.began).Seconds(); r.folded > 0 && took > 0 {
		p.PerSecond = float64(r.folded) / took
		p.Left = time.Duration(float64(max(p.Total-p.Events, 0)) / p.PerSecond * float64(time.Second)).Round(time.Second)
	}
	r.o.Progress(p)
}

// enter notes the phase that begins.
func (r *rebuild) enter(ctx context.Context, phase string) error {
	r.mu.Lock()
	r.phase = phase
	r.tell()
	r.mu.Unlock()
	if _, err := r.conn.Exec(ctx, `UPDATE projection_rebuilds SET phase = $2, updated_at = now() WHERE id = $1`, r.state.ID, phase); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

// makeIndexes makes those that the bulk of the rows did without, one table on each of
// some connections.
func (r *rebuild) makeIndexes(ctx context.Context, conns ...*pgx.Conn) error {
	r.indexing.Lock()
	defer r.indexing.Unlock()
	if r.indexed {
		return nil
	}
	missing, err := r.shadow.missingIndexes(ctx, r.conn, r.def)
	if err != nil {
		return err
	}
	byTable := map[string][]index{}
	for _, i := range missing {
		byTable[i.table] = append(byTable[i.table], i)
	}
	err = shareOut(conns, slices.Sorted(maps.Keys(byTable)), func(conn *pgx.Conn, table string) error {
		for _, i := range byTable[table] {
			if err := r.makeIndex(ctx, conn, i); err != nil {
				return err
			}
		}
		return nil
	})
	r.indexed = err == nil
	return err
}

func (r *rebuild) makeIndex(ctx context.Context, conn *pgx.Conn, i index) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := r.shadow.first(ctx, tx, "LOCAL"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `SET LOCAL maintenance_work_mem TO '`+indexMemory+`'`)
		if err == nil {
			_, err = tx.Exec(ctx, i.sql)
		}
		return err //nolint:wrapcheck // wrapped below
	})
	if err != nil {
		return fmt.Errorf("rebuild: index %s of %s: %w", i.name, i.table, err)
	}
	return nil
}

// analyze tells the planner what it knows of the live tables, which is of partitions:
// autovacuum does not look at their parents either.
func (r *rebuild) analyze(ctx context.Context, conns []*pgx.Conn) error {
	days, err := partitions(ctx, r.conn, r.shadow.own)
	if err != nil {
		return err
	}
	var names []string
	for _, p := range days {
		names = append(names, p.name)
	}
	for _, table := range readTables {
		if !slices.ContainsFunc(days, func(p partition) bool { return p.table == table }) {
			names = append(names, table)
		}
	}
	return shareOut(conns, names, func(conn *pgx.Conn, table string) error {
		if _, err := conn.Exec(ctx, `ANALYZE `+r.shadow.own+`.`+pgx.Identifier{table}.Sanitize()); err != nil {
			return fmt.Errorf("rebuild: analyze %s: %w", table, err)
		}
		return nil
	})
}

// shareOut does something to every table, on as many connections as there are.
func shareOut(conns []*pgx.Conn, tables []string, do func(conn *pgx.Conn, table string) error) error {
	todo := make(chan string, len(tables))
	for _, table := range tables {
		todo <- table
	}
	close(todo)
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for n, conn := range conns {
		wg.Go(func() {
			for table := range todo {
				if errs[n] = do(conn, table); errs[n] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *rebuild) closeWorkers() {
	for _, w := range r.workers {
		w.close()
	}
	r.workers = nil
}

// swapWhenFree swaps as soon as nobody is in the way, catching up until then.
func (r *rebuild) swapWhenFree(ctx context.Context, tables []RebuiltTable) error {
	wait := swapLockMin
	for {
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		if err := r.settle(ctx); err != nil {
			return err
		}
		err := r.swap(ctx, tables, wait)
		if err == nil {
			return nil
		}
		cause, ok := errors.AsType[*pgconn.PgError](err)
		if isBusy := ok && slices.Contains([]string{lockNotAvailable, queryCanceled}, cause.Code); !isBusy && !errors.Is(err, errNotNow) {
			return err
		}
		r.o.Logger.Info("the rebuilt tables are ready; the swap waits for those who use the old ones", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // asked to stop
		case <-time.After(wait):
		}
		wait = min(wait*3/2, swapLockMax)
	}
}

// catchUp folds until little is left.
func (r *rebuild) catchUp(ctx context.Context) error {
	for range catchUpMax {
		n, err := r.foldAll(ctx, nil)
		if err != nil || n <= RebuildTailMax/2 {
			return err
		}
	}
	return nil
}

// SQLSTATEs (PostgreSQL, appendix A).
const (
	lockNotAvailable = "55P03"
	queryCanceled    = "57014"
)

// errNotNow reports that the new tables are too far behind, or not like the live ones.
var errNotNow = errors.New("too much has come meanwhile")

func closeConn(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

func smallint(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) } //nolint:gosec // a shard

func fromBigint(raw []byte) int64 { return int64(binary.BigEndian.Uint64(raw)) } //nolint:gosec // two's complement
