package projections

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// benchEvents is how many events a rebuild is measured with.
const benchEvents = 200_000

// BenchmarkRebuild folds 200,000 events, half published and half consumed, of two shards,
// and copies the rows that come of it, as they are, into tables and indexes like the live
// ones, in the same run. x-copy is how fast the new tables are made beside that, reading
// and decoding history included; x-copy-all is the whole rebuild, in which both sides are
// also hashed, and swapped.
func BenchmarkRebuild(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as the program has it
	for name, lag := range map[string]int{"consumed at once": 1, "consumed later": benchEvents} {
		b.Run(name, func(b *testing.B) {
			bundle := setup(b)
			const shards = 2
			for shard := range shards {
				bundle.foldAll(b, benchHistory(b, shard, benchEvents/shards, lag), BatchEventsMax)
			}
			_, err := bundle.pool.Exec(b.Context(), `VACUUM ANALYZE`)
			require.NoError(b, err)
			var made, all, copied time.Duration
			for b.Loop() {
				m, a := bundle.timeRebuild(b, shards)
				made, all, copied = made+m, all+a, copied+bundle.timeCopy(b)
			}
			b.ReportMetric(copied.Seconds()/made.Seconds(), "x-copy")
			b.ReportMetric(copied.Seconds()/all.Seconds(), "x-copy-all")
			b.ReportMetric(float64(b.N)*benchEvents/made.Seconds(), "events/s")
			b.ReportMetric(float64(b.N)*benchEvents/copied.Seconds(), "copied-rows/s")
		})
	}
}

// benchHistory is a shard's history in which each message is consumed after so many more
// were published.
func benchHistory(tb testing.TB, shard, n, lag int) *history {
	h := newHistory(tb, 1)
	var waiting []events.MessagePublished
	payload := json.RawMessage(`{"order":"` + strings.Repeat("x", 180) + `"}`)
	for published := 0; published < n/2 || len(waiting) > 0; {
		if published < n/2 {
			m := events.MessagePublished{
				MessageID: newID(tb), TopicID: h.topicID, Key: fmt.Sprint("k", published%100), ContentType: "application/json", Payload: payload, Offset: h.offsets,
			}
			h.offsets++
			published++
			h.add(m, m.MessageID, 0)
			waiting = append(waiting, m)
		}
		if len(waiting) > lag || published == n/2 {
			h.add(events.MessageConsumed{Delivery: h.delivery(waiting[0], 0, 1)}, newID(tb), 0)
			waiting = waiting[1:]
		}
	}
	inShard(tb, h, shard)
	return h
}

// inShard makes a history another shard's, with a queue of another name.
func inShard(tb testing.TB, h *history, shard int) {
	tb.Helper()
	for i := range h.records {
		h.records[i].Shard = shard
		if e, ok := h.records[i].Event.(events.TopicCreated); ok {
			e.Name = fmt.Sprint("orders-", shard)
			h.records[i].Event = e
			frame, err := events.Encode(e)
			require.NoError(tb, err)
			h.records[i].Data = frame.Join("0")
		}
	}
}

// timeRebuild returns how long it took until the new tables and their indexes were made,
// and how long until they were swapped.
func (b *testBundle) timeRebuild(tb testing.TB, shards int) (made, all time.Duration) {
	tb.Helper()
	runtime.GC()
	o := RebuildOptions{Shards: shards, Connect: b.connect}
	began := time.Now()
	o.Progress = func(p RebuildProgress) {
		if p.Phase == PhaseCompare && made == 0 {
			made = time.Since(began)
		}
	}
	state, err := Rebuild(tb.Context(), o)
	all = time.Since(began)
	require.NoError(tb, err)
	for _, t := range state.Tables {
		require.False(tb, t.Differs(), t.Table)
	}
	return made, all
}

// timeCopy copies all rows of the read tables into tables like them.
func (b *testBundle) timeCopy(tb testing.TB) time.Duration {
	tb.Helper()
	ctx := tb.Context()
	conn := b.conn(tb)
	rows := map[string][]byte{}
	for _, table := range readTables {
		var out bytes.Buffer
		_, err := conn.PgConn().CopyTo(ctx, &out, `COPY (SELECT * FROM `+table+`) TO STDOUT (FORMAT binary)`)
		require.NoError(tb, err)
		rows[table] = out.Bytes()
	}
	s := shadow{live: "raw", own: "raw", ownName: "raw"}
	require.NoError(tb, conn.QueryRow(ctx, `SELECT quote_ident(current_schema()), current_schema() || '_raw'`).Scan(&s.live, &s.ownName))
	s.own = pgx.Identifier{s.ownName}.Sanitize()
	require.NoError(tb, s.ensureSchema(ctx, conn))
	d, err := define(ctx, conn, s)
	require.NoError(tb, err)
	for i := range d.indexes {
		d.indexes[i].isLate = false
	}
	require.NoError(tb, pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := s.drop(ctx, tx); err != nil {
			return err
		}
		return s.create(ctx, tx, d)
	}))
	runtime.GC()
	began := time.Now()
	for _, table := range readTables {
		_, err := conn.PgConn().CopyFrom(ctx, bytes.NewReader(rows[table]), `COPY `+s.own+`.`+table+` FROM STDIN (FORMAT binary)`)
		require.NoError(tb, err)
	}
	return time.Since(began)
}
