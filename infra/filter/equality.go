package filter

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// equality is the form of a filter that names what must be equal. It is compared while
// the payload is read, up to the first difference, so that nothing is built.
type equality struct {
	headers []header
	key     *string
	payload *wanted
}

type header struct{ name, value string }

// match returns the first difference, "" for none.
func (e *equality) match(m Message) string {
	for _, h := range e.headers {
		switch value, ok := m.Headers[h.name]; {
		case !ok:
			return "headers" + step(h.name) + " is missing"
		case value != h.value:
			return fmt.Sprintf("headers%s is %s, wanted %s", step(h.name), quote(value), quote(h.value))
		}
	}
	if e.key != nil && *e.key != m.Key {
		return fmt.Sprintf("key is %s, wanted %s", quote(m.Key), quote(*e.key))
	}
	if e.payload == nil {
		return ""
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(m.Payload), jsontext.AllowDuplicateNames(true))
	diff, err := e.payload.compare(dec, false)
	if err != nil {
		return notJSON
	}
	if diff == nil {
		return ""
	}
	return "payload" + diff.path + " " + diff.what
}

// difference is where a payload differs, and how.
type difference struct{ path, what string }

func differs() *difference { return &difference{what: "differs"} }

// compare reads the next value and returns how it differs, nil for not at all. Where
// whole is set an object has no other members than those wanted. After a difference the
// decoder stands anywhere.
func (w *wanted) compare(dec *jsontext.Decoder, whole bool) (*difference, error) {
	kind := dec.PeekKind()
	switch {
	case kind == kindObject && w.kind == kindObject:
		return w.compareObject(dec, whole)
	case kind == kindArray && w.kind == kindArray:
		return w.compareArray(dec)
	case kind != w.kind && kind != jsontext.KindInvalid:
		return differs(), nil
	}
	raw, err := dec.ReadValue()
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller says what it means
	}
	var equal bool
	switch kind {
	case kindString:
		equal = string(unquoted(raw)) == w.text
	case kindNumber:
		number, ok := parseDecimal(raw)
		equal = ok && number == w.number
	default: // null, true and false, of one kind
		equal = true
	}
	if !equal {
		return differs(), nil
	}
	return nil, nil //nolint:nilnil // no difference and no error
}

func (w *wanted) compareObject(dec *jsontext.Decoder, whole bool) (*difference, error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, err //nolint:wrapcheck // the caller says what it means
	}
	var few [16]bool
	seen := few[:]
	if len(w.members) > len(few) {
		seen = make([]bool, len(w.members))
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadValue()
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller says what it means
		}
		i, ok := w.index[string(unquoted(name))]
		if !ok {
			if whole {
				return differs(), nil
			}
			if err := dec.SkipValue(); err != nil {
				return nil, err //nolint:wrapcheck // the caller says what it means
			}
			continue
		}
		seen[i] = true
		diff, err := w.members[i].value.compare(dec, whole)
		if diff != nil {
			diff.path = step(w.members[i].name) + diff.path
		}
		if diff != nil || err != nil {
			return diff, err
		}
	}
	for i, m := range w.members {
		if !seen[i] {
			return &difference{path: step(m.name), what: "is missing"}, nil
		}
	}
	_, err := dec.ReadToken()
	return nil, err //nolint:wrapcheck // the caller says what it means
}

// compareArray compares the whole of an array; a difference within is the array's.
func (w *wanted) compareArray(dec *jsontext.Decoder) (*difference, error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, err //nolint:wrapcheck // the caller says what it means
	}
	for _, item := range w.items {
		if dec.PeekKind() == ']' {
			return differs(), nil
		}
		diff, err := item.compare(dec, true)
		if err != nil {
			return nil, err
		}
		if diff != nil {
			return differs(), nil
		}
	}
	if kind := dec.PeekKind(); kind != ']' && kind != jsontext.KindInvalid {
		return differs(), nil
	}
	_, err := dec.ReadToken()
	return nil, err //nolint:wrapcheck // the caller says what it means
}

// unquoted is what a JSON string says; it shares raw's memory where it can.
func unquoted(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, raw) // the decoder has checked it
	return text
}
