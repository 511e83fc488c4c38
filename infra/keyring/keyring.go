package keyring

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"sync"
	"time"
)

// WritersMax bounds how many derived keys are held to open with. Each takes about
// 1 KiB; deriving one again takes microseconds.
const WritersMax = 8192

// scratchBytesMax is the largest buffer that is kept for the next call.
const scratchBytesMax = 256 << 10

// Errors that callers tell apart.
var (
	// ErrUnknownKey is for a payload whose key is gone or needs a master key that is
	// not configured, and for a tenant whose current key does.
	ErrUnknownKey = errors.New("unknown key")
	// ErrTampered is for what is not sealed, was changed, or was sealed for another
	// tenant, topic or message; and for a stored key that its master does not open.
	ErrTampered = errors.New("does not open")
	// ErrStore is for a store that failed or did not answer in time. It is worth trying
	// again.
	ErrStore = errors.New("key store failed")
)

// Binding is what a sealed payload belongs to. The tenant's id is a UUID in lower case,
// the others are compared as texts.
type Binding struct{ TenantID, TopicID, MessageID string }

// Keyring seals and opens payloads. It is safe for concurrent use.
type Keyring struct {
	masters Masters
	store   Store
	now     func() time.Time
	// sealsMax is SealsMax.
	sealsMax uint64

	// current has each tenant's key to seal with, keys those to open with.
	current *loader[string, *tenantKey]
	keys    *loader[keyRef, *tenantKey]

	mu      sync.Mutex
	writers recent[writerRef, cipher.AEAD]

	scratch sync.Pool
}

type keyRef struct {
	tenantID string
	id       keyID
}

type writerRef struct {
	id   keyID
	salt salt
}

// New returns a keyring with at least one master key. Call [Keyring.Check] before use.
func New(masters Masters, store Store, now func() time.Time) *Keyring {
	k := &Keyring{masters: masters, store: store, now: now, sealsMax: SealsMax}
	k.current = newLoader(now, k.loadCurrent)
	k.keys = newLoader(now, k.loadKey)
	k.writers.most = WritersMax
	k.scratch.New = func() any { return new([]byte) }
	return k
}

// Seal returns a payload's sealed form, a JSON string. A tenant's first payload makes
// the tenant's key. The payload may be any bytes.
func (k *Keyring) Seal(ctx context.Context, b Binding, payload []byte) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	key, err := k.current.get(ctx, b.TenantID)
	if err != nil {
		return nil, fmt.Errorf("seal a payload: %w", err)
	}
	w, err := key.take(k.sealsMax)
	if err != nil {
		return nil, fmt.Errorf("seal a payload: %w", err)
	}
	buffer, _ := k.scratch.Get().(*[]byte)
	defer k.release(buffer)
	bound := appendBinding((*buffer)[:0], key.id, b)
	from := len(bound)
	raw := w.aead.Seal(append(bound, w.salt[:]...), nil, payload, bound) //nolint:gosec // it makes the nonce itself
	*buffer = raw
	out := make([]byte, 0, SealedSize(len(payload)))
	out = append(out, opening...)
	out = append(out, key.id[:]...)
	out = append(out, ':')
	out = sealedEncoding.AppendEncode(out, raw[from:])
	return append(out, '"'), nil
}

// Open returns the payload that was sealed with this binding.
func (k *Keyring) Open(ctx context.Context, b Binding, sealed []byte) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	id, body, ok := split(sealed)
	if !ok {
		return nil, fmt.Errorf("open a payload: %w: it is not of the sealed form", ErrTampered)
	}
	buffer, _ := k.scratch.Get().(*[]byte)
	defer k.release(buffer)
	bound := appendBinding((*buffer)[:0], id, b)
	raw, ok := decode(bound, body)
	*buffer = raw
	if !ok {
		return nil, fmt.Errorf("open a payload: %w: it is not of the sealed form", ErrTampered)
	}
	bound, raw = raw[:len(bound)], raw[len(bound):]
	key, err := k.keys.get(ctx, keyRef{b.TenantID, id})
	if err != nil {
		return nil, fmt.Errorf("open a payload: %w", err)
	}
	aead, err := k.reader(key, salt(raw))
	if err != nil {
		return nil, fmt.Errorf("open a payload: %w", err)
	}
	payload, err := aead.Open(make([]byte, 0, len(raw)-overhead), nil, raw[saltBytes:], bound)
	if err != nil {
		return nil, fmt.Errorf("open a payload: %w: it was changed, or sealed for another message", ErrTampered)
	}
	return payload, nil
}

// Forget has the store say again what a tenant's keys are, before the next of them is
// used: they were destroyed. What was derived from them is forgotten too.
func (k *Keyring) Forget(tenantID string) {
	ids := map[keyID]bool{}
	k.current.forget(func(id string) bool { return id == tenantID })
	k.keys.forget(func(ref keyRef) bool {
		ids[ref.id] = ids[ref.id] || ref.tenantID == tenantID
		return ref.tenantID == tenantID
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writers.drop(func(ref writerRef) bool { return ids[ref.id] })
}

func (b *Binding) check() error {
	if b.TenantID == "" || b.TopicID == "" || b.MessageID == "" {
		return errors.New("a sealed payload is bound to a tenant, a topic and a message")
	}
	return nil
}

// reader returns the derived key that one process sealed with.
func (k *Keyring) reader(key *tenantKey, s salt) (cipher.AEAD, error) {
	ref := writerRef{key.id, s}
	k.mu.Lock()
	aead, ok := k.writers.get(ref)
	k.mu.Unlock()
	if ok {
		return aead, nil
	}
	aead, err := key.derive(s)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writers.put(ref, aead)
	return aead, nil
}

// release keeps a buffer, in which there never is plaintext, for the next call.
func (k *Keyring) release(buffer *[]byte) {
	if cap(*buffer) <= scratchBytesMax {
		k.scratch.Put(buffer)
	}
}
