package keyring

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Keys that were destroyed are out of use at once where that is said, also when a load that
// began before ends after it; another tenant's stay.
func TestDestroyedKeysAreForgotten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	other := testBinding
	other.TenantID = tenantB
	sealed, others := seal(t, k, testBinding, testPayload), seal(t, k, other, testPayload)
	requireOpens(t, k, testBinding, sealed, testPayload)
	requireOpens(t, k, other, others, testPayload)
	n, err := b.store.Destroy(t.Context(), tenantA, testStart)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	requireOpens(t, k, testBinding, sealed, testPayload) // nobody has said it
	asked := b.store.asked.Load()
	k.Forget(tenantA)
	requireOpens(t, k, other, others, testPayload)
	require.Equal(t, asked, b.store.asked.Load())
	requireFails(t, k, testBinding, sealed, ErrUnknownKey)
	// what is sealed from now on is sealed with the next key
	requireOpens(t, k, testBinding, seal(t, k, testBinding, testPayload), testPayload)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM tenant_keys WHERE tenant_id = '`+tenantA+`' AND generation = 2 AND wrapped IS NOT NULL`))
	n, err = b.store.Destroy(t.Context(), tenantA, testStart)
	require.NoError(t, err)
	require.EqualValues(t, 1, n, "and is destroyed by itself")
}

func TestALoadFromBeforePutsNothingBack(t *testing.T) {
	t.Parallel()
	began, answer := make(chan struct{}), make(chan struct{})
	loads := 0
	l := newLoader(time.Now, func(context.Context, string, string) (string, error) {
		loads++
		if loads == 1 {
			close(began)
			<-answer
			return "old", nil
		}
		return "new", nil
	})
	got := make(chan string)
	go func() {
		value, _ := l.get(context.Background(), "k")
		got <- value
	}()
	<-began
	l.forget(func(key string) bool { return key == "k" })
	value, err := l.get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "new", value)
	close(answer)
	require.Equal(t, "old", <-got)
	value, err = l.get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "new", value)
}
