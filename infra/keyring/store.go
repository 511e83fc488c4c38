package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// makeAttempts bounds how often a tenant's next key is tried for: each time but the
// last, the one that another instance had made was already out of use.
const makeAttempts = 3

// StoredKey is a tenant's key as it is stored. It is a name for the type itself, so
// that a store can have the same type without importing this package.
type StoredKey = struct {
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

// errTenantID is for an id that a store could know by another text than the one a key
// is bound to.
var errTenantID = errors.New("a tenant id must be a UUID in lower case")

// Store keeps wrapped keys, the same for every instance.
type Store interface {
	// Newest returns a tenant's key of the highest generation, a destroyed one too.
	Newest(ctx context.Context, tenantID string) (key StoredKey, found bool, err error)
	// Find returns a tenant's key by its id, a destroyed one too.
	Find(ctx context.Context, tenantID, keyID string) (key StoredKey, found bool, err error)
	// Make stores a key, or returns the one that another instance has stored as that
	// generation. What it returns is there for good.
	Make(ctx context.Context, key StoredKey) (StoredKey, error)
	// OnePerMaster returns, for each master key that stored keys need, one of them.
	OnePerMaster(ctx context.Context) ([]StoredKey, error)
}

// loadCurrent returns a tenant's key to seal with. It makes one where there is none,
// or none that may still be sealed with.
func (k *Keyring) loadCurrent(ctx context.Context, tenantID string, held *tenantKey) (*tenantKey, error) {
	if !canonicalUUID(tenantID) {
		return nil, errTenantID
	}
	newest, _, err := k.store.Newest(ctx, tenantID)
	for range makeAttempts {
		if err != nil || k.sealsWith(&newest) {
			break
		}
		newest, err = k.store.Make(ctx, k.masters.newStoredKey(tenantID, newest.Generation+1, k.now()))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: current tenant key: %w", ErrStore, err)
	}
	key, err := k.adopt(tenantID, &newest, held)
	if err == nil {
		k.keys.offer(keyRef{tenantID, key.id}, key)
	}
	return key, err
}

// sealsWith tells whether a key is there and may still be sealed with. Its age is by
// the clock of the instance that made it: one that is ahead makes the next key early,
// and the others use it.
func (k *Keyring) sealsWith(stored *StoredKey) bool {
	return len(stored.Wrapped) > 0 && k.now().Sub(stored.CreatedAt) < KeyAgeMax
}

// loadKey returns a tenant's key to open with.
func (k *Keyring) loadKey(ctx context.Context, ref keyRef, held *tenantKey) (*tenantKey, error) {
	if !canonicalUUID(ref.tenantID) {
		return nil, errTenantID
	}
	stored, found, err := k.store.Find(ctx, ref.tenantID, string(ref.id[:]))
	if err != nil {
		return nil, fmt.Errorf("%w: tenant key %s: %w", ErrStore, ref.id[:], err)
	}
	if !found {
		return nil, fmt.Errorf("%w: the tenant has no key %s", ErrUnknownKey, ref.id[:])
	}
	return k.adopt(ref.tenantID, &stored, held)
}

// adopt returns the held key where the stored one is the same, so that what its writer
// has counted goes on.
func (k *Keyring) adopt(tenantID string, stored *StoredKey, held *tenantKey) (*tenantKey, error) {
	if held != nil && len(stored.Wrapped) > 0 && string(held.id[:]) == stored.KeyID {
		return held, nil
	}
	return k.masters.open(tenantID, stored)
}

// Check returns an error if stored keys need a master key that is not configured, or
// is another than the one that wrapped them. It names all such.
func (k *Keyring) Check(ctx context.Context) error {
	sample, err := k.store.OnePerMaster(ctx)
	if err != nil {
		return fmt.Errorf("%w: check master keys: %w", ErrStore, err)
	}
	var missing []string
	var errs []error
	for i := range sample {
		if k.masters.byID[sample[i].MasterID] == nil {
			missing = append(missing, sample[i].MasterID)
		} else if _, err := k.masters.open(sample[i].TenantID, &sample[i]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", Variable, err))
		}
	}
	if len(missing) > 0 {
		lacks := "lacks master keys"
		if k.masters.current == nil {
			lacks = "is not set and must have master keys"
		}
		errs = append(errs, fmt.Errorf("%s: %s %s, which stored payloads need: %w", Variable, lacks, strings.Join(missing, ", "), ErrUnknownKey))
	}
	return errors.Join(errs...)
}

// CheckUnset returns an error if stored keys need master keys: for a service that is
// started without any.
func CheckUnset(ctx context.Context, store Store) error {
	return New(Masters{}, store, nil).Check(ctx)
}

func canonicalUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i, c := range []byte(text) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (c == '-') || !hyphen && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
