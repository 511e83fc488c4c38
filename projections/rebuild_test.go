package projections

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
)

func (b *testBundle) rebuildOptions(shards int) RebuildOptions {
	return RebuildOptions{Shards: shards, Connect: b.connect, HorizonSetting: postgres.HorizonSetting, MessageIDBound: postgres.MessageIDBound}
}

// rebuild rebuilds and returns the tables that were not what the history says.
func (b *testBundle) rebuild(t testing.TB, shards int) (differed []string) {
	t.Helper()
	state, err := Rebuild(t.Context(), b.rebuildOptions(shards))
	require.NoError(t, err)
	require.Equal(t, RebuildDone, state.Status)
	require.Len(t, state.Tables, len(readTables))
	for _, table := range state.Tables {
		if table.Differs() {
			differed = append(differed, table.Table)
		}
	}
	return differed
}

func (b *testBundle) hashes(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	conn := b.conn(t)
	for _, table := range readTables {
		var err error
		out[table], err = TableHash(t.Context(), conn, table)
		require.NoError(t, err)
	}
	return out
}

// exec runs statements, one by one.
func (b *testBundle) exec(t testing.TB, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		_, err := b.pool.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// catalogue is all that makes the read tables what they are, their partitions included.
func (b *testBundle) catalogue(t testing.TB) []string {
	t.Helper()
	return b.strings(t, `
WITH RECURSIVE t AS (
    SELECT c.oid, c.relname, c.oid AS root FROM pg_class c WHERE c.oid = ANY (SELECT name::regclass FROM unnest($1::text[]) AS u(name))
    UNION ALL SELECT c.oid, c.relname, t.root FROM pg_inherits i JOIN t ON t.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
)
SELECT x FROM (
    SELECT concat_ws(' ', 'table', c.oid::regclass, c.relkind, c.reloptions, c.relacl, c.relrowsecurity, c.relforcerowsecurity, c.relpersistence,
        pg_get_userbyid(c.relowner), c.relnamespace::regnamespace, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid)) AS x FROM t JOIN pg_class c USING (oid)
    UNION ALL SELECT concat_ws(' ', 'column', t.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull, a.attacl, a.attstorage,
        pg_get_expr(d.adbin, d.adrelid)) FROM t JOIN (SELECT *, row_number() OVER (PARTITION BY attrelid ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped) a
        ON a.attrelid = t.oid LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
    UNION ALL SELECT concat_ws(' ', 'constraint', t.relname, k.conname, pg_get_constraintdef(k.oid)) FROM t JOIN pg_constraint k ON k.conrelid = t.oid
    UNION ALL SELECT concat_ws(' ', 'index', i.relname, pg_get_indexdef(i.oid), i.reloptions) FROM t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
    UNION ALL SELECT concat_ws(' ', 'policy', t.relname, p.polname, p.polcmd, p.polpermissive, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid)) FROM t JOIN pg_policy p ON p.polrelid = t.oid
) y ORDER BY x`, readTables)
}

func TestARebuildIsAFreshFold(t *testing.T) {
	t.Parallel()
	b, fresh := setup(t), setup(t)
	for shard := range 3 {
		h := lively(t, 300, uint64(shard))
		for i := range h.records {
			h.records[i].Shard, h.records[i].TenantID = shard, fmt.Sprintf("00000000-0000-0000-0000-00000000000%d", shard+1)
		}
		b.foldAll(t, h, 50)
		fresh.foldAll(t, h, 1)
	}
	want, rows, catalogue := fresh.hashes(t), b.dump(t), b.catalogue(t)
	require.Empty(t, b.rebuild(t, 3))
	require.Equal(t, want, b.hashes(t))
	require.Equal(t, catalogue, b.catalogue(t))
	// given rows that are not what history says
	b.exec(t, `UPDATE message_records SET retry_count = 77 WHERE message_id = (SELECT min(message_id) FROM message_records)`,
		`DELETE FROM consumption_records WHERE id = (SELECT min(id::text)::uuid FROM consumption_records)`,
		`UPDATE message_topics SET version = version + 1`)
	// then the rebuild names their tables and mends them
	require.Equal(t, []string{"message_topics", "message_records", "consumption_records"}, b.rebuild(t, 3))
	require.Equal(t, want, b.hashes(t))
	require.Equal(t, rows, b.dump(t))
	require.Equal(t, catalogue, b.catalogue(t))
	require.Empty(t, b.strings(t, `SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(current_schema() || '_rebuild'))`))
}

// endless is a log that goes on until it is told to end, with a message now and then.
type endless struct {
	mu    sync.Mutex
	h     *history
	pace  *time.Ticker
	ended chan struct{}
}

func (e *endless) source() func(events.Position) (message.Subscriber, string) {
	return func(after events.Position) (message.Subscriber, string) { return endlessFrom{e, after}, "log" }
}

// next returns the record at an index, made if need be, or false at the end.
func (e *endless) next(i int) (events.Record, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.h.records) <= i {
		select {
		case <-e.ended:
			return events.Record{}, false
		case <-e.pace.C:
		}
		m := e.h.publish()
		for sub := range e.h.subs {
			e.h.add(events.MessageConsumed{Delivery: e.h.delivery(m, sub, 1)}, newID(e.h.t), 0)
		}
	}
	return e.h.records[i], true
}

