package cloudevents

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallymq/tallymq/handlers/web"
)

// EventsMax is how many events a batch may have where [Limits] does not say.
const EventsMax = 1000

// Headers of messages.
const (
	// HeaderPrefix and an attribute's name are the header that holds the attribute.
	HeaderPrefix = "ce-"
	// HeaderDataEncoding says how the payload holds the data. No attribute's header can
	// have that name.
	HeaderDataEncoding = "data-encoding"
)

// Values of HeaderDataEncoding; without the header the payload is the data.
const (
	// EncodingText is a payload that is a string with the data's text.
	EncodingText = "text"
	// EncodingBase64 is a payload that is a string with the data's bytes in base64.
	EncodingBase64 = "base64"
	// EncodingNone is a payload of null for an event without data.
	EncodingNone = "none"
)

// Limits bound a request. Sizes are in bytes.
type Limits struct {
	// BodyBytesMax bounds the body of one event.
	BodyBytesMax int64
	// BatchBytesMax bounds the body of a batch; 0 is BodyBytesMax.
	BatchBytesMax int64
	// PayloadBytesMax bounds a payload as it is kept: in base64 where it is base64.
	PayloadBytesMax int
	// EventsMax bounds a batch; 0 is the constant.
	EventsMax int
}

// Event is an event as a message.
type Event struct {
	// ID and Source together are the event's identity.
	ID, Source string
	// Key is the partition key, "" for none.
	Key string
	// ContentType is the data's, "" for none.
	ContentType string
	// TraceParent is a well-formed W3C traceparent or "".
	TraceParent string
	// Headers are the attributes and HeaderDataEncoding.
	Headers map[string]string
	// Payload is valid JSON within the limits of payloads.
	Payload jsontext.Value
	// Problem says why this event of a batch cannot be taken, nil for nothing; then
	// nothing else of it can be relied on. Its fields are paths in the batch.
	Problem *web.Error
}

// IdempotencyKey identifies the event: source and id are the same for no other event,
// says the specification. It is 64 hexadecimal digits.
func IdempotencyKey(e *Event) string {
	h := sha256.New()
	// The length keeps "a" + "bc" apart from "ab" + "c".
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(e.Source))))
	_, _ = h.Write([]byte(e.Source))
	_, _ = h.Write([]byte(e.ID))
	return hex.EncodeToString(h.Sum(nil))
}
