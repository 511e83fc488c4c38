package projections

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/proof"
)

func (b *testBundle) verifySeals(t testing.TB) SealReport {
	t.Helper()
	report, err := VerifySeals(t.Context(), b.conn(t), VerifyOptions{Shards: 1, HorizonSetting: postgres.HorizonSetting})
	require.NoError(t, err)
	return report
}

// sealRow is a seal as it stands in the store.
type sealRow struct {
	TenantID    string
	N           int64
	Scope       string
	First, Last events.Position
	Events      int64
}

func (b *testBundle) seals(t testing.TB) []sealRow {
	t.Helper()
	rows, err := b.pool.Query(t.Context(), `SELECT tenant_id::text, n, scope, first_position, last_position, events FROM history_seals ORDER BY tenant_id, n`)
	require.NoError(t, err)
	seals, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sealRow])
	require.NoError(t, err)
	return seals
}

func numbered(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012x", n) }

// A batch of several tenants, of both scopes and of two days: a seal for each of them.
func TestSealsAreOfATenantAScopeAndADay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := newHistory(t, 1)
	midnight := time.Now().UTC().Truncate(24 * time.Hour)
	h.at = events.MakePosition(midnight.UnixMilli()-3, 0)
	for range 6 { // at -2 to +3 ms
		h.publish()
	}
	h.records = h.records[2:] // their queue is another's, at another time
	positions := make([]events.Position, 0, 6)
	for i := range h.records {
		h.records[i].TenantID = strings.ToUpper(numbered(0xa + i%2))
		positions = append(positions, h.records[i].Position)
	}
	admin := newHistory(t, 0).records[0]
	admin.Position, admin.TenantID = h.at+1, numbered(0xa)
	h.records = append(h.records, admin)
	b.foldAll(t, h, 1000)

	require.Equal(t, []sealRow{
		{numbered(0xa), 0, "message", positions[0], positions[0], 1},
		{numbered(0xa), 1, "message", positions[2], positions[4], 2},
		{numbered(0xa), 2, "admin", admin.Position, admin.Position, 1},
		{numbered(0xb), 0, "message", positions[1], positions[1], 1},
		{numbered(0xb), 1, "message", positions[3], positions[5], 2},
	}, b.seals(t))
	require.Less(t, int64(positions[1]), midnight.UnixMilli()<<20)
	require.Equal(t, midnight.UnixMilli()<<20, int64(positions[2])>>20<<20)
	report := b.verifySeals(t)
	require.True(t, report.OK(), report.Findings)
	require.Equal(t, SealReport{Seals: 5, Events: 7}, report)
}

// However a history is cut into batches and whoever writes them, the logs are whole: a
// writer that takes over goes on from what stands in the store.
func TestAWriterGoesOnFromWhatStandsInTheStore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 20, 3)
	all := h.records
	conn := b.conn(t)
	w := newWriter(conn.PgConn())
	at, err := checkpoint(t.Context(), conn, 0)
	require.NoError(t, err)
	for i, r := range all {
		if i%3 != 0 { // another takes over after one batch, or after two
			w = newWriter(b.conn(t).PgConn())
		}
		c, err := fold(all[i : i+1])
		require.NoError(t, err)
		require.NoError(t, w.commit(t.Context(), 0, at, all[i:i+1], &c), "batch %d", i)
		at = r.Position
	}
	report := b.verifySeals(t)
	require.Equal(t, SealReport{Seals: int64(len(all)), Events: int64(len(all))}, report)

	// What the store's functions say of the log's edge is what the tree has.
	var tree proof.Tree
	for _, s := range b.seals(t) {
		require.Equal(t, tree.Size(), s.N)
		tree.Add(nil, [32]byte{})
	}
	require.Equal(t, int64(len(all)), tree.Size())
}

