package filter

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// Kinds of JSON values, as jsontext has them.
const (
	kindString jsontext.Kind = '"'
	kindNumber jsontext.Kind = '0'
	kindObject jsontext.Kind = '{'
	kindArray  jsontext.Kind = '['
)

// wanted is a JSON value that a message's is compared with.
type wanted struct {
	kind jsontext.Kind
	// text is what a string says.
	text string
	// number is a number's value.
	number decimal
	// members are an object's, in the filter's order; index finds them by name.
	members []member
	index   map[string]int
	items   []*wanted
}

type member struct {
	name  string
	value *wanted
}

// readWanted reads a value with at most depth levels of arrays and objects.
func readWanted(dec *jsontext.Decoder, depth int) (*wanted, error) {
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, fmt.Errorf("is not valid JSON: %w", err)
	}
	w := &wanted{kind: tok.Kind()}
	switch w.kind {
	case kindString:
		w.text = tok.String()
	case kindNumber:
		number, ok := parseDecimal([]byte(tok.String()))
		if !ok {
			return nil, errors.New("has a number out of range")
		}
		w.number = number
	case kindObject, kindArray:
		if depth == 0 {
			return nil, fmt.Errorf("nests deeper than %d levels", FilterDepthMax)
		}
		return w, w.readInto(dec, depth-1)
	default: // null, true and false are their kind
	}
	return w, nil
}

// readInto reads what is within an array or object, and its end.
func (w *wanted) readInto(dec *jsontext.Decoder, depth int) error {
	w.index = map[string]int{}
	for {
		if kind := dec.PeekKind(); kind == '}' || kind == ']' {
			_, err := dec.ReadToken()
			return err //nolint:wrapcheck // a kind that was peeked can be read
		}
		name := ""
		if w.kind == kindObject {
			tok, err := dec.ReadToken()
			if err != nil {
				return fmt.Errorf("is not valid JSON: %w", err)
			}
			name = tok.String()
		}
		value, err := readWanted(dec, depth)
		if err != nil {
			return err
		}
		if w.kind == kindArray {
			w.items = append(w.items, value)
			continue
		}
		w.index[name] = len(w.members)
		w.members = append(w.members, member{name: name, value: value})
	}
}
