// Package keyring encrypts payloads before they leave the process and decrypts them
// when they come back.
//
// # Keys
//
// Three layers, all AES-256-GCM (NIST SP 800-38D):
//
//   - Master keys come from ENCRYPTION_KEYS and are in no store. The first is current
//     and wraps new tenant keys; all of them open what they have wrapped.
//   - A tenant key is 32 random bytes, stored wrapped by a master. The wrapping's
//     additional data binds tenant and key id, so that a row copied to another tenant
//     opens nothing. The newest of a tenant's keys is sealed with, for [KeyAgeMax];
//     then the next one follows. All of them open.
//   - A writer key is derived (HKDF-SHA256) from a tenant key and 16 random bytes, the
//     salt, which the sealed payload carries. It is one process' own.
//
// # Limits
//
// Nonces are 96 random bits, for which SP 800-38D section 8.3 allows 2^32 seals per
// key, whoever makes them. As a writer key has one process that seals with it, what
// that process counts is the whole count, however many processes share the tenant's
// key: after [SealsMax] (2^28) it takes a new salt. Two nonces of a key are then equal
// with a probability below 2^-40, two salts of a tenant's key below 2^-60 for the first
// 2^34 of them. A master wraps one key per tenant in [KeyAgeMax]: far below its 2^32.
//
// # A sealed payload
//
// A JSON string without escapes, which survives jsonb, json and Redis byte for byte:
//
//	"mqenc1:<key id>:<base64url(salt, nonce, ciphertext, tag)>"
//
// mqenc1 names the version of all of this: another cipher, derivation or additional
// data is another name. The key id is 22 characters, the base64url of 16 random bytes,
// and equals tenant_keys.key_id; random, so that a store put back from a backup never
// gives a lost key's name to another key. base64url is without padding and canonical:
// there is one text for what it says. The salt has 16 bytes, the nonce 12, the tag 16.
// The additional data is the version and, each behind its length as four bytes, key
// id, tenant, topic and message id. Ids are compared as texts; that of a tenant is a
// UUID in lower case.
//
// The master is not named in it: re-wrapping the tenant keys by another master leaves
// every payload as it is, and setting a row's wrapped to null destroys what its key
// has sealed. (Copies of the row in backups and in the write-ahead log open for as long
// as the master that wrapped them exists.)
//
// Whether a stored payload is sealed is for its event to say: a caller may publish a
// string that looks like one. [IsSealed] tells the form only.
//
// # Operation
//
// To change masters, give the new key to every instance in second place, then put it
// first: an instance that does not have it cannot read what the others wrap with it.
//
// # Guarantees
//
// Seal and Open with keys in memory make no round trip. Memory is bounded:
// [TenantsMax] keys and [WritersMax] derived ones; concurrent misses of one key share
// one load, which ends within [LoadTimeout]. A key that another instance made is found
// when it is first needed, one that was destroyed is out of use everywhere within
// [KeepFor], and while the store is away keys in memory serve for [KeepAway] at most.
// Errors tell [ErrUnknownKey], [ErrTampered] and [ErrStore] apart; none holds key
// material or a payload.
//
// It imports the standard library only.
package keyring
