package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
)

// Log is where events are appended: one total order per shard. An append and its
// effect on delivery are one atomic step, or none.
type Log interface {
	// Append appends each of batch to the shard's log, in order, and reports
	// what became of each. The appends are independent of one another unless
	// they share an Atomic group. An error means that the outcome of all of them
	// is unknown (ErrOutcomeUnknown) or that none was tried.
	Append(ctx context.Context, shard int, batch []Append) ([]Outcome, error)
}

// ErrOutcomeUnknown reports that the log did not answer: the events may or may not be in it.
// Only a retry under the same idempotency key is safe.
var ErrOutcomeUnknown = errors.New("the log did not answer: outcome unknown")

// Append is one event on its way into the log, with the conditions under which
// it may enter.
type Append struct {
	// ID becomes the record's id. A message's id is its publishing event's.
	ID       string
	TenantID string
	Event    Event
	Meta     Meta
	Guard    Guard
	// State is the aggregate after the event, opaque to the log, which keeps it
	// for the next decision. Topic and subscription events only.
	State []byte
	// Version is the aggregate's version after the event; 0 for messages.
	Version int64
	// Atomic is set on consecutive appends that enter together or not at all.
	// Published messages of one shard only.
	Atomic bool
}

// Guard is what must still hold at the moment of the append; the zero Guard asks
// for nothing.
type Guard struct {
	// TopicVersion is the version of the topic on which the decision rests.
	TopicVersion int64
	// Partitions is that topic's number of partitions, for events that concern
	// every one of them.
	Partitions int
	// Lease is the delivery that must still be leased.
	Lease Lease
}

// Lease names a leased delivery: an entry of a partition's stream or of the
// group's retry stream. Every attempt is an entry of its own, so the name also
// fences: once the attempt is settled, nobody can settle it again.
type Lease struct {
	// Stream is the partition, or StreamRetry.
	Stream int
	// EntryID is the entry's id in that stream.
	EntryID string
}

// StreamRetry stands for a group's retry stream where a partition is asked for.
const StreamRetry = -1

// Status is what became of an append.
type Status int

const (
	// StatusAppended: the event is in the log.
	StatusAppended Status = iota
	// StatusDuplicate: the idempotency key was used before for the same request;
	// Outcome says what that one did. Nothing was appended.
	StatusDuplicate
	// StatusStale: an aggregate has another version by now. Load and decide again.
	StatusStale
	// StatusLeaseLost: the delivery is no longer leased under that name.
	StatusLeaseLost
	// StatusKeyReused: the idempotency key was used before for another request.
	StatusKeyReused
	// StatusExists: a unique name is taken; Outcome.ID says by whom.
	StatusExists
	// StatusAborted: another member of the atomic group was refused.
	StatusAborted
)

// Outcome is what became of one append.
type Outcome struct {
	Status   Status
	Position Position
	// ID is the aggregate or message concerned: the one appended, or for a
	// duplicate or a conflict the earlier one.
	ID string
	// Offset is the partition offset a published message was given.
	Offset int64
	// Partition is where a published message went.
	Partition int
}

// ShardOf returns the shard that orders everything about a topic: FNV-1a (64 bit)
// of tenant and name, modulo shards. It is permanent: stored data are placed by it.
func ShardOf(tenantID, topicName string, shards int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(tenantID))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(topicName))
	return int(h.Sum64() % uint64(shards)) //nolint:gosec // shards is 1 to 64
}

// Frame is an event's JSON, cut where the log completes it. The stored JSON is
// Head+Payload+Tail, and where Tail is not empty the offset and a brace follow:
// the payload crosses the wire once for the log and for delivery, and is never
// parsed on the way.
type Frame struct {
	Head, Payload, Tail []byte
}

// Join returns the complete JSON with the given offset.
func (f Frame) Join(offset int64) []byte {
	if len(f.Tail) == 0 {
		return f.Head
	}
	return fmt.Appendf(nil, "%s%s%s%d}", f.Head, f.Payload, f.Tail, offset)
}

var frameTail = []byte(`,"offset":`)

// Encode returns an event's JSON as a [Frame].
func Encode(e Event) (Frame, error) {
	published, ok := e.(MessagePublished)
	if !ok {
		data, err := marshal(e)
		return Frame{Head: data}, err
	}
	payload := published.Payload
	if len(payload) == 0 {
		return Frame{}, errors.New("encode event message.published: no payload")
	}
	// The struct's last two fields are payload and offset: encode them as
	// markers, then cut them off.
	published.Payload, published.Offset = json.RawMessage("0"), 0
	data, err := marshal(published)
	if err != nil {
		return Frame{}, err
	}
	head, found := bytes.CutSuffix(data, []byte(`0,"offset":0}`))
	if !found {
		return Frame{}, fmt.Errorf("encode event message.published: unexpected form %.80s", data)
	}
	return Frame{Head: head, Payload: payload, Tail: frameTail}, nil
}

// marshal is json.Marshal without the escaping that is meant for HTML pages.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
