package jobs

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A job that has nothing to do for long is in nobody's way, however many there are.
func TestJobsThatWaitHoldNoWorker(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.published("orders", 1000, `1`, false)
	h.published("orders", 3_601_000, `2`, false)
	h.folded(4_000_000)
	slow := make([]Job, 2*WorkersMax)
	for n := range slow {
		slow[n] = h.replay("slow", 1)
	}
	h.run()
	fast := h.replay("fast", 0)
	require.Equal(t, StatusDone, h.ended(fast.ID).Status)
	require.Equal(t, []string{"1", "2"}, h.target.of("fast"))
	for _, j := range slow {
		require.Eventually(t, func() bool { return h.job(j.ID).Done == 1 }, 30*time.Second, 10*time.Millisecond)
		require.Equal(t, StatusRunning, h.job(j.ID).Status)
		_, err := h.Cancel(t.Context(), h.tenantID, j.ID)
		require.NoError(t, err)
	}
	require.Len(t, h.target.of("slow"), len(slow), "once each, by whichever worker")
}

// Whoever lost its lease to another one changes nothing any more.
func TestALostLeaseIsNoticed(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.replay("copy", 0)
	first, err := h.store.claim(t.Context())
	require.NoError(t, err)
	require.NoError(t, h.store.save(t.Context(), &first))
	_, err = h.store.claim(t.Context())
	require.ErrorIs(t, err, ErrNone)
	_, err = h.pool.Exec(t.Context(), `UPDATE delivery_jobs SET leased_until = now() - interval '1 second'`)
	require.NoError(t, err)
	second, err := h.store.claim(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, h.store.save(t.Context(), &first), errLost)
	require.ErrorIs(t, h.store.park(t.Context(), first, 0), errLost)
	require.NoError(t, h.store.end(t.Context(), first, StatusFailed, "late"))
	require.Equal(t, StatusRunning, h.job(first.ID).Status)
	require.NoError(t, h.store.save(t.Context(), &second))
	require.NoError(t, h.store.end(t.Context(), second, StatusDone, ""))
	require.Equal(t, StatusDone, h.job(first.ID).Status)
}

// What nobody can read any more is counted, and the rest is replayed.
func TestWhatCannotBeReadIsLeftOut(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	for n, payload := range []string{`"lost"`, `1`, `"lost"`, `"lost"`, `2`, `"lost"`} {
		h.published("orders", int64(1000+n), payload, true)
	}
	h.folded(2000)
	h.run()
	job := h.ended(h.replay("copy", 0).ID)
	require.Equal(t, []any{StatusDone, int64(2), int64(4)}, []any{job.Status, job.Done, job.Failed})
	require.Equal(t, []string{"1", "2"}, h.target.of("copy"))
}

// A quiet queue is found among however much else, a bounded part at a time.
func TestAQuietQueueIsReplayed(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.published("orders", 999, `1`, false)
	_, err := h.pool.Exec(t.Context(), `INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
		SELECT 0, (1000::bigint << 20) + n, 'message', gen_random_uuid(), 'message.consumed', $1, $2, 'm', 0, now(), '{}', '{}' FROM generate_series(1, $3::bigint) n`,
		h.tenantID, h.topics["other"], 2*scanMax+1)
	require.NoError(t, err)
	h.published("orders", 1001, `2`, false)
	h.published("orders", 3000, `3`, false)
	h.folded(2000)
	h.run()
	job := h.ended(h.replay("copy", 0).ID)
	require.Equal(t, []any{StatusDone, int64(2)}, []any{job.Status, job.Done})
	require.Equal(t, []string{"1", "2"}, h.target.of("copy"))
	w := &worker{jobs: h.Jobs, job: job, topicID: h.topics["orders"], ownerID: h.tenantID}
	w.job.state = state{Cursor: 999 << positionBits, UpTo: 2000 << positionBits}
	list, upTo, more, err := w.nextPublished(t.Context())
	require.NoError(t, err)
	require.True(t, more)
	require.Empty(t, list)
	require.Equal(t, int64(1000<<positionBits+scanMax), upTo)
}

// A job begins when history has what the log had, however late that is.
func TestAJobWaitsForHistory(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.published("orders", 1000, `1`, false)
	h.folded(1000)
	h.logEnd.Store(2000 << positionBits)
	h.run()
	job := h.replay("copy", 0)
	require.Eventually(t, func() bool { return h.job(job.ID).UpdatedAt.After(job.UpdatedAt) }, 30*time.Second, time.Millisecond)
	h.published("orders", 1999, `2`, false)
	h.folded(2000)
	job = h.ended(job.ID)
	require.Equal(t, []any{StatusDone, int64(2)}, []any{job.Status, job.Done})
	require.Equal(t, []string{"1", "2"}, h.target.of("copy"))
}
