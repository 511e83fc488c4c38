package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Variable is the environment variable that has the master keys.
const Variable = "ENCRYPTION_KEYS"

// Limits of master keys.
const (
	// MastersMax is how many master keys there may be.
	MastersMax = 16
	// MasterIDMax is the length of a master key's id.
	MasterIDMax = 32
	// KeyBytes is the length of every key.
	KeyBytes = 32
)

// Masters are the master keys. The zero value has none.
type Masters struct {
	// current wraps new keys. What is behind the pointers no formatting shows.
	current *master
	byID    map[string]*master
}

// master holds a key as a cipher only.
type master struct {
	id   string
	aead cipher.AEAD
}

// String names the ids, never a key.
func (m Masters) String() string {
	if m.current == nil {
		return "no master keys"
	}
	return fmt.Sprintf("%d master keys, current %s", len(m.byID), m.current.id)
}

// GoString is String, for %#v.
func (m Masters) GoString() string { return m.String() }

// ParseKeys reads master keys as ENCRYPTION_KEYS has them: `id:key`, separated by
// commas, the current one first; id of [A-Za-z0-9._-], key the base64 of 32 bytes,
// with or without padding. Space around an entry is ignored. Its error says of every
// wrong entry what is wrong, and shows nothing that could be part of a key.
func ParseKeys(text string) (Masters, error) {
	entries := strings.Split(text, ",")
	if strings.TrimSpace(text) == "" {
		return Masters{}, fmt.Errorf("%s: is empty; it must be id:base64 of %d bytes, more of them separated by commas", Variable, KeyBytes)
	}
	if len(entries) > MastersMax {
		return Masters{}, fmt.Errorf("%s: has %d keys; allowed: %d", Variable, len(entries), MastersMax)
	}
	m := Masters{byID: make(map[string]*master, len(entries))}
	seen := make(map[[KeyBytes]byte]string, len(entries))
	defer clear(seen)
	var errs []error
	for n, entry := range entries {
		id, key, err := parseEntry(strings.TrimSpace(entry))
		var added *master
		if err == nil {
			added, err = newMaster(id, key, m.byID, seen)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: entry %d%s: %w", Variable, n+1, id.shown(), err))
			continue
		}
		m.byID[added.id], seen[key] = added, added.id
		if m.current == nil {
			m.current = added
		}
	}
	if len(errs) > 0 {
		return Masters{}, errors.Join(errs...)
	}
	return m, nil
}

// masterID is a well-formed id, or empty where it is not.
type masterID string

// shown is the id for an error. One that is not well-formed may be a key.
func (id masterID) shown() string {
	if id == "" {
		return ""
	}
	return " (" + string(id) + ")"
}

func parseEntry(entry string) (id masterID, key [KeyBytes]byte, err error) {
	before, encoded, ok := strings.Cut(entry, ":")
	if !ok {
		return "", key, errors.New("is not id:key")
	}
	if !wellFormed(before) {
		return "", key, fmt.Errorf("its id must be 1 to %d of the characters A-Z a-z 0-9 . _ -", MasterIDMax)
	}
	id = masterID(before)
	encoding := base64.StdEncoding
	if !strings.HasSuffix(encoded, "=") {
		encoding = base64.RawStdEncoding
	}
	// The decoder skips line breaks: the length finds them.
	raw, err := encoding.Strict().DecodeString(encoded)
	defer clear(raw)
	if err != nil || encoding.EncodedLen(len(raw)) != len(encoded) {
		return id, key, errors.New("its key is not standard base64") // the decoder's error is about the key
	}
	if copy(key[:], raw) != len(raw) || len(raw) != KeyBytes {
		return id, key, fmt.Errorf("its key has %d bytes; it must have %d", len(raw), KeyBytes)
	}
	return id, key, nil
}

func wellFormed(id string) bool {
	if id == "" || len(id) > MasterIDMax {
		return false
	}
	for _, c := range []byte(id) {
		if !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// newMaster gets the masters there are, and which of them has which key.
func newMaster(id masterID, key [KeyBytes]byte, byID map[string]*master, seen map[[KeyBytes]byte]string) (*master, error) {
	if byID[string(id)] != nil {
		return nil, errors.New("another entry has this id")
	}
	if other, ok := seen[key]; ok {
		return nil, fmt.Errorf("is the same key as %s", other)
	}
	if bytes.Count(key[:], key[:1]) == KeyBytes {
		return nil, errors.New("its key is one byte repeated; it must be random")
	}
	aead, err := newAEAD(key[:])
	if err != nil {
		return nil, err
	}
	return &master{id: string(id), aead: aead}, nil
}

// newAEAD puts a random nonce of 96 bits before each ciphertext.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("AES-GCM: %w", err)
	}
	return aead, nil
}
