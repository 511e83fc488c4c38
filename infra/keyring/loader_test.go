package keyring

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKeysInMemoryServeWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	sealed := seal(t, k, testBinding, testPayload)
	asked := b.store.asked.Load()
	for range 100 {
		requireOpens(t, k, testBinding, seal(t, k, testBinding, testPayload), testPayload)
	}
	require.Equal(t, asked, b.store.asked.Load(), "no round trip")

	// an answer that is due is waited for by nobody
	b.clock.advance(refreshAfter)
	requireOpens(t, k, testBinding, sealed, testPayload)
	require.Eventually(t, func() bool { return b.store.asked.Load() > asked }, 5*time.Second, time.Millisecond)

	b.pool.Close()
	for elapsed := KeepFor; elapsed < KeepAway; elapsed += KeepFor {
		b.clock.advance(KeepFor)
		requireOpens(t, k, testBinding, seal(t, k, testBinding, testPayload), testPayload)
	}
	b.clock.advance(KeepAway)
	requireFails(t, k, testBinding, sealed, ErrStore)
	_, err := k.Seal(t.Context(), testBinding, testPayload)
	require.ErrorIs(t, err, ErrStore)
}

func TestACallerWhoLeavesEndsNoLoad(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Seal(gone, testBinding, testPayload); err != nil { // unless the load was quick
		require.ErrorIs(t, err, ErrStore)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Eventually(t, func() bool { return b.count(t, `SELECT count(*) FROM tenant_keys`) == 1 }, 5*time.Second, 5*time.Millisecond)
	seal(t, k, testBinding, testPayload)
	require.Equal(t, int64(1), b.store.asked.Load())
}

func TestAStoreThatHangsIsAskedOnceAndNotForLong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := New(masters(t, masterEntry("k")), b.store, time.Now)
	tx, err := b.pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // the pool waits for it
	_, err = tx.Exec(t.Context(), `LOCK TABLE tenant_keys`)
	require.NoError(t, err)
	const callers = 50
	errs := make(chan error, callers)
	began := time.Now()
	for range callers {
		go func() {
			_, err := k.Seal(context.Background(), testBinding, testPayload)
			errs <- err
		}()
	}
	for range callers {
		require.ErrorIs(t, <-errs, ErrStore)
	}
	require.GreaterOrEqual(t, time.Since(began), LoadTimeout)
	require.Less(t, time.Since(began), 2*LoadTimeout)
	require.Equal(t, int64(1), b.store.asked.Load())
	require.NoError(t, tx.Rollback(t.Context()))
	seal(t, k, testBinding, testPayload)
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	r := recent[int, int]{most: 10}
	for i := range 1000 {
		r.put(i, i)
		r.put(i, i)
		_, ok := r.get(0)
		require.True(t, ok, "what is used stays")
		require.LessOrEqual(t, r.len(), 10)
	}
	_, ok := r.get(500)
	require.False(t, ok)
	k := New(Masters{}, nil, nil)
	require.Equal(t, TenantsMax, k.current.held.most)
	require.Equal(t, TenantsMax, k.keys.held.most)
	require.Equal(t, WritersMax, k.writers.most)
}