func (e *endless) last() events.Position {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.h.at
}

type endlessFrom struct {
	*endless

	after events.Position
}

func (e endlessFrom) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for i := 0; ; i++ {
			r, more := e.next(i)
			if !more {
				break
			}
			if r.Position <= e.after {
				continue
			}
			select {
			case out <- toMessage(r):
			case <-ctx.Done():
				return
			}
		}
		<-ctx.Done()
	}()
	return out, nil
}

func (endlessFrom) Close() error { return nil }

// Projectors write and readers read while tables are rebuilt again and again: neither meets
// an error, and nothing is lost.
func TestRebuildsUnderTraffic(t *testing.T) {
	t.Parallel()
	b := setup(t)
	log := &endless{h: newHistory(t, 2), pace: time.NewTicker(time.Millisecond), ended: make(chan struct{})}
	defer log.pace.Stop()
	committed := make(chan events.Position, 1_000_000)
	var warnings strings.Builder
	p := New(Config{
		Connect: b.connect, Source: log.source(), Logger: slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Committed: func(upTo events.Position) { committed <- upTo },
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	reading, stopReading := context.WithCancel(t.Context())
	defer stopReading()
	reads := make([]int, 2)
	readErrs := make([]error, 2)
	for n := range reads {
		wg.Go(func() {
			for reading.Err() == nil && readErrs[n] == nil {
				reads[n]++
				readErrs[n] = b.readAsTenant(t.Context(), log.h.topicID)
			}
		})
	}
	for range 4 {
		require.Empty(t, b.rebuild(t, 1))
	}
	stopReading()
	close(log.ended)
	awaitPosition(t, committed, log.last())
	cancel()
	wg.Wait()
	require.Empty(t, warnings.String())
	for n := range reads {
		require.NoError(t, readErrs[n])
		require.Greater(t, reads[n], 10)
	}
	report := b.verify(t, 5000)
	require.True(t, report.OK(), report)
	require.Equal(t, int64(len(log.h.records)), report.Events)
}

// readAsTenant reads what a tenant does, and expects that nothing goes missing.
func (b *testBundle) readAsTenant(ctx context.Context, topicID string) error {
	db := postgres.ForTenant(b.pool, tenant)
	for sql, least := range map[string]int64{
		`SELECT count(*) FROM message_topics WHERE id = $1`: 0, `SELECT count(*) FROM message_subscriptions WHERE topic_id = $1`: 0,
		`SELECT coalesce(sum(published), 0)::bigint FROM topic_counts WHERE topic_id = $1`: 0, `SELECT count(*) FROM message_records WHERE topic_id = $1 AND status = 'published'`: 0,
		`SELECT count(*) FROM group_counts g JOIN topic_counts t USING (topic_id) WHERE g.topic_id = $1 AND g.consumed > t.published`: 0,
	} {
		rows, err := db.Query(ctx, sql, topicID)
		if err != nil {
			return err
		}
		n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if n < least || (strings.Contains(sql, "g.consumed") && n > 0) {
			return fmt.Errorf("%s: %d", sql, n)
		}
	}
	return nil
}

func TestARebuildGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 9000, 21) // more than one batch
	require.Greater(t, len(h.records), RebuildBatchEventsMax)
	b.foldAll(t, h, 1000)
	want := b.hashes(t)
	b.exec(t, `UPDATE message_records SET retry_count = 77`)
	// given one that ends after its first batch
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := b.rebuildOptions(1)
	o.Progress = func(p RebuildProgress) {
		if p.Events > 0 {
			cancel()
		}
	}
	_, err := Rebuild(ctx, o)
	require.Error(t, err)
	state, err := OpenRebuild(t.Context(), b.pool)
	require.NoError(t, err)
	require.Equal(t, RebuildRunning, state.Status)
	require.NotNil(t, state.Error)
	require.Equal(t, int64(RebuildBatchEventsMax), state.Events)
	require.Equal(t, int64(len(h.records)), *state.Total)
	// when another takes it up
	o = b.rebuildOptions(1)
	var first *RebuildProgress
	o.Progress = func(p RebuildProgress) {
		if first == nil {
			first = &p
		}
	}
	done, err := Rebuild(t.Context(), o)
	require.NoError(t, err)
	// then it begins there, and the result is the same
	require.Equal(t, state.ID, done.ID)
	require.Equal(t, state.Events, first.Events)
	require.Equal(t, int64(len(h.records)), done.Events)
	require.Nil(t, done.Error)
	require.Equal(t, want, b.hashes(t))
	_, err = OpenRebuild(t.Context(), b.pool)
	require.ErrorIs(t, err, ErrNoRebuild)
}

