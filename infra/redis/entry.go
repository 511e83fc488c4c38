package redis

import (
	"encoding/binary"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/vmihailenco/msgpack"
)

// The fields of a message's stream entry, as watermill-redisstream names them, so
// that its publishers and subscribers and ours read each other.
const (
	fieldUUID     = "_watermill_message_uuid"
	fieldMetadata = "metadata"
	fieldPayload  = "payload"
)

// encodeMessage returns the fields of a message's stream entry, always in the same
// order, and their size in bytes.
func encodeMessage(m *message.Message) (fields []any, size int, err error) {
	if m.Metadata.Get(fieldUUID) != "" {
		return nil, 0, fmt.Errorf("message %s: metadata key %s is reserved", m.UUID, fieldUUID)
	}
	var packed []byte
	if len(m.Metadata) > 0 {
		if packed, err = msgpack.Marshal(map[string]string(m.Metadata)); err != nil {
			return nil, 0, fmt.Errorf("message %s: encode metadata: %w", m.UUID, err)
		}
	}
	fields = []any{fieldUUID, m.UUID, fieldMetadata, packed, fieldPayload, []byte(m.Payload)}
	return fields, len(m.UUID) + len(packed) + len(m.Payload), nil
}

// decodeMessage is the inverse of encodeMessage. Fields it does not know are
// ignored; metadata and payload may be missing, the id may not.
func decodeMessage(fields map[string]any) (*message.Message, error) {
	id, ok := fields[fieldUUID].(string)
	if !ok {
		return nil, fmt.Errorf("field %s is missing", fieldUUID)
	}
	payload, _ := fields[fieldPayload].(string)
	m := message.NewMessage(id, []byte(payload))
	if packed, _ := fields[fieldMetadata].(string); packed != "" {
		md := map[string]string{}
		if err := msgpack.Unmarshal([]byte(packed), &md); err != nil {
			return nil, fmt.Errorf("field %s: %w", fieldMetadata, err)
		}
		if md != nil {
			m.Metadata = md
		}
	}
	return m, nil
}

// packPairs is msgpack.Marshal of the map that the keys and values in turn make:
// the append path has no map to begin with. MessagePack specification, sections
// "str format family" and "map format family".
func packPairs(pairs []string) []byte {
	size := 3
	for _, s := range pairs {
		size += 5 + len(s)
	}
	b := packHead(make([]byte, 0, size), len(pairs)/2, 0x80, 1<<4, 0xde)
	for _, s := range pairs {
		b = packText(b, s)
	}
	return b
}

func packText(b []byte, s string) []byte {
	if n := len(s); n >= 1<<5 && n < 1<<8 {
		b = append(b, 0xd9, byte(n))
	} else {
		b = packHead(b, n, 0xa0, 1<<5, 0xda)
	}
	return append(b, s...)
}

// packHead appends a length: within the first byte below short, else behind wide in
// 16 bits, or behind the code after it in 32.
func packHead(b []byte, n int, base byte, short int, wide byte) []byte {
	switch {
	case n < short:
		return append(b, base|byte(n)) //nolint:gosec // below short
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, wide), uint16(n)) //nolint:gosec // checked here
	default:
		return binary.BigEndian.AppendUint32(append(b, wide+1), uint32(n)) //nolint:gosec // far below 4 GiB
	}
}
