package events

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	fieldPayload = "payload"
	fieldErased  = "erasedSha256"
)

// Erase returns an event's data without the payload that it gave the log: where the
// payload stood, data have null, and behind it erasedSha256 with the SHA-256 of the
// payload's bytes as they stood there. All else stays byte for byte, so that whoever
// remembers the data can still say that they are the same event. Data that are erased
// already stay as they are. ok says that the event is of a kind that has a payload;
// others are returned as they are.
func Erase(kind Kind, data []byte) (erased []byte, ok bool, err error) {
	if kind != KindMessagePublished && kind != KindMessageScheduled {
		return data, false, nil
	}
	from, to, isErased, err := payloadOf(data)
	if err != nil {
		return nil, false, fmt.Errorf("erase the payload of %s: %w", kind, err)
	}
	if isErased {
		return data, true, nil
	}
	sum := sha256.Sum256(data[from:to])
	erased = make([]byte, 0, len(data)-(to-from)+len(`null,"":""`)+len(fieldErased)+hex.EncodedLen(len(sum)))
	erased = append(erased, data[:from]...)
	erased = append(erased, `null,"`+fieldErased+`":"`...)
	erased = hex.AppendEncode(erased, sum[:])
	erased = append(erased, '"')
	return append(erased, data[to:]...), true, nil
}

// payloadOf finds the payload among an event's own fields, not in what they hold.
func payloadOf(data []byte) (from, to int, isErased bool, err error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return 0, 0, false, errors.Join(errors.New("data are no object"), err)
	}
	found := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return 0, 0, false, fmt.Errorf("data: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return 0, 0, false, fmt.Errorf("data: %s: %w", name, err)
		}
		switch name {
		case fieldPayload:
			if found {
				return 0, 0, false, errors.New("data have two payloads")
			}
			to = int(dec.InputOffset())
			from, found = to-len(value), true
		case fieldErased:
			isErased = true
		}
	}
	if _, err := dec.Token(); err != nil {
		return 0, 0, false, fmt.Errorf("data: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return 0, 0, false, errors.New("data go on behind their end")
	}
	if !found {
		return 0, 0, false, errors.New("data have no payload")
	}
	return from, to, isErased, nil
}
