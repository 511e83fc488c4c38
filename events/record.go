package events

import (
	"fmt"
	"strconv"
)

// Record is an event with all that is known about it: where it stands in the
// log, whose it is and what caused it.
type Record struct {
	Shard    int
	Position Position
	// ID is the event's own id, a UUID. The event that publishes a message has
	// the message's id.
	ID       string
	TenantID string
	// Version is the version the event gave its aggregate (topic or
	// subscription); 0 for message events, which have no aggregate.
	Version int64
	Meta    Meta
	Event   Event
	// Data is the event's JSON as it stands in the log.
	Data []byte
}

// Meta is what surrounds an event without being part of it. All fields are
// optional.
type Meta struct {
	// Actor is who asked: a token's subject, a service, or "system".
	Actor string
	// Platform says that the platform itself asked, which may do everything.
	Platform bool
	// RequestID ties the event to a line in the access log.
	RequestID string
	// TraceParent is the W3C trace context of the request.
	TraceParent string
	// IdempotencyKey and Fingerprint let the keys be rebuilt from history.
	IdempotencyKey string
	Fingerprint    string
	// AcceptedAtMs is when the request was accepted, by the accepting instance's
	// clock, in ms since 1970. It is not stored: an event's time is its position.
	AcceptedAtMs int64
}

// Metadata keys under which a record travels in a Watermill message.
const (
	metaKind        = "kind"
	metaTenant      = "tenant"
	metaVersion     = "version"
	metaActor       = "actor"
	metaPlatform    = "platform"
	metaRequest     = "request"
	metaTraceParent = "traceparent"
	metaIdempotency = "idempotencyKey"
	metaFingerprint = "fingerprint"
	// MetaShard and MetaPosition are set by whoever reads the log: an entry
	// knows its place only once it stands there.
	MetaShard    = "shard"
	MetaPosition = "position"
)

// Metadata returns the message metadata under which the event is stored. Empty
// fields are left out.
func (m Meta) Metadata(kind Kind, tenantID string, version int64) map[string]string {
	return fromPairs(m.AppendPairs(nil, kind, tenantID, version))
}

// AppendPairs appends what [Meta.Metadata] returns as keys and values in turn: the
// append path encodes them without a map.
func (m Meta) AppendPairs(dst []string, kind Kind, tenantID string, version int64) []string {
	dst = append(dst, metaKind, string(kind), metaTenant, tenantID)
	if version != 0 {
		dst = append(dst, metaVersion, strconv.FormatInt(version, 10))
	}
	dst = appendPair(dst, metaActor, m.Actor)
	if m.Platform {
		dst = append(dst, metaPlatform, "1")
	}
	dst = appendPair(dst, metaRequest, m.RequestID)
	dst = appendPair(dst, metaTraceParent, m.TraceParent)
	dst = appendPair(dst, metaIdempotency, m.IdempotencyKey)
	return appendPair(dst, metaFingerprint, m.Fingerprint)
}

// appendPair appends a pair unless its value is empty.
func appendPair(dst []string, key, value string) []string {
	if value == "" {
		return dst
	}
	return append(dst, key, value)
}

func fromPairs(pairs []string) map[string]string {
	md := make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		md[pairs[i]] = pairs[i+1]
	}
	return md
}

// ParseRecord is the inverse of [Meta.Metadata] and the event's JSON: it reads a
// record from a message's id, metadata (with [MetaShard] and [MetaPosition]) and
// payload. data is kept, not copied.
func ParseRecord(id string, md map[string]string, data []byte) (Record, error) {
	r := Record{ID: id, TenantID: md[metaTenant], Data: data, Meta: Meta{
		Actor: md[metaActor], Platform: md[metaPlatform] != "", RequestID: md[metaRequest], TraceParent: md[metaTraceParent],
		IdempotencyKey: md[metaIdempotency], Fingerprint: md[metaFingerprint],
	}}
	shard, err := strconv.Atoi(md[MetaShard])
	if err != nil {
		return Record{}, fmt.Errorf("record %s: shard: %w", id, err)
	}
	r.Shard = shard
	position, err := strconv.ParseInt(md[MetaPosition], 10, 64)
	if err != nil {
		return Record{}, fmt.Errorf("record %s: position: %w", id, err)
	}
	r.Position = Position(position)
	if v := md[metaVersion]; v != "" {
		if r.Version, err = strconv.ParseInt(v, 10, 64); err != nil {
			return Record{}, fmt.Errorf("record %s: version: %w", id, err)
		}
	}
	if r.Event, err = Decode(Kind(md[metaKind]), data); err != nil {
		return Record{}, fmt.Errorf("record %s at %d/%d: %w", id, r.Shard, r.Position, err)
	}
	return r, nil
}

// Refs names what a record is about, for indexes and filters. Fields that do not
// apply are empty.
type Refs struct {
	TopicID        string
	SubscriptionID string
	MessageID      string
}

// RefsOf returns what the event is about.
func RefsOf(e Event) Refs { return e.about() }
