package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// What projectors have folded bit by bit, FoldAll folds from history to the same rows.
func TestFoldAllMakesTheSameRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const shards = 3
	total := 0
	for shard := range shards {
		h := life(t, 40, uint64(shard))
		for i := range h.records {
			h.records[i].Shard = shard
			if e, ok := h.records[i].Event.(events.TopicCreated); ok {
				e.Name = fmt.Sprint("orders-", shard)
				h.records[i].Event = e
				frame, err := events.Encode(e)
				require.NoError(t, err)
				completed, err := json.Marshal(completion(e))
				require.NoError(t, err)
				h.records[i].Data = frame.Join(string(completed))
			}
		}
		conn := b.conn(t)
		_, err := checkpoint(t.Context(), conn, shard)
		require.NoError(t, err)
		c, err := fold(h.records)
		require.NoError(t, err)
		require.NoError(t, newWriter(conn.PgConn()).commit(t.Context(), shard, 0, h.records, &c))
		total += len(h.records)
	}
	want := b.dump(t)
	for _, table := range readTables {
		_, err := b.pool.Exec(t.Context(), `TRUNCATE `+table+` CASCADE`)
		require.NoError(t, err)
	}
	for _, workers := range []int{1, 2} {
		told := make(chan int64, total)
		o := FoldAllOptions{Shards: shards, Workers: workers, Connect: b.connect, Progress: func(n int64) { told <- n }}
		require.NoError(t, FoldAll(t.Context(), o))
		require.Equal(t, want, b.dump(t))
		close(told)
		var last int64
		for n := range told {
			last = max(last, n)
		}
		require.Equal(t, int64(total), last)
		for _, table := range readTables {
			_, err := b.pool.Exec(t.Context(), `TRUNCATE `+table+` CASCADE`)
			require.NoError(t, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, FoldAll(ended, FoldAllOptions{Shards: shards, Workers: 1, Connect: b.connect}), context.Canceled)
}
