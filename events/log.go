package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
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
	// Group is the consumer group that a subscription event concerns, as deliveries
	// name it (see LeaseRequest.Group).
	Group string
	// Push says that a created subscription's messages are pushed to its consumer.
	Push bool
	// NextMs is a schedule's next tick in ms since 1970, 0 for none; DelayMs is for how
	// long a message is to be delayed, where it has no time of its own.
	NextMs, DelayMs int64
	// ReleaseID becomes the id of the event of a scheduled message's release.
	ReleaseID string
	// Unseen is as in [Leased], for a message that is to be tried again.
	Unseen int
	// Forward says that a dead letter is to be published to another queue.
	Forward bool
	// Redrive is what comes to a group once more, for redriven messages.
	Redrive Redrive
	// Erase is where a message is looked for whose payload is erased.
	Erase EraseFrom
	// Atomic is set on consecutive appends that enter together or not at all.
	// Published messages of one shard only.
	Atomic bool
}

// Redrive is a message as it was published, for a consumer group that gets it again.
type Redrive struct {
	Meta     DeliveryMeta
	Payload  []byte
	Position Position
	// AttemptsBefore is as in [Delivery].
	AttemptsBefore int
}

// EraseFrom is where a message may be that consumer groups have not settled.
type EraseFrom struct {
	Partition int
	// Offset is the message's, or one of those below.
	Offset int64
	Key    string
}

// Where a message has no offset.
const (
	// OffsetScheduled is that of a message that waits to be released.
	OffsetScheduled = -1
	// OffsetNever is that of one that never was.
	OffsetNever = -2
)

// Guard is what must still hold at the moment of the append; the zero Guard asks
// for nothing.
type Guard struct {
	// TopicVersion is the version of the topic on which the decision rests.
	TopicVersion int64
	// SubscriptionVersion is the version of the subscription that the event changes.
	SubscriptionVersion int64
	// ScheduleID and ScheduleVersion are the schedule that the event changes.
	ScheduleID      string
	ScheduleVersion int64
	// Lease is the delivery that must still be leased.
	Lease Lease
}

// Lease names a leased delivery: an entry of a partition's stream or of the
// group's retry stream. Every attempt is an entry of its own, so the name also
// fences: once the attempt is settled, nobody can settle it again.
type Lease struct {
	// Life is the log's, from one loss of Redis' data to the next: names of entries come
	// again.
	Life int64
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
	// StatusFull: the queue holds as many unconsumed messages as it may.
	StatusFull
	// StatusNotScheduled: no message of that id waits to be released.
	StatusNotScheduled
	// StatusErased: the message's payload is erased, it does not come again.
	StatusErased
	// StatusTooMany: the message would have to be looked for among too many.
	StatusTooMany
)

