package projections

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
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
// and copies the rows that come of it, as they are, into tables like the live ones, in the
// same run: x-copy is how fast the rebuild is beside that.
func BenchmarkRebuild(b *testing.B) {
	for name, lag := range map[string]int{"consumed at once": 1, "consumed later": benchEvents} {
		b.Run(name, func(b *testing.B) {
			bundle := setup(b)
			const shards = 2
			for shard := range shards {
				bundle.foldAll(b, benchHistory(b, shard, benchEvents/shards, lag), BatchEventsMax)
			}
			_, err := bundle.pool.Exec(b.Context(), `VACUUM ANALYZE`)
			require.NoError(b, err)
			for b.Loop() {
				took := bundle.timeRebuild(b, shards)
				for kind, copied := range map[string]time.Duration{
					"x-copy": bundle.timeCopy(b, true), "x-copy-bare": bundle.timeCopy(b, false),
				} {
					b.ReportMetric(copied.Seconds()/took.Seconds(), kind)
				}
				b.ReportMetric(benchEvents/took.Seconds(), "events/s")
			}
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

func (b *testBundle) timeRebuild(tb testing.TB, shards int) time.Duration {
	tb.Helper()
	runtime.GC()
	began := time.Now()
	state, err := Rebuild(tb.Context(), RebuildOptions{Shards: shards, Connect: b.connect})
	took := time.Since(began)
	require.NoError(tb, err)
	for _, t := range state.Tables {
		require.False(tb, t.Differs(), t.Table)
	}
	return took
}

// timeCopy copies all rows of the read tables into tables like them.
func (b *testBundle) timeCopy(tb testing.TB, indexed bool) time.Duration {
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
	if !indexed {
		d.indexes = nil
		d.rest = nil
	}
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
