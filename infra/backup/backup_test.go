package backup

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
)

func TestWhatIsRestoredEqualsTheOriginalRowForRow(t *testing.T) {
	t.Parallel()
	s := newStore(t, 3)
	s.others(t)
	s.messages(t, 600)
	s.fold(t)
	dir := t.TempDir()
	summary := s.backup(t, dir)
	count := 0
	for _, h := range s.shards {
		count += len(h.records)
	}
	require.Equal(t, int64(count), summary.Events)
	require.Greater(t, summary.Segments, 10, "segments are of bounded size")

	twin := emptyStore(t)
	r, err := twin.restore(t, dir)
	require.NoError(t, err)
	require.Equal(t, summary.Events, r.Events)
	require.Empty(t, r.Missing)
	require.Equal(t, s.sums(t), twin.sums(t))
	twin.verified(t)
	require.NoError(t, CheckEnded(t.Context(), twin.pool))

	// The copy of the copy is no different, and the copy goes on like the original.
	again := t.TempDir()
	twin.backup(t, again)
	require.Equal(t, s.sums(t), restored(t, again).sums(t))
	twin.shards = s.shards
	twin.messages(t, 20)
	twin.fold(t)
	twin.verified(t)
}

// Anybody can read a segment with zstd and jq: an object a line, the event's JSON in it as
// text, byte for byte.
func TestSegmentsAreNDJSON(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.messages(t, 50)
	s.fold(t)
	dir := filepath.Join(t.TempDir(), "made", "if need be")
	summary := s.backup(t, dir)
	byID := map[string]events.Record{}
	for _, r := range s.shards[0].records {
		byID[r.ID] = r
	}
	for _, segment := range summary.Manifest.Segments {
		if segment.Table != history {
			continue
		}
		f, err := os.Open(filepath.Join(dir, segment.File))
		require.NoError(t, err)
		zip, err := zstd.NewReader(f)
		require.NoError(t, err)
		text, err := io.ReadAll(zip)
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		require.Len(t, lines, int(segment.Rows))
		require.Len(t, text, int(segment.RawBytes))
		for _, line := range lines {
			var row struct {
				EventID  string `json:"event_id"` //nolint:tagliatelle // a column
				Position int64  `json:"position,string"`
				Data     string `json:"data"`
				Metadata struct {
					Actor string `json:"actor"`
				} `json:"metadata"`
			}
			require.NoError(t, json.Unmarshal([]byte(line), &row))
			want := byID[row.EventID]
			require.Equal(t, string(want.Data), row.Data)
			require.Equal(t, int64(want.Position), row.Position)
			require.Equal(t, "tester", row.Metadata.Actor)
			delete(byID, row.EventID)
		}
	}
	require.Empty(t, byID)
}

// A backup has the keys that sign tokens.
func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.fold(t)
	dir := filepath.Join(t.TempDir(), "b")
	s.backup(t, dir)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		require.Equal(t, want, info.Mode().Perm(), path)
		return nil
	}))
}

func TestABackupAddsWhatHasHappenedSince(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2)
	s.others(t)
	s.messages(t, 200)
	s.fold(t)
	dir := t.TempDir()
	first := s.backup(t, dir)
	before := files(t, dir)

	s.messages(t, 60)
	s.exec(t, `DELETE FROM delivery_jobs`)
	s.exec(t, `UPDATE tenant_keys SET wrapped = NULL, destroyed_at = now() WHERE generation = 1`)
	s.fold(t)
	second := s.backup(t, dir)
	total := 0
	for _, h := range s.shards {
		total += len(h.records)
	}
	require.Equal(t, int64(total)-first.Events, second.Events, "only what is new is read")
	after := files(t, dir)
	for _, segment := range first.Manifest.Segments {
		content, isThere := after[segment.File]
		if segment.Table == history {
			require.Equal(t, before[segment.File], content, segment.File)
		} else {
			require.False(t, isThere, "%s is replaced: what a destroyed key was is not kept", segment.File)
		}
	}
	twin := restored(t, dir)
	require.Equal(t, s.sums(t), twin.sums(t))
	twin.verified(t)

	// And where nothing has happened, nothing of history is added.
	third := s.backup(t, dir)
	require.Zero(t, third.Events)
	require.Equal(t, s.sums(t), restored(t, dir).sums(t))
}

// One snapshot: whatever is folded meanwhile is in the backup altogether or not at all.
func TestABackupIsOfOneMomentWhileTheServiceGoesOn(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2)
	s.messages(t, 3000)
	half := s.shards[0].records[len(s.shards[0].records)/4].Position
	s.projector(t, s.shards[0], half)()
	one, other := s.projector(t, s.shards[0], s.shards[0].at), s.projector(t, s.shards[1], s.shards[1].at)
	dir := t.TempDir()
	for range 3 {
		s.backup(t, dir)
		restored(t, dir).verified(t)
	}
	one()
	other()
	s.backup(t, dir)
	require.Equal(t, s.sums(t), restored(t, dir).sums(t))
}