func TestARebuildCanBeginAnew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.foldAll(t, life(t, 20, 22), 1000)
	ctx, cancel := context.WithCancel(t.Context())
	o := b.rebuildOptions(1)
	o.Progress = func(p RebuildProgress) {
		if p.Phase == PhaseCompare {
			cancel()
		}
	}
	left, err := Rebuild(ctx, o)
	require.Error(t, err)
	o = b.rebuildOptions(1)
	o.Restart = true
	done, err := Rebuild(t.Context(), o)
	require.NoError(t, err)
	require.NotEqual(t, left.ID, done.ID)
	require.Equal(t, []string{RebuildDropped, RebuildDone}, b.strings(t, `SELECT status FROM projection_rebuilds ORDER BY id`))
}

func TestOneRebuildAtATime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.foldAll(t, life(t, 20, 23), 1000)
	o := b.rebuildOptions(1)
	var other error
	o.Progress = func(p RebuildProgress) {
		if p.Phase == PhaseFold && other == nil {
			_, other = Rebuild(t.Context(), b.rebuildOptions(1))
		}
	}
	_, err := Rebuild(t.Context(), o)
	require.NoError(t, err)
	require.ErrorIs(t, other, ErrRebuildUnderWay)
}

// Whoever folds by another version asks for a rebuild; from its commit on, code of the
// earlier version folds no more.
func TestANewVersionRebuilds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 50, 24)
	half := len(h.records) / 2
	first := *h
	first.records = h.records[:half]
	b.foldAll(t, &first, 1000)
	isNew, err := RequestIfOutdated(t.Context(), b.pool, Version)
	require.NoError(t, err)
	require.False(t, isNew)
	isNew, err = RequestIfOutdated(t.Context(), b.pool, Version+1)
	require.NoError(t, err)
	require.True(t, isNew)
	open, err := OpenRebuild(t.Context(), b.pool)
	require.NoError(t, err)
	require.Equal(t, []any{ReasonVersion, Version + 1}, []any{open.Reason, open.Version})
	// an earlier program cannot take it up
	_, err = Rebuild(t.Context(), b.rebuildOptions(1))
	require.ErrorContains(t, err, "this program folds version 1")
	o := b.rebuildOptions(1)
	o.Version = Version + 1
	done, err := Rebuild(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, open.ID, done.ID)
	standing, err := StandingOf(t.Context(), b.pool)
	require.NoError(t, err)
	require.Equal(t, []int{Version + 1, Version}, []int{standing.Version, standing.Code})
	require.Equal(t, h.records[half-1].Position, standing.Checkpoints[0].Position)
	// then the earlier program's projector is out, also one that was under way
	c, err := fold(h.records[half:])
	require.NoError(t, err)
	err = newWriter(b.conn(t).PgConn()).commit(t.Context(), 0, h.records[half-1].Position, h.records[half:], &c)
	require.ErrorContains(t, err, "projection read is of version 2 in this database, this program folds version 1")
	require.ErrorContains(t, New(Config{Connect: b.connect}).runOnce(t.Context()), "the read tables are of version 2")
	// and this one's goes on
	committed := make(chan events.Position, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		New(Config{
			Version: Version + 1, Connect: b.connect, Source: h.source(), Logger: slog.New(slog.DiscardHandler),
			Committed: func(upTo events.Position) { committed <- upTo },
		}).Run(ctx)
	}()
	awaitPosition(t, committed, h.at)
	cancel()
	<-ended
	require.True(t, b.verify(t, 100).OK())
}

