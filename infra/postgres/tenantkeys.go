package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// TenantKey is a stored key of a tenant. It is a name for the type itself, so that
// who uses the store can have the same type without importing this package.
type TenantKey = struct {
	TenantID string
	// Generation counts a tenant's keys from 1.
	Generation int
	KeyID      string
	// MasterID names the master key that wrapped it.
	MasterID string
	// Wrapped is empty once the key is destroyed.
	Wrapped   []byte
	CreatedAt time.Time
}

// tenantKeyColumns are what scanTenantKey reads.
const tenantKeyColumns = `tenant_id::text, generation, key_id, master_id, wrapped, created_at`

// TenantKeys stores the tenants' wrapped keys, the same for every instance.
type TenantKeys struct{ pool *pgxpool.Pool }

// NewTenantKeys returns the keys in the pool's database.
func NewTenantKeys(pool *pgxpool.Pool) *TenantKeys { return &TenantKeys{pool: pool} }

// Newest returns a tenant's key of the highest generation, a destroyed one too.
func (s *TenantKeys) Newest(ctx context.Context, tenantID string) (key TenantKey, found bool, err error) {
	return s.one(ctx, `SELECT `+tenantKeyColumns+` FROM tenant_keys WHERE tenant_id = $1 ORDER BY generation DESC LIMIT 1`, tenantID)
}

// Find returns a tenant's key by its id, a destroyed one too.
func (s *TenantKeys) Find(ctx context.Context, tenantID, keyID string) (key TenantKey, found bool, err error) {
	return s.one(ctx, `SELECT `+tenantKeyColumns+` FROM tenant_keys WHERE tenant_id = $1 AND key_id = $2`, tenantID, keyID)
}

// Make stores a key, or returns the one that another instance has stored as that
// generation. What it returns is committed.
func (s *TenantKeys) Make(ctx context.Context, key TenantKey) (TenantKey, error) {
	stored, made, err := s.one(ctx, `INSERT INTO tenant_keys (tenant_id, generation, key_id, master_id, wrapped, created_at)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id, generation) DO NOTHING RETURNING `+tenantKeyColumns,
		key.TenantID, key.Generation, key.KeyID, key.MasterID, key.Wrapped, key.CreatedAt)
	if err != nil || made {
		return stored, err
	}
	// A statement of its own: the one before may have begun before the other's was there.
	stored, found, err := s.one(ctx, `SELECT `+tenantKeyColumns+` FROM tenant_keys WHERE tenant_id = $1 AND generation = $2`, key.TenantID, key.Generation)
	if err == nil && !found {
		err = fmt.Errorf("tenant key: generation %d was there and is gone", key.Generation)
	}
	return stored, err
}

// OnePerMaster returns, for each master key that stored keys need, one of them.
func (s *TenantKeys) OnePerMaster(ctx context.Context) ([]TenantKey, error) {
	rows, err := s.pool.Query(ctx, `SELECT DISTINCT ON (master_id) `+tenantKeyColumns+` FROM tenant_keys
		WHERE wrapped IS NOT NULL ORDER BY master_id, tenant_id, generation`)
	if err != nil {
		return nil, fmt.Errorf("tenant keys by master: %w", err)
	}
	keys, err := pgx.CollectRows(rows, scanTenantKey)
	if err != nil {
		return nil, fmt.Errorf("tenant keys by master: %w", err)
	}
	return keys, nil
}

// Destroy destroys a tenant's keys, of all generations, and returns how many were there.
// Their rows stay, so that no generation comes twice.
func (s *TenantKeys) Destroy(ctx context.Context, tenantID string, at time.Time) (int64, error) {
	tag, err := s.pool.Exec(ctx, `UPDATE tenant_keys SET wrapped = NULL, destroyed_at = $2 WHERE tenant_id = $1 AND wrapped IS NOT NULL`, tenantID, at)
	if err != nil {
		return 0, fmt.Errorf("destroy tenant keys: %w", err)
	}
	// What the table's pages still hold of them goes, as far as no snapshot needs it.
	if _, err := s.pool.Exec(ctx, `VACUUM tenant_keys`); err != nil {
		return tag.RowsAffected(), fmt.Errorf("the keys are destroyed, but not vacuumed: %w", err)
	}
	return tag.RowsAffected(), nil
}

func (s *TenantKeys) one(ctx context.Context, sql string, args ...any) (key TenantKey, found bool, err error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err == nil {
		key, err = pgx.CollectExactlyOneRow(rows, scanTenantKey)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return TenantKey{}, false, nil
	}
	if err != nil {
		return TenantKey{}, false, fmt.Errorf("tenant key: %w", err)
	}
	return key, true, nil
}

func scanTenantKey(row pgx.CollectableRow) (key TenantKey, err error) {
	err = row.Scan(&key.TenantID, &key.Generation, &key.KeyID, &key.MasterID, &key.Wrapped, &key.CreatedAt)
	return key, err //nolint:wrapcheck // its callers say what they were doing
}
