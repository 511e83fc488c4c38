package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
)

// tables are those of a store's schema.
func (s *store) tables(t testing.TB) []string {
	t.Helper()
	var there []string
	require.NoError(t, pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		var err error
		there, err = tablesThere(t.Context(), tx)
		return err
	}))
	return there
}

// copyOf copies a backup, to be damaged.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	require.NoError(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// edit changes a backup's manifest.
func edit(t testing.TB, dir string, change func(m map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, manifestName)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(text, &m))
	change(m)
	text, err = json.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

func segmentOf(m map[string]any, n int) map[string]any {
	return m["segments"].([]any)[n].(map[string]any)
}

func TestADamagedBackupIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2)
	s.messages(t, 100)
	s.fold(t)
	dir := t.TempDir()
	summary := s.backup(t, dir)
	segment := summary.Manifest.Segments[0].File
	target := emptyStore(t)

	for name, tc := range map[string]struct {
		damage func(t *testing.T, dir string)
		says   string
	}{
		"missing": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, segment)))
		}, "segment " + segment + " is missing"},
		"extra": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "000001", "event_history-000-message-9999.ndjson.zst"), nil, 0o600))
		}, "000001/event_history-000-message-9999.ndjson.zst is not in the manifest"},
		"cut": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, segment), summary.Manifest.Segments[0].Bytes-1))
		}, fmt.Sprintf("segment %s is cut or altered: it has %d bytes, the manifest says %d", segment, summary.Manifest.Segments[0].Bytes-1, summary.Manifest.Segments[0].Bytes)},
		"altered": {func(t *testing.T, dir string) {
			text, err := os.ReadFile(filepath.Join(dir, segment))
			require.NoError(t, err)
			text[len(text)/2] ^= 1
			require.NoError(t, os.WriteFile(filepath.Join(dir, segment), text, 0o600)) //nolint:gosec // the test's own directory
		}, "segment " + segment + " is altered: its SHA-256 is not what the manifest says"},
		"no manifest": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, manifestName)))
		}, "it is no backup, or one that did not end"},
		"cut manifest": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, manifestName), 200))
		}, "manifest.json: is cut or altered"},
		"newer format": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { m["format"], m["unheardOf"] = Format+1, true })
		}, "is of format 2; this program reads formats up to 1: use a newer tallymq"},
		"newer schema": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { m["migration"] = 99999 })
		}, "the schema of the backup is of version 99999; this program knows versions up to"},
		"no shards": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { m["shards"] = 0 })
		}, "shards: is 0; allowed: 1 to"},
		"elsewhere": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { segmentOf(m, 0)["file"] = "../" + segment })
		}, "is not in the directory"},
		"twice": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { segmentOf(m, 0)["file"] = segmentOf(m, 1)["file"] })
		}, "is named twice"},
		"unknown table": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) { segmentOf(m, 0)["table"] = "pg_authid" })
		}, "is of table pg_authid, which this program does not know"},
		"wrong shard": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) {
				for n := range m["segments"].([]any) {
					segmentOf(m, n)["shard"] = 2
				}
			})
		}, "is of shard 2"},
		"overlapping": {func(t *testing.T, dir string) {
			edit(t, dir, func(m map[string]any) {
				for n := range m["segments"].([]any) {
					if s := segmentOf(m, n); s["table"] == history {
						s["firstPosition"] = "1"
					}
				}
			})
		}, "begins before the segment before it ends"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			damaged := copyOf(t, dir)
			tc.damage(t, damaged)
			_, err := Check(t.Context(), damaged, nil)
			require.ErrorContains(t, err, tc.says)
			_, err = target.restore(t, damaged)
			require.ErrorContains(t, err, tc.says)
			require.Empty(t, target.tables(t), "nothing was written")
		})
	}
}

func TestTheServiceMustHaveTheShardsOfTheBackup(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2)
	s.fold(t)
	dir := t.TempDir()
	s.backup(t, dir)
	target := emptyStore(t)
	o := target.restoreOptions(dir)
	o.Shards = 4
	_, err := Restore(t.Context(), target.pool, o)
	require.ErrorContains(t, err, "SHARDS: is 4, but the backup is of a store with 2: set it to that")
	require.Empty(t, target.tables(t))
	o.Shards = 2
	_, err = Restore(t.Context(), target.pool, o)
	require.NoError(t, err)
}