func TestNothingFoldedIsOfAnyVersion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	isNew, err := RequestIfOutdated(t.Context(), b.pool, Version+5)
	require.NoError(t, err)
	require.False(t, isNew)
	standing, err := StandingOf(t.Context(), b.pool)
	require.NoError(t, err)
	require.Equal(t, Version+5, standing.Version)
	require.Nil(t, standing.Rebuild)
}

// A history that was restored into an empty database fills its read tables.
func TestARestoredHistoryIsRebuilt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := lively(t, 200, 25)
	b.foldAll(t, h, 100)
	want := b.hashes(t)
	b.exec(t, `TRUNCATE `+strings.Join(readTables, ", ")+`, projection_checkpoints`)
	require.NotEmpty(t, b.rebuild(t, 1))
	require.Equal(t, want, b.hashes(t))
	standing, err := StandingOf(t.Context(), b.pool)
	require.NoError(t, err)
	require.Equal(t, h.at, standing.Checkpoints[0].Position)
}

// Partitions come and go, and a migration changes a table, while a rebuild is under way.
func TestTablesChangeWhileTheyAreRebuilt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.foldAll(t, lively(t, 200, 26), 100)
	require.NoError(t, postgres.EnsurePartitions(t.Context(), b.pool, time.Now().AddDate(0, 0, -40)))
	o := b.rebuildOptions(1)
	done := map[string]bool{}
	var catalogue []string
	o.Progress = func(p RebuildProgress) {
		if done[p.Phase] {
			return
		}
		done[p.Phase] = true
		switch p.Phase {
		case PhaseFold:
			b.exec(t, `ALTER TABLE message_topics ADD COLUMN colour TEXT DEFAULT 'red'`, `CREATE INDEX message_topics_colour ON message_topics (colour)`)
		case PhaseCompare:
			require.NoError(t, postgres.EnsurePartitions(t.Context(), b.pool, time.Now().AddDate(0, 0, 40)))
		case PhaseSwap:
			require.NoError(t, postgres.DropExpired(t.Context(), b.pool, time.Now(), 20*24*time.Hour, slog.New(slog.DiscardHandler)))
			catalogue = b.catalogue(t)
		}
	}
	state, err := Rebuild(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, RebuildDone, state.Status)
	require.Equal(t, catalogue, b.catalogue(t))
	require.Equal(t, []string{"red"}, b.strings(t, `SELECT DISTINCT colour FROM message_topics`))
}

// What retention dropped is carried over: a rebuild loses nothing that history no
// longer tells.
func TestARebuildKeepsWhatRetentionLeft(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := time.Now().UTC()
	const day = 24 * time.Hour
	horizon := now.Add(-3 * day).Truncate(day)
	h := newHistoryAt(t, 2, now.Add(-11*day))
	at := func(when time.Time) {
		h.at = events.MakePosition(when.UnixMilli(), 0)
		require.NoError(t, postgres.EnsurePartitions(t.Context(), b.pool, when))
	}
	n := 0
	message := func(idAt time.Time) events.MessagePublished {
		n++
		m := events.MessagePublished{
			MessageID: fmt.Sprintf("%s-7000-8000-%012d", postgres.MessageIDBound(idAt), n), TopicID: h.topicID, ContentType: "application/json", Payload: []byte("1"), Offset: h.offsets,
		}
		h.offsets++
		h.add(m, m.MessageID, 0)
		return m
	}
	settle := func(m events.MessagePublished, group int) {
		h.add(events.MessageConsumed{Delivery: h.delivery(m, group, 1)}, newID(t), 0)
	}
	at(now.Add(-10 * day))
	old, late := message(h.at.Time()), message(h.at.Time())
	settle(old, 0)
	// its id is of the first day that is kept, its events are of the day before
	at(horizon.Add(-time.Second))
	edge, edgeLate := message(horizon.Add(time.Millisecond)), message(horizon.Add(2*time.Millisecond))
	h.add(events.MessageDeadLettered{Delivery: h.delivery(edge, 1, 1), Reason: events.ReasonNack}, newID(t), 0)
	at(now.Add(-time.Minute))
	settle(late, 1)
	settle(edgeLate, 0)
	recent := message(h.at.Time())
	settle(recent, 1)
	b.foldAll(t, h, 1000)
	require.NoError(t, postgres.DropExpired(t.Context(), b.pool, now, 3*day, slog.New(slog.DiscardHandler)))
	before, catalogue := b.dump(t), b.catalogue(t)
	require.Len(t, before["message_records"], 3)
	require.Len(t, before["dead_letters"], 1)
	require.Empty(t, b.rebuild(t, 1))
	require.Equal(t, before, b.dump(t))
	require.Equal(t, catalogue, b.catalogue(t))
	require.Empty(t, b.rebuild(t, 1))
	require.Equal(t, before, b.dump(t))
	report, err := Verify(t.Context(), b.conn(t), VerifyOptions{Shards: 1, Batch: 100, HorizonSetting: postgres.HorizonSetting, MessageIDBound: postgres.MessageIDBound})
	require.NoError(t, err)
	require.True(t, report.OK(), report)
}

