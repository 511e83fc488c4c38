package keyring

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// SealsMax is how many payloads one writer key seals.
	SealsMax = 1 << 28
	// KeyAgeMax is how long a tenant key is sealed with.
	KeyAgeMax = 30 * 24 * time.Hour

	writerInfo = "tallymq " + version + " writer"
	wrapLabel  = "tallymq wrap 1"
	// wrapVersion is the first byte of a wrapped key.
	wrapVersion = 1
)

// tenantKey is a tenant's key, unwrapped.
type tenantKey struct {
	id     keyID
	secret [KeyBytes]byte

	mu     sync.Mutex
	writer atomic.Pointer[writer]
}

// writer is this process' own key, derived from a tenant's.
type writer struct {
	salt  salt
	aead  cipher.AEAD
	seals atomic.Uint64
}

// take returns a writer for one seal. No writer is returned more than most times.
func (t *tenantKey) take(most uint64) (*writer, error) {
	if w := t.writer.Load(); w != nil && w.seals.Add(1) <= most {
		return w, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.writer.Load(); w != nil && w.seals.Add(1) <= most {
		return w, nil // another has just made it
	}
	w := &writer{}
	_, _ = rand.Read(w.salt[:]) // it never fails
	aead, err := t.derive(w.salt)
	if err != nil {
		return nil, err
	}
	w.aead = aead
	w.seals.Store(1)
	t.writer.Store(w)
	return w, nil
}

// derive returns the writer key of a salt.
func (t *tenantKey) derive(s salt) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, t.secret[:], s[:], writerInfo, KeyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive a writer key: %w", err)
	}
	defer clear(key)
	return newAEAD(key)
}

// newStoredKey makes a key for a tenant, wrapped by the current master.
func (m Masters) newStoredKey(tenantID string, generation int, now time.Time) StoredKey {
	var secret [KeyBytes]byte
	defer clear(secret[:])
	var id [keyIDBytes]byte
	_, _ = rand.Read(secret[:]) // it never fails
	_, _ = rand.Read(id[:])
	key := StoredKey{
		TenantID: tenantID, Generation: generation, KeyID: sealedEncoding.EncodeToString(id[:]),
		MasterID: m.current.id, CreatedAt: now,
	}
	key.Wrapped = m.current.aead.Seal([]byte{wrapVersion}, nil, secret[:], wrapBinding(key.TenantID, key.KeyID)) //nolint:gosec // it makes the nonce itself
	return key
}

// open unwraps a stored key of that tenant. The error is ErrUnknownKey or ErrTampered.
func (m Masters) open(tenantID string, stored *StoredKey) (*tenantKey, error) {
	if len(stored.Wrapped) == 0 {
		return nil, fmt.Errorf("%w: %s is destroyed", ErrUnknownKey, stored.KeyID)
	}
	by := m.byID[stored.MasterID]
	if by == nil {
		return nil, fmt.Errorf("%w: %s needs master key %s, which %s does not have", ErrUnknownKey, stored.KeyID, stored.MasterID, Variable)
	}
	key := &tenantKey{}
	if stored.Wrapped[0] != wrapVersion || copy(key.id[:], stored.KeyID) != len(stored.KeyID) {
		return nil, fmt.Errorf("%w: tenant key %s is of an unknown form", ErrTampered, stored.KeyID)
	}
	secret, err := by.aead.Open(nil, nil, stored.Wrapped[1:], wrapBinding(tenantID, stored.KeyID))
	defer clear(secret)
	if err != nil || len(secret) != KeyBytes {
		return nil, fmt.Errorf("%w: tenant key %s does not open: it was changed, or master key %s is another than the one that wrapped it", ErrTampered, stored.KeyID, stored.MasterID)
	}
	copy(key.secret[:], secret)
	return key, nil
}

// wrapBinding is the additional data of a wrapped key.
func wrapBinding(tenantID, keyID string) []byte {
	return appendField(appendField([]byte(wrapLabel), tenantID), keyID)
}
