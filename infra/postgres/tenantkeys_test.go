package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/migrations"
)

const keyTenant = "0192f0a0-0000-7000-8000-00000000000a"

// tenantKey is a key whose id begins with a word.
func tenantKey(word string, generation int) TenantKey {
	return TenantKey{
		TenantID: keyTenant, Generation: generation, KeyID: word + strings.Repeat("A", 22-len(word)), MasterID: "m",
		Wrapped: []byte{1, 0, 255}, CreatedAt: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC),
	}
}

func requireKey(t *testing.T, want, got TenantKey) {
	t.Helper()
	require.True(t, want.CreatedAt.Equal(got.CreatedAt))
	got.CreatedAt = want.CreatedAt
	require.Equal(t, want, got)
}

func TestATenantsKeysAreFound(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	s := NewTenantKeys(pool)
	_, found, err := s.Newest(t.Context(), keyTenant)
	require.NoError(t, err)
	require.False(t, found)

	first, second := tenantKey("first", 1), tenantKey("second", 2)
	second.MasterID = "n"
	for _, key := range []TenantKey{first, second} {
		made, err := s.Make(t.Context(), key)
		require.NoError(t, err)
		requireKey(t, key, made)
		newest, found, err := s.Newest(t.Context(), keyTenant)
		require.NoError(t, err)
		require.True(t, found)
		requireKey(t, key, newest)
		got, found, err := s.Find(t.Context(), keyTenant, key.KeyID)
		require.NoError(t, err)
		require.True(t, found)
		requireKey(t, key, got)
	}
	for tenant, id := range map[string]string{keyTenant: "none", "0192f0a0-0000-7000-8000-00000000000b": first.KeyID} {
		_, found, err := s.Find(t.Context(), tenant, id)
		require.NoError(t, err)
		require.False(t, found)
	}
	// the one that is there stays
	late := tenantKey("late", 2)
	got, err := s.Make(t.Context(), late)
	require.NoError(t, err)
	requireKey(t, second, got)

	perMaster, err := s.OnePerMaster(t.Context())
	require.NoError(t, err)
	require.Len(t, perMaster, 2)

	// a destroyed one is told, and needs no master
	exec(t, pool, `UPDATE tenant_keys SET wrapped = NULL, destroyed_at = now() WHERE generation = 2`)
	newest, _, err := s.Newest(t.Context(), keyTenant)
	require.NoError(t, err)
	require.Empty(t, newest.Wrapped)
	require.Equal(t, second.KeyID, newest.KeyID)
	perMaster, err = s.OnePerMaster(t.Context())
	require.NoError(t, err)
	require.Len(t, perMaster, 1)
	requireKey(t, first, perMaster[0])

	_, _, err = s.Newest(t.Context(), "no uuid")
	require.Error(t, err)
	again := tenantKey("first", 3) // its id is another's
	_, err = s.Make(t.Context(), again)
	require.Error(t, err)
}

func TestInstancesThatMakeAKeyGetTheSame(t *testing.T) {
	t.Parallel()
	s := NewTenantKeys(setup(t))
	const instances = 8
	ids := make([]string, instances)
	for generation := 1; generation <= 5; generation++ {
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				made, err := s.Make(context.Background(), tenantKey(fmt.Sprintf("g%di%d", generation, i), generation))
				assert.NoError(t, err)
				ids[i] = made.KeyID
			})
		}
		wg.Wait()
		for _, id := range ids {
			require.Equal(t, ids[0], id)
		}
	}
}

func TestTheReaderSeesNoTenantKeys(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	_, err := NewTenantKeys(pool).Make(t.Context(), tenantKey("k", 1))
	require.NoError(t, err)
	_, err = tryTexts(t.Context(), ForTenant(pool, keyTenant), `SELECT key_id FROM tenant_keys`)
	require.ErrorContains(t, err, "permission denied")
	_, err = tryTexts(t.Context(), AllTenants(pool), `SELECT key_id FROM tenant_keys`)
	require.ErrorContains(t, err, "permission denied")
}

func TestNoMigrationDropsKeysThatAreNeeded(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	require.NoError(t, err)
	const before = 3
	_, err = NewTenantKeys(pool).Make(t.Context(), tenantKey("k", 1))
	require.NoError(t, err)
	_, err = provider.DownTo(t.Context(), before)
	require.ErrorContains(t, err, "could never be read again")
	exec(t, pool, `UPDATE tenant_keys SET wrapped = NULL, destroyed_at = now()`)
	_, err = provider.DownTo(t.Context(), before)
	require.NoError(t, err)
	require.NoError(t, Migrate(t.Context(), pool, silent))
	_, found, err := NewTenantKeys(pool).Newest(t.Context(), keyTenant)
	require.NoError(t, err)
	require.False(t, found)
}