// A batch that is not committed leaves nothing, neither in the store nor for the next; of
// two writers, the one that has lost its place writes no more.
func TestAFailedBatchLeavesTheLogsAsTheyWere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 9, 4)
	conn := b.conn(t)
	first, second := newWriter(conn.PgConn()), newWriter(b.conn(t).PgConn())
	at, err := checkpoint(t.Context(), conn, 0)
	require.NoError(t, err)
	commit := func(w *writer, from events.Position, records []events.Record) error {
		c, err := fold(records)
		require.NoError(t, err)
		return w.commit(t.Context(), 0, from, records, &c)
	}
	require.NoError(t, commit(first, at, h.records[:4]))
	require.NoError(t, commit(second, h.records[3].Position, h.records[4:8]))
	before := b.seals(t)
	// The first believes to stand where it was, or is told where it stands: both fail.
	require.ErrorContains(t, commit(first, h.records[3].Position, h.records[4:8]), "is not at")
	require.Error(t, commit(first, h.records[7].Position, h.records[8:10]))
	require.Equal(t, before, b.seals(t))
	// The second was away for a while and lost nothing.
	require.NoError(t, commit(second, h.records[7].Position, h.records[8:]))
	report := b.verifySeals(t)
	require.True(t, report.OK(), report.Findings)
	require.Equal(t, int64(4), report.Seals, "the first batch is of both scopes")
}

// A writer keeps no more than so many trees, and what it forgot it reads again.
func TestAWriterKeepsOnlySoManyTrees(t *testing.T) {
	t.Parallel()
	b := setup(t)
	conn := b.conn(t)
	w := newWriter(conn.PgConn())
	at, err := checkpoint(t.Context(), conn, 0)
	require.NoError(t, err)
	h := newHistory(t, 0)
	const tenants = treesMax + 500
	for n := 0; n < tenants+600; n += 1000 {
		h.records = h.records[:0]
		for i := range 1000 {
			h.publish()
			h.records[i].TenantID = numbered((n + i) % tenants)
		}
		c, err := fold(h.records)
		require.NoError(t, err)
		require.NoError(t, w.commit(t.Context(), 0, at, h.records, &c))
		at = h.at
		require.LessOrEqual(t, len(w.seals.trees), treesMax)
	}
	report := b.verifySeals(t)
	require.True(t, report.OK(), report.Findings)
	require.Equal(t, report.Events, report.Seals)
	require.Greater(t, report.Seals, int64(tenants))
}

// Retention takes the events of whole seals; those of queues and of later days are still
// compared.
func TestSealsOfDroppedDaysAreNotCompared(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := time.Now().UTC()
	h := newHistory(t, 1)
	h.at = events.MakePosition(now.Add(-10*24*time.Hour).UnixMilli(), 0)
	require.NoError(t, postgres.EnsurePartitions(t.Context(), b.pool, h.at.Time()))
	records := h.records
	for i := range records {
		h.at++
		records[i].Position = h.at
	}
	h.publish()
	h.publish()
	h.at = events.MakePosition(now.UnixMilli(), 0)
	h.publish()
	b.foldAll(t, h, 1000)
	require.NoError(t, postgres.DropExpired(t.Context(), b.pool, now, 5*24*time.Hour, slog.New(slog.DiscardHandler)))
	report := b.verifySeals(t)
	require.Equal(t, SealReport{Seals: 2, Events: 3, Dropped: 1}, report)
	_, err := b.pool.Exec(t.Context(), `DELETE FROM event_history WHERE kind = 'subscription.created'`)
	require.NoError(t, err)
	require.False(t, b.verifySeals(t).OK())
}

// What was written before there were seals is told, and not held against anything.
func TestWhatWasWrittenBeforeSealsIsTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 10, 5)
	b.foldAll(t, h, 1000)
	_, err := b.pool.Exec(t.Context(), `TRUNCATE history_seals, history_hashes, history_seal_origins`)
	require.NoError(t, err)
	old := len(h.records)
	require.Equal(t, SealReport{Unsealed: int64(old)}, b.verifySeals(t))
	h.records = nil
	h.publish()
	h.publish()
	b.foldAll(t, h, 1)
	report := b.verifySeals(t)
	require.Equal(t, SealReport{Seals: 2, Events: 2, Unsealed: int64(old)}, report)
}

