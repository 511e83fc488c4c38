package filter

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// readPayload makes Go values of JSON, as cel-go takes them: map[string]any, []any,
// string, bool, nil, int64 for a number written as an integer that fits, else float64.
func readPayload(data []byte) (any, error) {
	return readAny(jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true)))
}

func readAny(dec *jsontext.Decoder) (any, error) {
	switch dec.PeekKind() {
	case kindObject:
		return readObject(dec)
	case kindArray:
		return readArray(dec)
	default:
		return readScalar(dec)
	}
}

func readScalar(dec *jsontext.Decoder) (any, error) {
	raw, err := dec.ReadValue()
	if err != nil {
		return nil, fmt.Errorf("reading a value: %w", err)
	}
	switch raw.Kind() {
	case kindString:
		return string(unquoted(raw)), nil
	case kindNumber:
		return readNumber(string(raw))
	case 't', 'f':
		return raw[0] == 't', nil
	default:
		return nil, nil //nolint:nilnil // JSON's null
	}
}

func readNumber(text string) (any, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("reading a number: %w", err)
	}
	return f, nil
}

func readObject(dec *jsontext.Decoder) (any, error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading an object: %w", err)
	}
	object := map[string]any{}
	for dec.PeekKind() != '}' {
		raw, err := dec.ReadValue()
		if err != nil {
			return nil, fmt.Errorf("reading a name: %w", err)
		}
		name := string(unquoted(raw))
		if object[name], err = readAny(dec); err != nil {
			return nil, err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading an object: %w", err)
	}
	return object, nil
}

func readArray(dec *jsontext.Decoder) (any, error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading an array: %w", err)
	}
	array := []any{}
	for dec.PeekKind() != ']' {
		item, err := readAny(dec)
		if err != nil {
			return nil, err
		}
		array = append(array, item)
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading an array: %w", err)
	}
	return array, nil
}
