package events

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// What a leaf begins with: RFC 6962's byte for leaves (section 2.1), and the version of
// what follows. A leaf's form is never changed: proofs that were given must stay good.
const (
	leafDomain  = 0x00
	leafVersion = 1
)

// How a leaf holds an event's data.
const (
	leafWhole = 0 // as one hash
	leafSplit = 1 // before the payload, the payload's hash, after the payload
	// leafPlatform stands before these where the platform itself asked.
	leafPlatform = 2
)

// leafBytes is room for what most leaves are made of.
const leafBytes = 1024

// Leaf is the hash under which a record stands in the proofs of its tenant's history:
// SHA-256 over all that is stored of it, each field with its length before it. The
// payload of a message enters as its own hash, so a record has the same leaf before and
// after its payload was erased. r.Event need not be decoded.
func Leaf(kind Kind, r Record) [sha256.Size]byte {
	b := append(make([]byte, 0, leafBytes), leafDomain, leafVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Shard))    //nolint:gosec // two's complement
	b = binary.BigEndian.AppendUint64(b, uint64(r.Position)) //nolint:gosec // two's complement
	b = binary.BigEndian.AppendUint64(b, uint64(r.Version))  //nolint:gosec // two's complement
	b = appendLeafText(b, strings.ToLower(r.ID))
	b = appendLeafText(b, string(kind))
	b = appendLeafText(b, strings.ToLower(r.TenantID))
	for _, text := range [...]string{r.Meta.Actor, r.Meta.RequestID, r.Meta.TraceParent, r.Meta.IdempotencyKey, r.Meta.Fingerprint} {
		b = appendLeafText(b, text)
	}
	if r.Meta.Platform {
		b = append(b, leafPlatform)
	}
	if kind == KindMessagePublished || kind == KindMessageScheduled {
		if head, payload, tail, found := splitPayload(r.Data); found {
			b = appendLeafField(append(b, leafSplit), head)
			b = append(b, payload[:]...)
			return sha256.Sum256(appendLeafField(b, tail))
		}
	}
	whole := sha256.Sum256(r.Data)
	return sha256.Sum256(append(append(b, leafWhole), whole[:]...))
}

// appendLeafText appends a text as it is stored: what is no UTF-8 is replaced.
func appendLeafText(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
}

func appendLeafField(b, field []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(field))), field...)
}

// What stands in place of an erased payload, up to the digits of its hash.
const (
	erasedPayload = "null"
	erasedHash    = `,"erasedSha256":"`
)

// splitPayload cuts an event's JSON around the value of its member "payload", and
// returns that value's SHA-256, or the one that an erased value has left.
func splitPayload(data []byte) (head []byte, payload [sha256.Size]byte, tail []byte, found bool) {
	start, end, found := payloadSpan(data)
	if !found {
		return nil, payload, nil, false
	}
	if string(data[start:end]) == erasedPayload {
		if hash, rest, isErased := cutErased(data[end:]); isErased {
			return data[:start], hash, rest, true
		}
	}
	return data[:start], sha256.Sum256(data[start:end]), data[end:], true
}

// cutErased reads the hash that stands directly after an erased payload.
func cutErased(tail []byte) (hash [sha256.Size]byte, rest []byte, isErased bool) {
	digits, has := bytes.CutPrefix(tail, []byte(erasedHash))
	if !has || len(digits) <= 2*sha256.Size || digits[2*sha256.Size] != '"' {
		return hash, nil, false
	}
	rest, digits = digits[2*sha256.Size+1:], digits[:2*sha256.Size]
	if bytes.ContainsAny(digits, "ABCDEF") {
		return hash, nil, false
	}
	_, err := hex.Decode(hash[:], digits)
	return hash, rest, err == nil
}

// payloadSpan finds the value of the first member "payload" of a JSON object, without
// the space around it. Texts in deeper values that look like it are passed over.
func payloadSpan(data []byte) (start, end int, found bool) {
	s := jsonScan{data: data}
	s.space()
	if !s.take('{') {
		return 0, 0, false
	}
	for {
		s.space()
		from := s.at
		if !s.text() {
			return 0, 0, false
		}
		name := data[from:s.at]
		s.space()
		if !s.take(':') {
			return 0, 0, false
		}
		s.space()
		from = s.at
		if !s.value() {
			return 0, 0, false
		}
		if string(name) == `"payload"` {
			return from, s.at, true
		}
		s.space()
		if !s.take(',') {
			return 0, 0, false
		}
	}
}

// jsonScan walks over JSON that is known to be valid (history stores no other), without
// decoding it. In anything else it finds something or nothing.
type jsonScan struct {
	data []byte
	at   int
}

func (s *jsonScan) space() {
	for s.at < len(s.data) && isJSONSpace(s.data[s.at]) {
		s.at++
	}
}

func isJSONSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func (s *jsonScan) take(c byte) bool {
	if s.at >= len(s.data) || s.data[s.at] != c {
		return false
	}
	s.at++
	return true
}

// text passes over a string: up to the first quote that no backslash escapes.
func (s *jsonScan) text() bool {
	if !s.take('"') {
		return false
	}
	for {
		n := bytes.IndexByte(s.data[s.at:], '"')
		if n < 0 {
			return false
		}
		escapes := 0
		for n > escapes && s.data[s.at+n-1-escapes] == '\\' {
			escapes++
		}
		s.at += n + 1
		if escapes%2 == 0 {
			return true
		}
	}
}

// value passes over a value.
func (s *jsonScan) value() bool {
	if s.at >= len(s.data) {
		return false
	}
	switch s.data[s.at] {
	case '"':
		return s.text()
	case '{', '[':
		return s.nested()
	}
	from := s.at
	for s.at < len(s.data) && !isJSONSpace(s.data[s.at]) && s.data[s.at] != ',' && s.data[s.at] != '}' && s.data[s.at] != ']' {
		s.at++
	}
	return s.at > from
}

// nested passes over an object or an array, however deep.
func (s *jsonScan) nested() bool {
	for depth := 0; s.at < len(s.data); {
		switch s.data[s.at] {
		case '"':
			if !s.text() {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.at++
		if depth == 0 {
			return true
		}
	}
	return false
}
