package projections

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// commitUnsealed is [writer.commit] without what seals the history, to compare with.
func commitUnsealed(b *testing.B, w *writer, from events.Position, records []events.Record, c *changes) {
	b.Helper()
	history, err := historyStatement(0, records)
	require.NoError(b, err)
	tables, err := c.statements()
	require.NoError(b, err)
	moved := statement{sql: `SELECT advance_checkpoint($1::text, $2::smallint, $3::bigint, $4::bigint, $5::int, $6::text)`, params: [][]byte{
		[]byte(Name), binary.BigEndian.AppendUint16(nil, 0), bigint(int64(from)), bigint(int64(records[len(records)-1].Position)), integer(w.version), []byte(w.logRun),
	}}
	require.NoError(b, w.run(b.Context(), append([]statement{moved, history}, tables...)))
}

// Projectors take over from one another, in order and when a connection is lost; whoever
// writes, the logs go on.
func TestProjectorsTakeOverLogs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 60, 11)
	half := &history{records: h.records[:len(h.records)/2]}
	last := func(h *history) events.Position { return h.records[len(h.records)-1].Position }

	first, stopFirst := b.projector(t, half.source())
	awaitPosition(t, first, last(half))
	two := &history{records: h.records[:len(h.records)*3/4]}
	second, stopSecond := b.projector(t, two.source()) // it stands by
	stopFirst()
	awaitPosition(t, second, last(two))
	killed, err := b.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
		AND objid = (hashtextextended('tallymq:projector:' || current_schema() || ':read/0', 0) & 4294967295)::oid`)
	require.NoError(t, err)
	require.Equal(t, int64(1), killed.RowsAffected(), "the second holds the lock")
	third, stopThird := b.projector(t, h.source())
	stopSecond()
	awaitPosition(t, third, last(h))
	stopThird()
	report := b.verifySeals(t)
	require.True(t, report.OK(), report.Findings)
	require.Equal(t, int64(len(h.records)), report.Events)
	require.GreaterOrEqual(t, report.Seals, int64(3))
}

// BenchmarkSeals measures what sealing costs: turn by turn a batch with and one without
// it, into two schemas of one server, so that whatever else the machine does meets both.
// Compared is the tenth percentile, which other work disturbs least.
func BenchmarkSeals(b *testing.B) {
	for _, load := range []struct{ size, tenants int }{{1, 1}, {64, 1}, {1000, 1}, {1000, 100}} {
		size := load.size
		b.Run(fmt.Sprintf("%d events of %d tenants", size, load.tenants), func(b *testing.B) {
			type side struct {
				w  *writer
				at events.Position
				h  *history
			}
			var sides [2]side
			for i := range sides {
				bundle := setup(b)
				conn := bundle.conn(b)
				at, err := checkpoint(b.Context(), conn, 0)
				require.NoError(b, err)
				sides[i] = side{newWriter(conn.PgConn()), at, newHistory(b, 1)}
			}
			var took [2][]float64
			n := 0
			for b.Loop() {
				for i := range sides {
					s := &sides[(i+n)%2]
					for len(s.h.records) < size {
						m := s.h.publish()
						s.h.add(events.MessageConsumed{Delivery: s.h.delivery(m, 0, 1)}, newID(b), 0)
					}
					for r := range s.h.records {
						s.h.records[r].TenantID = numbered(r % load.tenants)
					}
					began := b.Elapsed()
					c, err := fold(s.h.records)
					require.NoError(b, err)
					if (i+n)%2 == 0 {
						require.NoError(b, s.w.commit(b.Context(), 0, s.at, s.h.records, &c))
					} else {
						commitUnsealed(b, s.w, s.at, s.h.records, &c)
					}
					took[(i+n)%2] = append(took[(i+n)%2], (b.Elapsed() - began).Seconds())
					s.at, s.h.records = s.h.records[len(s.h.records)-1].Position, s.h.records[:0]
				}
				n++
			}
			slices.Sort(took[0])
			slices.Sort(took[1])
			b.ReportMetric(took[0][n/10]/took[1][n/10], "sealed/unsealed")
			b.ReportMetric(took[0][n/10]*1e6, "us/sealed")
		})
	}
}

// BenchmarkLeavesOfABatch is what sealing costs of the projector's own time.
func BenchmarkLeavesOfABatch(b *testing.B) {
	h := newHistory(b, 1)
	for len(h.records) < 1000 {
		m := h.publish()
		h.add(events.MessageConsumed{Delivery: h.delivery(m, 0, 1)}, newID(b), 0)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, s := range sealsOf(h.records) {
			s.leaves.Root()
		}
	}
}
