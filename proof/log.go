package proof

import (
	"crypto/ed25519"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/events"
)

// Seal is a record of a log: what one transaction wrote of a tenant's events of one
// shard, scope and day.
type Seal struct {
	// N is the record's number in the log, from 0.
	N     int64  `json:"n"`
	Scope string `json:"scope"`
	// First and Last are where its first and last event stand.
	First events.Position `json:"firstPosition,string"`
	Last  events.Position `json:"lastPosition,string"`
	// Events is how many it has, and Root the root of the Merkle tree of their leaves.
	Events int64     `json:"events"`
	Root   tlog.Hash `json:"root"`
}

// RecordHash is the seal's hash as a record of the log of a tenant and shard.
func (s Seal) RecordHash(tenantID string, shard int) tlog.Hash {
	return tlog.RecordHash(fmt.Appendf(nil, "tallymq seal 1\n%s\n%d\n%d\n%s\n%d\n%d\n%d\n%s\n",
		tenantID, shard, s.N, s.Scope, s.First, s.Last, s.Events, s.Root))
}

// Head says how long a log is and what its root is, signed. Who keeps a head can tell
// whether the log only grew since.
type Head struct {
	TenantID string    `json:"tenantId"`
	Shard    int       `json:"shard"`
	Size     int64     `json:"size"`
	Root     tlog.Hash `json:"root"`
	// Signature is an Ed25519 signature of [Head.Text].
	Signature []byte `json:"signature"`
}

// Text is what is signed: the body of a checkpoint as in C2SP's tlog-checkpoint, of the
// log's name, its size and its root.
func (h Head) Text() []byte {
	return fmt.Appendf(nil, "tallymq/%s/%d\n%d\n%s\n", h.TenantID, h.Shard, h.Size, h.Root)
}

// Sign returns the head with its signature.
func (h Head) Sign(key ed25519.PrivateKey) Head {
	h.Signature = ed25519.Sign(key, h.Text())
	return h
}

// IsSignedBy reports whether the signature is a key's.
func (h Head) IsSignedBy(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, h.Text(), h.Signature)
}

// Heads are the heads of logs, for an auditor to keep.
type Heads struct {
	Format    string `json:"format"`
	PublicKey []byte `json:"publicKey"`
	Heads     []Head `json:"heads"`
}

// Of returns the head of the log of a tenant and shard.
func (h Heads) Of(tenantID string, shard int) (Head, bool) {
	for _, head := range h.Heads {
		if head.TenantID == tenantID && head.Shard == shard {
			return head, true
		}
	}
	return Head{}, false
}
