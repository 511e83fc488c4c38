package proof

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/events"
)

// CheckOptions are what a checker knows beside the file.
type CheckOptions struct {
	// Key is the key that must have signed, nil for whichever the file names.
	Key ed25519.PublicKey
	// Old is an earlier head of the log that the checker kept; its log's size is 0 where
	// there is none.
	Old Head
}

// ErrKey reports a file that another key signed than the one asked for.
var ErrKey = errors.New("publicKey: is not the key asked for")

// Check follows the proof from every event to the signed head, and with an earlier head
// that the log only grew since. An error names the field that is not what was proved.
//
// What it proves: these events stand in the tenant's log at these places, as they are
// here; whoever holds the key said so. What it does not: that the message has no further
// events, or that no other log was shown to somebody else. That takes the heads that
// others keep.
func (d Document) Check(o CheckOptions) error {
	if o.Key != nil && !bytes.Equal(o.Key, d.PublicKey) {
		return ErrKey
	}
	if len(d.PublicKey) != ed25519.PublicKeySize {
		return fmt.Errorf("publicKey: has %d bytes, and an Ed25519 key has %d", len(d.PublicKey), ed25519.PublicKeySize)
	}
	if !d.Head.IsSignedBy(d.PublicKey) {
		return errors.New("head: is not what publicKey signed: tenantId, shard, size, root or signature was changed")
	}
	if len(d.Events) == 0 {
		return errors.New("events: there are none")
	}
	seals, err := d.checkSeals()
	if err != nil {
		return err
	}
	used := map[int64]bool{}
	for i, e := range d.Events {
		if i > 0 && e.Position <= d.Events[i-1].Position {
			return fmt.Errorf("events[%d].position: does not stand after the event before it", i)
		}
		seal, has := seals[e.Seal]
		if !has {
			return fmt.Errorf("events[%d].seal: seal %d is not in the file", i, e.Seal)
		}
		if err := d.checkEvent(e, seal); err != nil {
			return fmt.Errorf("events[%d]: %w", i, err)
		}
		used[e.Seal] = true
	}
	for i, s := range d.Seals {
		if !used[s.N] {
			return fmt.Errorf("seals[%d]: seal %d has none of the events", i, s.N)
		}
	}
	return d.checkSince(o.Old)
}

// checkSeals proves that the seals are in the log, and returns them by their number.
func (d Document) checkSeals() (map[int64]Seal, error) {
	seals := make(map[int64]Seal, len(d.Seals))
	for i, s := range d.Seals {
		if _, twice := seals[s.N]; twice {
			return nil, fmt.Errorf("seals[%d].n: stands twice in the file", i)
		}
		if s.N < 0 || s.N >= d.Head.Size {
			return nil, fmt.Errorf("seals[%d].n: is %d, and the log has %d seals", i, s.N, d.Head.Size)
		}
		if err := tlog.CheckRecord(s.Proof, d.Head.Size, d.Head.Root, s.N, s.RecordHash(d.Head.TenantID, d.Head.Shard)); err != nil {
			return nil, fmt.Errorf("seals[%d]: the log does not have this seal as its number %d: n, scope, positions, events, root or proof was changed", i, s.N)
		}
		seals[s.N] = s.Seal
	}
	return seals, nil
}

func (d Document) checkEvent(e Event, seal Seal) error {
	switch {
	case e.TenantID != d.Head.TenantID:
		return errors.New("tenantId: is not the log's")
	case e.Shard != d.Head.Shard:
		return errors.New("shard: is not the log's")
	case e.ID != strings.ToLower(e.ID):
		return errors.New("id: is not in lower case")
	case e.Index < 0 || e.Index >= seal.Events:
		return fmt.Errorf("index: is %d, and seal %d has %d events", e.Index, seal.N, seal.Events)
	case e.Position < seal.First || e.Position > seal.Last:
		return fmt.Errorf("position: is not within seal %d", seal.N)
	}
	if err := tlog.CheckRecord(e.Path, seal.Events, seal.Root, e.Index, e.Leaf()); err != nil {
		return fmt.Errorf("seal %d does not have this event as its number %d: position, id, kind, version, metadata, data, index or path was changed", seal.N, e.Index)
	}
	event, err := events.Decode(e.Kind, []byte(e.Data))
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if events.RefsOf(event).MessageID != d.MessageID {
		return errors.New("data: is about another message than messageId says")
	}
	return nil
}

// checkSince proves that the log grew from the head in the file, and that this is the one
// that the checker kept.
func (d Document) checkSince(old Head) error {
	s := d.Since
	if s == nil {
		s = &Since{Size: d.Head.Size, Root: d.Head.Root, Signature: d.Head.Signature}
	}
	from := Head{TenantID: d.Head.TenantID, Shard: d.Head.Shard, Size: s.Size, Root: s.Root, Signature: s.Signature}
	if !from.IsSignedBy(d.PublicKey) {
		return errors.New("since: is not what publicKey signed: size, root or signature was changed")
	}
	if d.Since != nil {
		if s.Size < 1 || s.Size > d.Head.Size {
			return fmt.Errorf("since.size: is %d, and the log has %d seals", s.Size, d.Head.Size)
		}
		if err := tlog.CheckTree(s.Proof, d.Head.Size, d.Head.Root, s.Size, s.Root); err != nil {
			return errors.New("since: the log did not grow from there: what it had was changed, or size, root or proof was")
		}
	}
	return d.checkOld(old, from)
}

func (d Document) checkOld(old, from Head) error {
	switch {
	case old.Size == 0:
		return nil
	case old.TenantID != d.Head.TenantID || old.Shard != d.Head.Shard:
		return errors.New("the earlier head is another log's")
	case !old.IsSignedBy(d.PublicKey):
		return errors.New("the earlier head is not signed by the file's key")
	case old.Size > d.Head.Size:
		return fmt.Errorf("head.size: is %d, and the log had %d seals before: it was cut", d.Head.Size, old.Size)
	case old.Size != from.Size:
		return fmt.Errorf("since: proves nothing from size %d on: make the file with --since and that head", old.Size)
	case old.Root != from.Root:
		return fmt.Errorf("the log had another root at size %d before: what it had was changed", old.Size)
	}
	return nil
}
