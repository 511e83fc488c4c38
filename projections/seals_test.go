package projections

import (
	"encoding/binary"
	"fmt"
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
	moved := statement{sql: `SELECT advance_checkpoint($1::text, $2::smallint, $3::bigint, $4::bigint)`, params: [][]byte{
		[]byte(Name), binary.BigEndian.AppendUint16(nil, 0), bigint(int64(from)), bigint(int64(records[len(records)-1].Position)),
	}}
	require.NoError(b, w.run(b.Context(), append([]statement{moved, history}, tables...)))
}

// BenchmarkSeals measures what sealing costs: turn by turn a batch with and one without
// it, into two schemas of one server, so that whatever else the machine does meets both.
func BenchmarkSeals(b *testing.B) {
	for _, size := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("%d events", size), func(b *testing.B) {
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
			var took [2]float64
			n := 0
			for b.Loop() {
				for i := range sides {
					s := &sides[(i+n)%2]
					for len(s.h.records) < size {
						m := s.h.publish()
						s.h.add(events.MessageConsumed{Delivery: s.h.delivery(m, 0, 1)}, newID(b), 0)
					}
					began := b.Elapsed()
					c, err := fold(s.h.records)
					require.NoError(b, err)
					if (i+n)%2 == 0 {
						require.NoError(b, s.w.commit(b.Context(), 0, s.at, s.h.records, &c))
					} else {
						commitUnsealed(b, s.w, s.at, s.h.records, &c)
					}
					took[(i+n)%2] += (b.Elapsed() - began).Seconds()
					s.at, s.h.records = s.h.records[len(s.h.records)-1].Position, s.h.records[:0]
				}
				n++
			}
			b.ReportMetric(took[0]/took[1], "sealed/unsealed")
			b.ReportMetric(took[0]/float64(n)*1e6, "us/sealed")
		})
	}
}