// The checksums tell what was altered by accident. What is wrong and agrees with them ends
// the restore, and its mark stays.
func TestRowsThatTheManifestDoesNotDescribeEndTheRestore(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.messages(t, 10)
	s.fold(t)
	dir := t.TempDir()
	s.backup(t, dir)
	for name, tc := range map[string]struct {
		change func(segment map[string]any)
		says   string
	}{
		"fewer rows": {func(s map[string]any) { s["rows"] = 1e6 }, "rows, the manifest says 1000000"},
		"other columns": {func(s map[string]any) {
			columns := s["columns"].([]any)
			columns[0], columns[1] = columns[1], columns[0]
		}, "is due"},
		"fewer columns": {func(s map[string]any) {
			columns := s["columns"].([]any)
			s["columns"] = columns[:len(columns)-1]
		}, "has more columns than the manifest says"},
		"cut rows":    {func(s map[string]any) { s["rawBytes"] = s["rawBytes"].(float64) - 2 }, "row "},
		"fewer bytes": {func(s map[string]any) { s["rawBytes"] = s["rawBytes"].(float64) - 1 }, "bytes of rows that the manifest says"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			damaged := copyOf(t, dir)
			edit(t, damaged, func(m map[string]any) {
				for n := range m["segments"].([]any) {
					if s := segmentOf(m, n); s["scope"] == scopeMessage {
						tc.change(s)
						return
					}
				}
			})
			target := emptyStore(t)
			_, err := target.restore(t, damaged)
			require.ErrorContains(t, err, tc.says)
			require.ErrorIs(t, CheckEnded(t.Context(), target.pool), ErrUnfinished)
		})
	}
}

func TestARestoreRefusesADatabaseThatIsNotEmpty(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.others(t)
	s.fold(t)
	dir := t.TempDir()
	s.backup(t, dir)
	before := s.sums(t)
	_, err := s.restore(t, dir)
	require.ErrorContains(t, err, "the database is not empty, there are rows in delivery_jobs, event_history, group_counts, handover_checkpoints, history_hashes, history_seal_origins, history_seals, message_subscriptions,")
	require.Equal(t, before, s.sums(t))

	foreign := emptyStore(t)
	foreign.exec(t, `CREATE TABLE invoices AS SELECT 1 AS n`)
	_, err = foreign.restore(t, dir)
	require.ErrorContains(t, err, "there are rows in invoices: give an empty one")

	// What was only migrated is empty.
	migrated := emptyStore(t)
	require.NoError(t, postgres.Migrate(t.Context(), migrated.pool, quiet))
	_, err = migrated.restore(t, dir)
	require.NoError(t, err)
	require.Equal(t, before, migrated.sums(t))
}

func TestARestoreThatDidNotEndIsKnown(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.messages(t, 100)
	s.fold(t)
	dir := t.TempDir()
	s.backup(t, dir)

	target := emptyStore(t)
	o := target.restoreOptions(dir)
	whole := o.Fold
	// Killed in the middle of the fold: rows are there, checkpoints are not.
	o.Fold = func(ctx context.Context, shards int, _ func(int64)) error {
		ctx, kill := context.WithCancel(ctx)
		defer kill()
		return errors.Join(whole(ctx, shards, func(int64) { kill() }), errors.New("killed"))
	}
	_, err := Restore(t.Context(), target.pool, o)
	require.ErrorContains(t, err, "killed")
	for _, attempt := range []func() error{
		func() error { return CheckEnded(t.Context(), target.pool) },
		func() error { _, err := target.restore(t, dir); return err },
		func() error { _, err := Run(t.Context(), target.pool, target.options(t.TempDir())); return err },
	} {
		err := attempt()
		require.ErrorIs(t, err, ErrUnfinished)
		require.ErrorContains(t, err, "drop the schema")
	}
	var schema string
	require.NoError(t, target.pool.QueryRow(t.Context(), `SELECT quote_ident(current_schema())`).Scan(&schema))
	target.exec(t, `DROP SCHEMA `+schema+` CASCADE`)
	target.exec(t, `CREATE SCHEMA `+schema)
	target.pool.Reset() // what connections have prepared is of the tables that are gone
	_, err = target.restore(t, dir)
	require.NoError(t, err)
	require.Equal(t, s.sums(t), target.sums(t))
}