// A payload that was erased leaves seals good; any other change of it does not.
func TestErasedPayloadsAreAsSealed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 5, 6)
	b.foldAll(t, h, 7)
	payload := `{"a": [1.50, "\u00e9", null]}`
	replace := func(by string) {
		tag, err := b.pool.Exec(t.Context(), `UPDATE event_history SET data = replace(data::text, $1, $2)::json WHERE kind = 'message.published' AND data::text LIKE '%' || $3 || '%'`,
			payload, by, `"a": [1.50`)
		require.NoError(t, err)
		require.Equal(t, int64(5), tag.RowsAffected())
	}
	replace(fmt.Sprintf(`null,"erasedSha256":"%x"`, sha256.Sum256([]byte(payload))))
	require.True(t, b.verifySeals(t).OK())
	_, err := b.pool.Exec(t.Context(), `UPDATE event_history SET data = replace(data::text, 'erasedSha256":"', 'erasedSha256":"0')::json WHERE kind = 'message.published' AND position = (SELECT min(position) FROM event_history WHERE kind = 'message.published')`)
	require.NoError(t, err)
	require.Len(t, b.verifySeals(t).Findings, 1)
}

// Whatever is done to history or to its seals is found and named.
func TestVerifySealsNamesWhatWasDone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.foldAll(t, life(t, 12, 7), 5)
	tables := []string{"event_history", "history_seals", "history_hashes", "history_seal_origins", "projection_checkpoints"}
	for _, table := range tables {
		_, err := b.pool.Exec(t.Context(), "CREATE TABLE kept_"+table+" AS TABLE "+table)
		require.NoError(t, err)
	}
	const (
		one    = `(SELECT position FROM event_history WHERE kind = 'message.consumed' ORDER BY position OFFSET 3 LIMIT 1)`
		isSeal = ` WHERE n = 2`
	)
	for name, tc := range map[string]struct {
		sql  string
		says []string
	}{
		"an event is changed": {
			`UPDATE event_history SET data = replace(data::text, '"attempt":1', '"attempt":2')::json WHERE position = ` + one,
			[]string{"seal ", "history is not what was sealed: 5 events were, and 5 are there, of which some were changed"},
		},
		"white space of an event is changed": {
			`UPDATE event_history SET data = replace(data::text, '{"messageId"', '{ "messageId"')::json WHERE position = ` + one,
			[]string{"of which some were changed"},
		},
		"an event is deleted":     {`DELETE FROM event_history WHERE position = ` + one, []string{"5 events were, and 4 are there"}},
		"an event is moved":       {`UPDATE event_history SET position = position + 1, occurred_at = occurred_at WHERE position = ` + one, []string{"5 events were, and 5 are there, of which some were changed"}},
		"an actor is changed":     {`UPDATE event_history SET metadata = '{"actor":"x","requestId":"r1"}' WHERE position = ` + one, []string{"of which some were changed"}},
		"metadata are added":      {`UPDATE event_history SET metadata = metadata || '{"x":"y"}' WHERE position = ` + one, []string{"its metadata are not an event's"}},
		"an event is another's":   {`UPDATE event_history SET tenant_id = '` + numbered(9) + `' WHERE position = ` + one, []string{"5 events were, and 4 are there", "tenant " + numbered(9) + ", shard 0: event", "is under no seal"}},
		"an event is doubled":     {insertCopy + `position + 1` + copyFrom + one, []string{"5 events were, and 6 are there"}},
		"an event is added later": {insertCopy + `(SELECT max(position) FROM event_history) + 1` + copyFrom + one, []string{"is under no seal: it was put there"}},
		"an event is doubled in the other scope": {
			insertCopy + `position` + strings.Replace(copyFrom, "scope", "'admin'", 1) + one,
			[]string{"is under no seal", `column scope is "admin", and the event says "message"`},
		},
		"a column is changed":          {`UPDATE event_history SET message_id = 'x' WHERE position = ` + one, []string{`column message_id is "x", and the event says`}},
		"a time is changed":            {`UPDATE event_history SET occurred_at = now() WHERE position = ` + one, []string{"column occurred_at is not the position's time"}},
		"data are no event":            {`UPDATE event_history SET data = '1' WHERE position = ` + one, []string{"of which some were changed", "its data are not such an event's"}},
		"a kind is changed":            {`UPDATE event_history SET kind = 'message.expired' WHERE position = ` + one, []string{"of which some were changed"}},
		"a seal's root is changed":     {`UPDATE history_seals SET root = sha256('x')` + isSeal, []string{"the hashes that are stored of seal 2 are not its own", "seal 2 (message events"}},
		"a seal's root is no hash":     {`UPDATE history_seals SET root = 'x'` + isSeal, []string{"seal 2 are not its own", "of which some were changed"}},
		"a seal's count is changed":    {`UPDATE history_seals SET events = 4` + isSeal, []string{"seal 2 are not its own", "4 events were, and 5 are there"}},
		"a seal's end is changed":      {`UPDATE history_seals SET last_position = last_position - 1` + isSeal, []string{"seal 2 are not its own", "is under no seal", "5 events were, and 4 are there"}},
		"a seal is taken away":         {`DELETE FROM history_seals` + isSeal, []string{"seal 3 follows where seal 2 is missing", "is under no seal"}},
		"the last seals are":           {`DELETE FROM history_seals WHERE n > 2`, []string{"the log has 3 seals, and ", "hashes of more: seals were taken away", "its seals end at", "is under no seal"}},
		"all seals are":                {`DELETE FROM history_seals`, []string{"the log has 0 seals", "its seals end at"}},
		"a hash is changed":            {`UPDATE history_hashes SET hash = sha256('x') WHERE idx = 2`, []string{"the hashes that are stored of seal 1 are not its own"}},
		"a hash is deleted":            {`DELETE FROM history_hashes WHERE idx = 2`, []string{"the hashes that are stored of seal 1 are not its own"}},
		"the origin is deleted":        {`DELETE FROM history_seal_origins`, []string{"it is not known any more where its seals begin"}},
		"the origin is moved":          {`UPDATE history_seal_origins SET position = ` + one, []string{"history_seal_origins was changed"}},
		"the checkpoint is moved":      {`UPDATE projection_checkpoints SET position = position - 1`, []string{"seals were taken away, or the checkpoint was moved"}},
		"history, seals and hashes go": {`WITH s AS (DELETE FROM history_seals WHERE n > 2 RETURNING first_position), h AS (DELETE FROM history_hashes WHERE idx > 3) DELETE FROM event_history WHERE position >= (SELECT min(first_position) FROM s)`, []string{"its seals end at"}},
	} {
		for _, table := range tables {
			_, err := b.pool.Exec(t.Context(), "DELETE FROM "+table)
			require.NoError(t, err)
			_, err = b.pool.Exec(t.Context(), "INSERT INTO "+table+" TABLE kept_"+table)
			require.NoError(t, err)
		}
		require.True(t, b.verifySeals(t).OK(), name)
		tag, err := b.pool.Exec(t.Context(), tc.sql)
		require.NoError(t, err, name)
		require.Positive(t, tag.RowsAffected(), name)
		report := b.verifySeals(t)
		require.False(t, report.OK(), name)
		all := strings.Join(report.Findings, "\n")
		for _, words := range tc.says {
			require.Contains(t, all, words, name)
		}
	}
}

const (
	insertCopy = `INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, message_id, version, occurred_at, metadata, data) SELECT shard, `
	copyFrom   = `, scope, event_id, kind, tenant_id, topic_id, subscription_id, message_id, version, occurred_at, metadata, data FROM event_history WHERE position = `
)

// Findings beyond so many are counted only, and pages of history are cut by what they
// weigh.
func TestAReportOfSealsIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := newHistory(t, 0)
	payload := json.RawMessage(`"` + strings.Repeat("x", BatchBytesMax/3) + `"`)
	for range 8 {
		m := events.MessagePublished{MessageID: newID(t), TopicID: h.topicID, ContentType: "t", Payload: payload}
		h.add(m, m.MessageID, 0)
	}
	for range 60 {
		h.publish()
	}
	b.foldAll(t, h, 1)
	report := b.verifySeals(t)
	require.True(t, report.OK(), report.Findings)
	require.Equal(t, int64(69), report.Events)
	_, err := b.pool.Exec(t.Context(), `UPDATE event_history SET metadata = '{}'`)
	require.NoError(t, err)
	report = b.verifySeals(t)
	require.Equal(t, int64(69), report.Wrong)
	require.Len(t, report.Findings, sealFindingsMax)
}
