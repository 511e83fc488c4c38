package keyring

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

const (
	tenantA = "0192f0a0-0000-7000-8000-00000000000a"
	tenantB = "0192f0a0-0000-7000-8000-00000000000b"
)

var (
	testBinding = Binding{TenantID: tenantA, TopicID: "0192f0a0-0000-7000-8000-0000000000aa", MessageID: "m-1"}
	testPayload = []byte(`{"card":"4111 1111 1111 1111"}`)
)

// counted is the real store, and counts what it is asked.
type counted struct {
	*postgres.TenantKeys

	asked atomic.Int64
}

func (c *counted) Newest(ctx context.Context, tenantID string) (StoredKey, bool, error) {
	c.asked.Add(1)
	return c.TenantKeys.Newest(ctx, tenantID)
}

func (c *counted) Find(ctx context.Context, tenantID, keyID string) (StoredKey, bool, error) {
	c.asked.Add(1)
	return c.TenantKeys.Find(ctx, tenantID, keyID)
}

// clock stands still unless it is moved.
type clock struct{ offset atomic.Int64 }

var testStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func (c *clock) now() time.Time          { return testStart.Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

type bench struct {
	pool  *pgxpool.Pool
	store *counted
	clock clock
}

func setup(t testing.TB) *bench {
	t.Helper()
	pool, err := postgres.Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	return &bench{pool: pool, store: &counted{TenantKeys: postgres.NewTenantKeys(pool)}}
}

func (b *bench) keyring(m Masters) *Keyring { return New(m, b.store, b.clock.now) }

func (b *bench) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := b.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// count returns what a query that has one number returns.
func (b *bench) count(t testing.TB, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, b.pool.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

// masterEntry is a new master key as ENCRYPTION_KEYS has it.
func masterEntry(id string) string {
	key := make([]byte, KeyBytes)
	_, _ = rand.Read(key)
	return id + ":" + base64.StdEncoding.EncodeToString(key)
}

func masters(t testing.TB, entries ...string) Masters {
	t.Helper()
	m, err := ParseKeys(strings.Join(entries, ","))
	require.NoError(t, err)
	return m
}

func seal(t testing.TB, k *Keyring, b Binding, payload []byte) []byte {
	t.Helper()
	sealed, err := k.Seal(t.Context(), b, payload)
	require.NoError(t, err)
	return sealed
}

func requireOpens(t testing.TB, k *Keyring, b Binding, sealed, payload []byte) {
	t.Helper()
	got, err := k.Open(t.Context(), b, sealed)
	require.NoError(t, err)
	require.Equal(t, payload, got)
}

func requireFails(t testing.TB, k *Keyring, b Binding, sealed []byte, want error) {
	t.Helper()
	got, err := k.Open(t.Context(), b, sealed)
	require.ErrorIs(t, err, want)
	require.Nil(t, got)
	n := 0
	for _, one := range []error{ErrUnknownKey, ErrTampered, ErrStore} {
		if errors.Is(err, one) {
			n++
		}
	}
	require.Equal(t, 1, n, "%v is one of the errors", err)
}
