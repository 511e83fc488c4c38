package proof

import (
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/events"
)

// Formats of the files, which say how to read them.
const (
	FormatProof = "tallymq-proof/1"
	FormatHeads = "tallymq-heads/1"
)

// FileBytesMax is how large a file may be that is read.
const FileBytesMax = 256 << 20

// Document proves that events of a message stand in a log: the file that `tallymq prove`
// writes.
type Document struct {
	Format    string  `json:"format"`
	MessageID string  `json:"messageId"`
	Events    []Event `json:"events"`
	// Seals are those that the events are of.
	Seals []ProvedSeal `json:"seals"`
	Head  Head         `json:"head"`
	// Since proves that the log only grew since an earlier head.
	Since     *Since `json:"since,omitzero"`
	PublicKey []byte `json:"publicKey"`
}

// Event is an event as history has it, and where it stands in its seal.
type Event struct {
	Shard    int             `json:"shard"`
	Position events.Position `json:"position,string"`
	ID       string          `json:"id"`
	Kind     events.Kind     `json:"kind"`
	TenantID string          `json:"tenantId"`
	Version  int64           `json:"version"`
	Metadata Metadata        `json:"metadata"`
	// Data is the event's JSON as text, so that nothing that formats the file changes it.
	Data string `json:"data"`
	// Seal is the number of its seal, Index its place in there, from 0, and Path the
	// Merkle path from its leaf to the seal's root.
	Seal  int64            `json:"seal"`
	Index int64            `json:"index"`
	Path  tlog.RecordProof `json:"path"`
}

// Metadata is what [events.Meta] has of an event.
type Metadata struct {
	Actor          string `json:"actor,omitempty"`
	Platform       string `json:"platform,omitempty"`
	RequestID      string `json:"requestId,omitempty"`
	TraceParent    string `json:"traceparent,omitempty"`
	IdempotencyKey string `json:"idempotencyKey,omitempty"`
	Fingerprint    string `json:"fingerprint,omitempty"`
}

// ProvedSeal is a seal with the proof that the log has it.
type ProvedSeal struct {
	Seal

	Proof tlog.RecordProof `json:"proof"`
}

// Since is an earlier head of the log and the proof that the log grew from there.
type Since struct {
	Size      int64          `json:"size"`
	Root      tlog.Hash      `json:"root"`
	Signature []byte         `json:"signature"`
	Proof     tlog.TreeProof `json:"proof"`
}

// isPlatform is what metadata say where the platform itself asked.
const isPlatform = "true"

// record is the event as it stands in history.
func (e Event) record() events.Record {
	return events.Record{
		Shard: e.Shard, Position: e.Position, ID: e.ID, TenantID: e.TenantID, Version: e.Version, Data: []byte(e.Data),
		Meta: events.Meta{
			Actor: e.Metadata.Actor, Platform: e.Metadata.Platform == isPlatform, RequestID: e.Metadata.RequestID, TraceParent: e.Metadata.TraceParent,
			IdempotencyKey: e.Metadata.IdempotencyKey, Fingerprint: e.Metadata.Fingerprint,
		},
	}
}

// Leaf is the event's leaf.
func (e Event) Leaf() tlog.Hash { return events.Leaf(e.Kind, e.record()) }

// Write writes a [Document] or [Heads] as a file.
func Write(w io.Writer, file any) error {
	if err := json.MarshalWrite(w, file, jsontext.WithIndent("  ")); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// ReadDocument reads a file that [Write] wrote. What it does not know is refused: nothing
// stands in it that is not checked.
func ReadDocument(r io.Reader) (Document, error) {
	var d Document
	if err := read(r, &d); err != nil {
		return d, err
	}
	if d.Format != FormatProof {
		return d, fmt.Errorf("format: is %q, and this program reads %q", d.Format, FormatProof)
	}
	return d, nil
}

// ReadHeads reads a file of heads.
func ReadHeads(r io.Reader) (Heads, error) {
	var h Heads
	if err := read(r, &h); err != nil {
		return h, err
	}
	if h.Format != FormatHeads {
		return h, fmt.Errorf("format: is %q, and this program reads %q", h.Format, FormatHeads)
	}
	return h, nil
}

func read(r io.Reader, into any) error {
	limited := &io.LimitedReader{R: r, N: FileBytesMax + 1}
	err := json.UnmarshalRead(limited, into, json.RejectUnknownMembers(true))
	if limited.N <= 0 {
		return fmt.Errorf("the file is larger than %d bytes", int64(FileBytesMax))
	}
	if err != nil {
		return fmt.Errorf("the file is no such JSON: %w", err)
	}
	return nil
}