// A backup of an older schema is loaded into that schema, and then migrated like any store.
func TestABackupOfAnOlderSchemaIsMigrated(t *testing.T) {
	t.Parallel()
	const older = 6
	newest, err := postgres.NewestMigration()
	require.NoError(t, err)
	require.Greater(t, newest, int64(older))
	s := emptyStore(t)
	require.NoError(t, postgres.MigrateTo(t.Context(), s.pool, quiet, older))
	s.settings(t, 1)
	s.exec(t, `INSERT INTO tenant_keys VALUES ($1, 1, 'key', 'master', '\x00ff', now(), NULL)`, tenant)
	h := newShard(t, 0)
	s.exec(t, `INSERT INTO projection_checkpoints VALUES ('read', 0, $1)`, int64(h.at))
	for _, r := range h.records {
		s.exec(t, `INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, version, occurred_at, metadata, data)
			VALUES (0, $1, 'admin', $2, $3, $4, $5, $6, $7, '{}', $8::text::json)`,
			int64(r.Position), r.ID, string(r.Event.Kind()), tenant, h.topicID, r.Version, r.Position.Time(), string(r.Data))
	}
	dir := t.TempDir()
	summary := s.backup(t, dir)
	require.Equal(t, int64(older), summary.Manifest.Migration)
	twin := restored(t, dir)
	before, after := s.sums(t), twin.sums(t)
	for _, table := range []string{"store_settings", "service_keys", "tenant_keys", "event_history"} {
		require.Equal(t, before[table], after[table], table)
	}
	var at int64
	require.NoError(t, twin.pool.QueryRow(t.Context(), `SELECT position FROM projection_checkpoints`).Scan(&at))
	require.Equal(t, int64(h.at), at)
	require.Contains(t, after["delivery_jobs"], "0 rows", "a table of the newer schema")
	require.Contains(t, after["message_topics"], "1 rows")
	twin.verified(t)

	// After a migration all history is read anew, into the same directory.
	require.NoError(t, postgres.Migrate(t.Context(), s.pool, quiet))
	again := s.backup(t, dir)
	require.Equal(t, newest, again.Manifest.Migration)
	require.Equal(t, summary.Events, again.Events)
	require.Equal(t, before["event_history"], restored(t, dir).sums(t)["event_history"])
}

// Tables that programs make for themselves are copied; where they are not there to restore
// into, it is said.
func TestATableThatTheSchemaDoesNotHaveIsNamed(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.fold(t)
	const table = "history_readers"
	s.exec(t, `CREATE TABLE IF NOT EXISTS history_readers (consumer_group TEXT, tenant_id TEXT, shard SMALLINT, position BIGINT, complete_since TIMESTAMPTZ)`)
	s.exec(t, `INSERT INTO history_readers VALUES ('audit', '', 0, 7, now())`)
	dir := t.TempDir()
	s.backup(t, dir)
	target := emptyStore(t)
	require.NoError(t, postgres.Migrate(t.Context(), target.pool, quiet))
	isThere := strings.Contains(strings.Join(target.tables(t), " "), table)
	r, err := target.restore(t, dir)
	require.NoError(t, err)
	if isThere {
		require.Empty(t, r.Missing)
	} else {
		require.Equal(t, []string{table}, r.Missing)
	}
}

func TestProgressIsTold(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.messages(t, 1000)
	s.fold(t)
	dir := t.TempDir()
	last := map[string][2]int64{}
	tell := func(phase string, done, total int64) {
		if was := last[phase]; done > was[0] {
			last[phase] = [2]int64{done, total}
		}
	}
	o := s.options(dir)
	o.Progress = tell
	summary, err := Run(t.Context(), s.pool, o)
	require.NoError(t, err)
	require.Equal(t, [2]int64{summary.Events + summary.Rows, summary.Events + summary.Rows}, last["backing up"])

	target := emptyStore(t)
	told := make(chan func(), 100_000)
	ro := target.restoreOptions(dir)
	ro.Progress = func(phase string, done, total int64) { told <- func() { tell(phase, done, total) } }
	_, err = Restore(t.Context(), target.pool, ro)
	require.NoError(t, err)
	close(told)
	for f := range told {
		f()
	}
	for phase, total := range map[string]int64{"folding": summary.Events} {
		require.Equal(t, [2]int64{total, total}, last[phase], phase)
	}
	require.Equal(t, last["checking"][1], last["checking"][0])
	require.Equal(t, last["loading"][1], last["loading"][0])
	require.Positive(t, last["loading"][0])
}

// The horizon a manifest has is what its segments are cut by, to the position.
func TestTheHorizonCutsASegment(t *testing.T) {
	t.Parallel()
	m := Manifest{Horizon: time.UnixMilli(1000)}
	rows := `{"position":"1048575999"}` + "\n" + `{"position":"1048576000"}` + "\n"
	d := newRowDecoder(strings.NewReader(rows), []string{"position"}, m.horizonPosition())
	first, err := d.appendRow(nil)
	require.NoError(t, err)
	require.Empty(t, first)
	second, err := d.appendRow(nil)
	require.NoError(t, err)
	require.Equal(t, "1048576000\n", string(second))
	require.Equal(t, int64(1), d.skipped)
}