// Outcome is what became of one append.
type Outcome struct {
	// Run is how often the log went on after it may have lost something, as the instance
	// counts: a position is of its run.
	Run      uint64
	Status   Status
	Position Position
	// ID is the aggregate or message concerned: the one appended, or for a
	// duplicate or a conflict the earlier one.
	ID string
	// Offset is the partition offset a published message was given; of a scheduled one it
	// is when it is released, in ms since 1970 and below zero; of a seek it is 1 where
	// messages were asked for that history alone has; of an erased one it is how many
	// deliveries were discarded, and of messages that a topic does not keep, where a group
	// has not settled one of them, when the oldest of those was published, in ms since 1970.
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
// Head+Payload+Tail, and where Tail is not empty a value that the log gives and a
// brace follow: the payload crosses the wire once for the log and for delivery, and
// is never parsed on the way.
type Frame struct {
	Head, Payload, Tail []byte
}

// Join returns the complete JSON with the value that the log gives: a message's
// offset, or what was discarded.
func (f Frame) Join(value string) []byte {
	if len(f.Tail) == 0 {
		return f.Head
	}
	return fmt.Appendf(nil, "%s%s%s%s}", f.Head, f.Payload, f.Tail, value)
}

// Tails of the events that the log completes: the name of their last field.
var (
	tailOffset    = []byte(`,"offset":`)
	tailReleaseAt = []byte(`,"offset":0,"releaseAtMs":`)
	tailDiscarded = []byte(`,"discarded":`)
	tailJoined    = []byte(`,"joined":`)
	tailMoved     = []byte(`,"moved":`)
)

// completed are the events of which the log gives the last field; the method names it.
type completed interface{ tail() []byte }

func (MessageReleased) tail() []byte     { return tailOffset }
func (TopicPurged) tail() []byte         { return tailDiscarded }
func (TopicDeleted) tail() []byte        { return tailDiscarded }
func (SubscriptionDeleted) tail() []byte { return tailDiscarded }
func (SubscriptionCreated) tail() []byte { return tailJoined }
func (SubscriptionSought) tail() []byte  { return tailMoved }
func (MessageErased) tail() []byte       { return tailDiscarded }

// Encode returns an event's JSON as a [Frame].
func Encode(e Event) (Frame, error) {
	if m, ok := e.(MessagePublished); ok {
		return encodeMessage(m, tailOffset)
	}
	if m, ok := e.(MessageScheduled); ok {
		return encodeMessage(m.MessagePublished, tailReleaseAt)
	}
	if c, ok := e.(completed); ok {
		return encodeUpTo(e, c.tail())
	}
	data, err := marshal(e)
	return Frame{Head: data}, err
}

// encodeUpTo encodes an event up to its last field, which the log gives.
func encodeUpTo(e Event, tail []byte) (Frame, error) {
	data, err := marshal(e)
	if err != nil {
		return Frame{}, err
	}
	end := bytes.LastIndex(data, tail)
	if end < 0 {
		end = len(data) - 1 // it was left out
	}
	return Frame{Head: data[:end], Tail: tail}, nil
}

func encodeMessage(e MessagePublished, tail []byte) (Frame, error) {
	if len(e.Payload) == 0 {
		return Frame{}, errors.New("encode message: no payload")
	}
	head, err := appendPublished(make([]byte, 0, publishedHeadBytes), e)
	if err != nil {
		return Frame{}, err
	}
	if e.ErasedSHA256 != "" {
		tail = append(appendText([]byte(`,"erasedSha256":`), e.ErasedSHA256), tail...)
	}
	return Frame{Head: head, Payload: e.Payload, Tail: tail}, nil
}

// publishedHeadBytes is room for what most heads hold.
const publishedHeadBytes = 512

// appendPublished appends the event's JSON up to its payload: what encoding/json
// makes of it (a test holds the two against each other), without its reflection,
// as every message passes here.
func appendPublished(b []byte, e MessagePublished) ([]byte, error) {
	b = appendText(append(b, `{"messageId":`...), e.MessageID)
	b = appendText(append(b, `,"topicId":`...), e.TopicID)
	b = strconv.AppendInt(append(b, `,"partition":`...), int64(e.Partition), 10)
	b = appendOptional(b, `,"key":`, e.Key)
	if len(e.Headers) > 0 {
		headers, err := marshal(e.Headers)
		if err != nil {
			return nil, err
		}
		b = append(append(b, `,"headers":`...), headers...)
	}
	b = appendText(append(b, `,"contentType":`...), e.ContentType)
	b = appendOptional(b, `,"correlationId":`, e.CorrelationID)
	b = appendOptional(b, `,"producerId":`, e.ProducerID)
	b = appendOptional(b, `,"traceparent":`, e.TraceParent)
	if e.TTLMs != 0 {
		b = strconv.AppendInt(append(b, `,"ttlMs":`...), e.TTLMs, 10)
	}
	if e.Sealed {
		b = append(b, `,"sealed":true`...)
	}
	if e.PlainBytes != 0 {
		b = strconv.AppendInt(append(b, `,"plainBytes":`...), e.PlainBytes, 10)
	}
	if e.MaxRetryAttempts != nil {
		b = strconv.AppendInt(append(b, `,"maxRetryAttempts":`...), int64(*e.MaxRetryAttempts), 10)
	}
	if e.RetryDelayMs != nil {
		b = strconv.AppendInt(append(b, `,"retryDelayMs":`...), int64(*e.RetryDelayMs), 10)
	}
	b = appendOptional(b, `,"scheduleId":`, e.ScheduleID)
	return append(b, `,"payload":`...), nil
}

func appendOptional(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendText(append(b, name...), value)
}

// appendText appends a JSON string. Plain ASCII, which is nearly all there is,
// needs no escaping.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, err := marshal(s)
			if err != nil {
				return append(b, `""`...) // a string always encodes
			}
			return append(b, text...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
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