func TestARebuildRefusesWhatItCannotTakeAlong(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"a view":                  `CREATE VIEW mine AS SELECT id FROM message_topics`,
		"a foreign key":           `CREATE TABLE mine (id UUID REFERENCES message_topics (id))`,
		"a trigger":               `CREATE TRIGGER mine BEFORE UPDATE ON message_topics FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
		"a function's own reason": `CREATE FUNCTION mine() RETURNS BIGINT LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM message_records; END`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.exec(t, sql)
			_, err := Rebuild(t.Context(), b.rebuildOptions(1))
			require.ErrorContains(t, err, "read tables cannot be replaced while there is: ")
			require.ErrorContains(t, err, "mine")
		})
	}
}

// Who reads for long is not cut off; the swap waits, and holds nobody up for long.
func TestTheSwapWaitsForReaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.foldAll(t, life(t, 20, 27), 1000)
	reader, err := b.conn(t).Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), `SELECT count(*) FROM message_topics`)
	require.NoError(t, err)
	waited := make(chan struct{}, 100)
	o := b.rebuildOptions(1)
	o.Logger = slog.New(slog.NewTextHandler(writerFunc(func(line []byte) {
		if strings.Contains(string(line), "the swap waits") {
			waited <- struct{}{}
		}
	}), nil))
	ended := make(chan error, 1)
	go func() {
		_, err := Rebuild(t.Context(), o)
		ended <- err
	}()
	for range 3 {
		<-waited
		b.exec(t, `SELECT count(*) FROM message_topics`)
	}
	require.NoError(t, reader.Commit(t.Context()))
	require.NoError(t, <-ended)
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// Events that are large make batches that are small.
func TestBatchesOfARebuildAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := newHistory(t, 1)
	large := []byte(`"` + strings.Repeat("x", 3<<20) + `"`)
	for range 5 {
		id := newID(t)
		h.add(events.MessagePublished{MessageID: id, TopicID: h.topicID, ContentType: "application/json", Payload: large, Offset: h.offsets}, id, 0)
		h.offsets++
	}
	b.foldAll(t, h, 1)
	out, conn := make(chan batch), b.conn(t)
	go readBatches(t.Context(), conn, 0, 0, endOfHistory, out)
	var sizes []int64
	for part := range out {
		require.NoError(t, part.err)
		sizes = append(sizes, part.events)
	}
	require.Equal(t, []int64{2 + 2, 2, 1}, sizes)
	require.Empty(t, b.rebuild(t, 1))
}

func TestASchemaThatMayNotBeMade(t *testing.T) {
	t.Parallel()
	b := setup(t)
	conn := b.conn(t)
	s, err := newShadow(t.Context(), conn)
	require.NoError(t, err)
	role := "limited_" + s.ownName
	b.exec(t, `CREATE ROLE `+role)
	t.Cleanup(func() { _, _ = b.pool.Exec(context.Background(), `DROP ROLE `+role) })
	_, err = conn.Exec(t.Context(), `SET ROLE `+role)
	require.NoError(t, err)
	require.ErrorContains(t, s.ensureSchema(t.Context(), conn), `have an administrator run in this database: CREATE SCHEMA `+s.own+` AUTHORIZATION "tallymq"`)
	_, err = conn.Exec(t.Context(), `RESET ROLE`)
	require.NoError(t, err)
	require.NoError(t, s.ensureSchema(t.Context(), conn))
	require.NoError(t, s.ensureSchema(t.Context(), conn))
}

// What only inserts, and gives all its columns, is copied instead.
func TestWhatIsCopied(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{insertTopics, insertSubscriptions, insertMessages, insertConsumptions, insertDeadLetters, insertSchedules} {
		copying := copyStatement(sql)
		require.Regexp(t, `^COPY [a-z_]+ \([a-z_,\s]+\) FROM STDIN \(FORMAT binary\)$`, copying)
		columns := strings.Count(copying, ",") + 1
		require.Contains(t, sql, fmt.Sprintf("$%d::", columns))
		require.NotContains(t, sql, fmt.Sprintf("$%d::", columns+1))
	}
	for _, sql := range []string{countTopics, beginGroups, countGroups, updateMessages, updateTopics, deleteRevived, purgeMessages, updateLastConsumed} {
		require.Empty(t, copyStatement(sql))
	}
}

func TestOnlyReadTablesAreHashed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := TableHash(t.Context(), b.conn(t), "tenant_keys")
	require.EqualError(t, err, `hash: "tenant_keys" is no read table`)
	require.Equal(t, readTables, ReadTables())
}

// Rows of every table come by COPY as they do by statement, where there are many.
func TestRowsOfEveryTableAreCopied(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const many = 2 * copyRowsMin
	h := newHistory(t, many)
	for n := range many {
		h.add(events.TopicCreated{TopicConfig: h.topic(fmt.Sprint("queue-", n))}, newID(t), 1)
		schedule := events.ScheduleConfig{
			ScheduleID: newID(t), TopicID: h.topicID, Name: fmt.Sprint("schedule-", n), Cron: "@daily", TimeZone: "UTC", Payload: []byte(`{"a":1}`), Status: "active",
		}
		if n%2 == 0 {
			schedule.Key, schedule.TTLMs, schedule.Headers = "k", new(int64(5)), map[string]string{"h": "v"}
		}
		h.add(events.ScheduleCreated{ScheduleConfig: schedule}, schedule.ScheduleID, 1)
		m := h.publish()
		h.add(events.MessageFailed{Delivery: h.delivery(m, n, 1), Reason: events.ReasonNack, Error: "e", StatusCode: 500, RetryDelayMs: 10}, newID(t), 0)
		h.add(events.MessageDeadLettered{Delivery: h.delivery(m, n, 2), Reason: events.ReasonNack, StatusCode: n}, newID(t), 0)
	}
	b.foldAll(t, h, 10)
	want := b.dump(t)
	for _, table := range []string{"message_topics", "message_subscriptions", "message_schedules", "dead_letters", "message_records", "consumption_records"} {
		require.GreaterOrEqual(t, len(want[table]), many, table)
	}
	require.Empty(t, b.rebuild(t, 1))
	require.Equal(t, want, b.dump(t))
}

// Projectors wait for few events only.
func TestTheTailOfARebuildIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := newHistory(t, 1)
	for len(h.records) <= RebuildTailMax {
		h.publish()
	}
	b.foldAll(t, h, 1000)
	conn := b.conn(t)
	r := &rebuild{o: b.rebuildOptions(1), conn: conn, tail: newWriter(conn.PgConn())}
	r.o.Version = Version
	var err error
	r.state, _, err = RequestRebuild(t.Context(), conn, ReasonRequest, Version)
	require.NoError(t, err)
	require.NoError(t, r.prepare(t.Context()))
	tail := func() error {
		return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error { return r.foldTail(t.Context(), tx) })
	}
	require.ErrorIs(t, tail(), errNotNow)
	r.positions[0] = h.records[0].Position // as if the first one were folded
	_, err = conn.Exec(t.Context(), `UPDATE projection_rebuild_positions SET position = $1`, int64(r.positions[0]))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `INSERT INTO `+r.shadow.own+`.message_topics SELECT * FROM message_topics`)
	require.NoError(t, err)
	require.NoError(t, tail())
}
