package keyring

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func assertEqual(t testing.TB, want, got any) bool { return assert.Equal(t, want, got) }

// idOf is the key id that a sealed payload names.
func idOf(sealed []byte) string { return string(sealed[len(opening) : head-1]) }

// saltOf is a sealed payload's salt, as it is written.
func saltOf(sealed []byte) string { return string(sealed[head : head+21]) }

func TestRotationOfTheMasterKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, two := masterEntry("one"), masterEntry("two")
	before := b.keyring(masters(t, one))
	require.NoError(t, before.Check(t.Context()))
	sealed := seal(t, before, testBinding, testPayload)

	// given both, the new one current
	after := b.keyring(masters(t, two, one))
	require.NoError(t, after.Check(t.Context()))
	requireOpens(t, after, testBinding, sealed, testPayload)
	other := Binding{TenantID: tenantB, TopicID: "q", MessageID: "m"}
	theirs := seal(t, after, other, testPayload)
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM tenant_keys WHERE tenant_id = $1 AND master_id = 'one'`, tenantA))
	require.Equal(t, 1, b.count(t, `SELECT count(*) FROM tenant_keys WHERE tenant_id = $1 AND master_id = 'two'`, tenantB))
	require.Equal(t, idOf(sealed), idOf(seal(t, after, testBinding, testPayload)))

	// when the old one is taken away
	without := b.keyring(masters(t, two))
	err := without.Check(t.Context())
	require.ErrorIs(t, err, ErrUnknownKey)
	require.EqualError(t, err, "ENCRYPTION_KEYS: lacks master keys one, which stored payloads need: unknown key")
	requireFails(t, without, testBinding, sealed, ErrUnknownKey)
	_, err = without.Seal(t.Context(), testBinding, testPayload)
	require.ErrorIs(t, err, ErrUnknownKey)
	requireOpens(t, without, other, theirs, testPayload)

	// and once the row is wrapped by the other, it is not needed
	stored, found, err := b.store.Find(t.Context(), tenantA, idOf(sealed))
	require.NoError(t, err)
	require.True(t, found)
	key, err := after.masters.open(tenantA, &stored)
	require.NoError(t, err)
	wrapped := after.masters.current.aead.Seal([]byte{wrapVersion}, nil, key.secret[:], wrapBinding(tenantA, stored.KeyID)) //nolint:gosec // it makes the nonce itself
	b.exec(t, `UPDATE tenant_keys SET master_id = 'two', wrapped = $2 WHERE key_id = $1`, stored.KeyID, wrapped)
	require.NoError(t, without.Check(t.Context()))
	b.clock.advance(missFor)
	requireOpens(t, without, testBinding, sealed, testPayload)
}

func TestCheckNamesEveryMasterKeyThatIsWrong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, CheckUnset(t.Context(), b.store))
	for n, id := range []string{"one", "two", "three"} {
		seal(t, b.keyring(masters(t, masterEntry(id))), Binding{TenantID: fmt.Sprintf("0192f0a0-0000-7000-8000-%012d", n), TopicID: "q", MessageID: "m"}, nil)
	}
	require.EqualError(t, CheckUnset(t.Context(), b.store), "ENCRYPTION_KEYS: is not set and must have master keys one, three, two, which stored payloads need: unknown key")
	err := b.keyring(masters(t, masterEntry("two"))).Check(t.Context())
	require.ErrorIs(t, err, ErrTampered)
	require.ErrorIs(t, err, ErrUnknownKey)
	require.ErrorContains(t, err, "master key two is another than the one that wrapped it")
	require.ErrorContains(t, err, "lacks master keys one, three,")
	b.pool.Close()
	require.ErrorIs(t, CheckUnset(t.Context(), b.store), ErrStore)
}

func TestInstancesThatMakeATenantsFirstKeyAgree(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m := masters(t, masterEntry("k"))
	const instances = 8
	var rings []*Keyring
	for range instances {
		rings = append(rings, b.keyring(m))
	}
	for n := range 5 {
		bound := Binding{TenantID: fmt.Sprintf("0192f0a0-0000-7000-8000-%012d", n), TopicID: "q", MessageID: "m"}
		sealed := make([][]byte, instances)
		var wg sync.WaitGroup
		for i, k := range rings {
			wg.Go(func() {
				var err error
				sealed[i], err = k.Seal(t.Context(), bound, testPayload)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		for i := range sealed {
			require.Equal(t, idOf(sealed[0]), idOf(sealed[i]))
			requireOpens(t, rings[(i+1)%instances], bound, sealed[i], testPayload)
		}
	}
	require.Equal(t, 5, b.count(t, `SELECT count(*) FROM tenant_keys`))
}

func TestAWriterKeyIsUsedSoOftenAndNoMore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	require.Equal(t, uint64(1<<28), k.sealsMax)
	k.sealsMax = 100
	seals := map[string]int{}
	ids := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 100 {
				sealed, err := k.Seal(t.Context(), testBinding, nil)
				if !assertEqual(t, nil, err) {
					return
				}
				mu.Lock()
				seals[saltOf(sealed)]++
				ids[idOf(sealed)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seals, 10)
	for _, n := range seals {
		require.Equal(t, 100, n)
	}
	require.Len(t, ids, 1)

	// two processes never have the same
	other := seal(t, b.keyring(k.masters), testBinding, nil)
	require.Zero(t, seals[saltOf(other)])
}

func TestATenantsKeyIsFollowedByTheNextOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	other := b.keyring(k.masters)
	first := seal(t, k, testBinding, testPayload)
	b.clock.advance(KeyAgeMax - time.Second)
	require.Equal(t, idOf(first), idOf(seal(t, k, testBinding, testPayload)))
	require.Equal(t, saltOf(first), saltOf(seal(t, k, testBinding, testPayload)), "what was counted goes on")

	b.clock.advance(KeepFor)
	second := seal(t, k, testBinding, testPayload)
	require.NotEqual(t, idOf(first), idOf(second))
	require.Equal(t, idOf(second), idOf(seal(t, other, testBinding, testPayload)))
	require.Equal(t, 2, b.count(t, `SELECT max(generation) FROM tenant_keys`))
	for _, sealed := range [][]byte{first, second} {
		requireOpens(t, k, testBinding, sealed, testPayload)
		requireOpens(t, other, testBinding, sealed, testPayload)
	}
}

func TestADestroyedKeyOpensNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	sealed := seal(t, k, testBinding, testPayload)
	requireOpens(t, k, testBinding, sealed, testPayload)
	b.exec(t, `UPDATE tenant_keys SET wrapped = NULL, destroyed_at = now()`)
	b.clock.advance(KeepFor)
	requireFails(t, k, testBinding, sealed, ErrUnknownKey)
	require.NoError(t, CheckUnset(t.Context(), b.store))

	// that it is gone is not asked for again at once
	asked := b.store.asked.Load()
	for range 10 {
		requireFails(t, k, testBinding, sealed, ErrUnknownKey)
	}
	require.Equal(t, asked, b.store.asked.Load())

	next := seal(t, k, testBinding, testPayload)
	require.NotEqual(t, idOf(sealed), idOf(next))
	requireOpens(t, k, testBinding, next, testPayload)
	require.Equal(t, 2, b.count(t, `SELECT generation FROM tenant_keys WHERE wrapped IS NOT NULL`))
}

func TestAKeyThatWasMovedOrChangedOpensNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m := masters(t, masterEntry("k"))
	sealed := seal(t, b.keyring(m), testBinding, testPayload)
	other := testBinding
	other.TenantID = tenantB
	for _, sql := range []string{
		`UPDATE tenant_keys SET tenant_id = '` + tenantB + `'`,
		`UPDATE tenant_keys SET wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)`,
		`UPDATE tenant_keys SET wrapped = set_byte(wrapped, 0, 9)`,
		`UPDATE tenant_keys SET wrapped = substr(wrapped, 1, 20)`,
	} {
		b.exec(t, sql)
		requireFails(t, b.keyring(m), other, sealed, ErrTampered)
	}
	b.exec(t, `DELETE FROM tenant_keys`)
	requireFails(t, b.keyring(m), testBinding, sealed, ErrUnknownKey)
}