func TestAKilledBackupLeavesTheOneBeforeAndGoesOn(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2)
	s.messages(t, 400)
	s.fold(t)
	dir := t.TempDir()

	// Killed after some segments, one of them half written: there is no manifest.
	killed := func(after int32) {
		t.Helper()
		ctx, kill := context.WithCancel(t.Context())
		defer kill()
		o := s.options(dir)
		var opened atomic.Int32
		o.open = func(path string) (*os.File, error) {
			if strings.Contains(path, ".ndjson") && opened.Add(1) > after {
				require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
				kill()
				return nil, errors.New("killed")
			}
			return create(path)
		}
		_, err := Run(ctx, s.pool, o)
		require.Error(t, err)
	}
	killed(3)
	_, err := Check(t.Context(), dir, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "is no backup, or one that did not end")
	kept := files(t, dir)

	first := s.backup(t, dir)
	total := int64(len(s.shards[0].records) + len(s.shards[1].records))
	require.Less(t, first.Events, total, "what was complete is not read again")
	for name, content := range files(t, dir) {
		require.NotEqual(t, "half", content, name)
	}
	require.Equal(t, s.sums(t), restored(t, dir).sums(t))
	require.NotEmpty(t, kept)

	// Killed once more: the backup from before is as good as it was.
	before := s.sums(t)
	s.messages(t, 400)
	s.fold(t)
	killed(2)
	require.Equal(t, before, restored(t, dir).sums(t))
	s.backup(t, dir)
	require.Equal(t, s.sums(t), restored(t, dir).sums(t))
}

func TestAnotherStoresDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.messages(t, 10)
	s.fold(t)
	dir := t.TempDir()
	s.backup(t, dir)
	older := restored(t, dir)
	s.messages(t, 10)
	s.fold(t)
	s.backup(t, dir)

	// One that was restored from an older backup goes on as another.
	_, err := Run(t.Context(), older.pool, older.options(dir))
	require.ErrorContains(t, err, "is of another store, or of this one before it was restored")
	other := newStore(t, 1)
	other.fold(t)
	_, err = Run(t.Context(), other.pool, other.options(dir))
	require.ErrorContains(t, err, "is of another store")
	wider := newStore(t, 2)
	_, err = Run(t.Context(), wider.pool, wider.options(dir))
	require.ErrorContains(t, err, "is of a store with 1 shards, and the database has 2")
	_, err = Check(t.Context(), dir, nil)
	require.NoError(t, err)

	unused := emptyStore(t)
	_, err = Run(t.Context(), unused.pool, unused.options(t.TempDir()))
	require.ErrorContains(t, err, "no service has used this database yet")
	s.exec(t, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`)
	_, err = Run(t.Context(), s.pool, s.options(dir))
	require.ErrorContains(t, err, "the schema of the database is of version 99999")
}

func TestOneBackupAtATime(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.fold(t)
	dir := t.TempDir()
	unlock, err := lockDir(dir)
	require.NoError(t, err)
	_, err = Run(t.Context(), s.pool, s.options(dir))
	require.ErrorContains(t, err, "another backup into "+dir+" is under way")
	unlock()
	s.backup(t, dir)
}

// To a user that policies keep rows from, a backup is refused: it would be one of nothing.
func TestRowsThatAUserMayNotSeeAreNotLeftOut(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.messages(t, 10)
	s.fold(t)
	var schema string
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT quote_ident(current_schema())`).Scan(&schema))
	s.exec(t, `GRANT SELECT ON ALL TABLES IN SCHEMA `+schema+` TO tallymq_reader`)
	pool, err := postgres.Open(t.Context(), s.url+"&role=tallymq_reader")
	require.NoError(t, err)
	defer pool.Close()
	_, err = Run(t.Context(), pool, s.options(t.TempDir()))
	require.ErrorContains(t, err, "row-level security")
}

// A table that is in no list is one that nobody has decided on.
func TestEveryTableIsDecidedOn(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	require.NoError(t, pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		there, err := tablesThere(t.Context(), tx)
		require.NoError(t, err)
		decided := slices.Concat([]string{history}, copied, folded, leftOut)
		slices.Sort(decided)
		require.Equal(t, slices.Compact(slices.Clone(decided)), decided, "each in one list")
		for _, table := range there {
			require.Contains(t, decided, table, "decide: copied, folded or left out")
		}
		for _, c := range counted {
			require.Contains(t, folded, c.table)
		}
		return nil
	}))
}

// Retention takes days of history. What counts them goes on counting them, and a directory
// does not keep what the store does not.
func TestWhatRetentionHasDroppedIsNotRestored(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	s := newStore(t, 1)
	now := time.Now().UTC()
	h := newShardAt(t, 0, now.Add(-10*day))
	s.shards[0] = h
	ids := 0
	publish := func(n int) {
		require.NoError(t, postgres.EnsurePartitions(t.Context(), s.pool, h.at.Time()))
		for range n {
			ids++
			h.message(postgres.MessageIDBound(h.at.Time()) + "-7000-8000-" + strings.Repeat("0", 4) + newID(t)[28:])
		}
	}
	publish(200)
	s.fold(t)
	require.Contains(t, s.sums(t)["group_counts"], "1 rows")
	dir := t.TempDir()
	old := s.backup(t, dir)
	h.at = events.MakePosition(now.Add(-2*day).UnixMilli(), 0)
	publish(40)
	h.at = events.MakePosition(now.UnixMilli(), 0)
	publish(40)
	s.fold(t)
	require.NoError(t, postgres.DropExpired(t.Context(), s.pool, now, 3*day, quiet))
	summary := s.backup(t, dir)
	require.Less(t, len(summary.Manifest.series(0, scopeMessage)), len(old.Manifest.series(0, scopeMessage)))
	twin := restored(t, dir)
	require.Equal(t, s.sums(t), twin.sums(t))
	twin.verified(t)

	// A fresh directory says the same, and so does one whose segments begin before.
	fresh := t.TempDir()
	s.backup(t, fresh)
	require.NoError(t, postgres.DropExpired(t.Context(), s.pool, now, day, quiet))
	s.backup(t, fresh)
	require.Equal(t, s.sums(t), restored(t, fresh).sums(t))
}
