package history

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/projections"
)

// BenchmarkRead reads a shard from the beginning and acks every event, beside what reads
// the same pages and delivers nothing.
func BenchmarkRead(b *testing.B) {
	const eventsAll = 100_000
	s := setup(b, 1)
	s.exec(`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
		SELECT 0, n, 'message', gen_random_uuid(), 'message.consumed', $1::text::uuid, $1::text::uuid, n::text, 0, now(), '{"actor":"bench"}',
			json_build_object('messageId', n::text, 'topicId', $1::text, 'subscriptionId', $1::text, 'consumerGroup', 'bench', 'consumer', repeat('x', 100), 'offset', n, 'attempt', 1)
		FROM generate_series(1, $2::int) n`, tenant, eventsAll)
	s.exec(`VACUUM ANALYZE event_history`)
	b.Run("pages only", func(b *testing.B) {
		conn, err := pgx.Connect(b.Context(), s.url)
		require.NoError(b, err)
		defer func() { _ = conn.Close(b.Context()) }()
		for b.Loop() {
			n := 0
			for after := events.Position(0); ; {
				records, err := projections.ReadHistory(b.Context(), conn, 0, after, BatchEventsDefault)
				require.NoError(b, err)
				if len(records) == 0 {
					break
				}
				n, after = n+len(records), records[len(records)-1].Position
			}
			require.Equal(b, eventsAll, n)
		}
		b.ReportMetric(float64(eventsAll*b.N)/b.Elapsed().Seconds(), "events/s")
	})
	for _, size := range []int{1, BatchEventsDefault, BatchEventsMax} {
		b.Run(fmt.Sprintf("batches of %d", size), func(b *testing.B) {
			n := min(eventsAll, 2000*size)
			group := fmt.Sprint("g", size)
			for b.Loop() {
				s.place(reader{group: group}, 0)
				sub := s.open(Config{Group: group, BatchEvents: size})
				messages, err := sub.Subscribe(b.Context(), Topic(0))
				require.NoError(b, err)
				for range n {
					(<-messages).Ack()
				}
				require.NoError(b, sub.Close())
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
