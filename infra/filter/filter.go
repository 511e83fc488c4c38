package filter

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// Message is what a filter looks at.
type Message struct {
	Key     string
	Headers map[string]string
	// Payload is JSON. It is read only where the filter asks for it.
	Payload []byte
}

// Verdict is a filter's answer.
type Verdict struct {
	Matches bool
	// Why says what kept the message from matching, in at most [WhyBytesMax] bytes of
	// one line; "" where it matches.
	Why string
}

// Filter is a messageFilter, compiled. The zero value matches everything.
type Filter struct {
	expression *expression
	equality   equality
}

// Match says whether a message passes. It returns no error: what cannot be evaluated
// does not match, and the verdict says so.
func (f *Filter) Match(m Message) Verdict {
	match := f.equality.match
	if f.expression != nil {
		match = f.expression.match
	}
	why := match(m)
	return Verdict{Matches: why == "", Why: line(why, WhyBytesMax)}
}

// Compile reads a messageFilter. Its errors are one line of at most [ErrorBytesMax]
// bytes, for the tenant, which name the field and, within an expression, line:column.
func Compile(raw []byte) (*Filter, error) {
	f, err := compile(raw)
	if err != nil {
		return nil, errors.New(line(err.Error(), ErrorBytesMax))
	}
	return f, nil
}

func compile(raw []byte) (*Filter, error) {
	if len(raw) > FilterBytesMax {
		return nil, fmt.Errorf("messageFilter: has %d bytes, at most %d are allowed", len(raw), FilterBytesMax)
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	root, err := readWanted(dec, FilterDepthMax)
	if err != nil {
		return nil, fmt.Errorf("messageFilter: %w", err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("messageFilter: something follows the object")
	}
	if root.kind != kindObject {
		return nil, errors.New("messageFilter: must be an object")
	}
	if _, ok := root.index["cel"]; ok {
		return compileCEL(root)
	}
	return compileEquality(root)
}

func compileCEL(root *wanted) (*Filter, error) {
	for _, m := range root.members {
		if m.name != "cel" {
			return nil, fmt.Errorf("messageFilter.%s: cannot be combined with cel", line(m.name, QuoteBytesMax))
		}
	}
	text := root.members[0].value
	if text.kind != kindString {
		return nil, errors.New("messageFilter.cel: must be a string")
	}
	e, err := newExpression(text.text)
	if err != nil {
		return nil, fmt.Errorf("messageFilter.cel: %w", err)
	}
	return &Filter{expression: e}, nil
}

func compileEquality(root *wanted) (*Filter, error) {
	f := &Filter{}
	for _, m := range root.members {
		switch m.name {
		case "headers":
			if m.value.kind != kindObject {
				return nil, errors.New("messageFilter.headers: must be an object")
			}
			for _, h := range m.value.members {
				if h.value.kind != kindString {
					return nil, fmt.Errorf("messageFilter.headers%s: must be a string", step(h.name))
				}
				f.equality.headers = append(f.equality.headers, header{name: h.name, value: h.value.text})
			}
		case "key":
			if m.value.kind != kindString {
				return nil, errors.New("messageFilter.key: must be a string")
			}
			f.equality.key = &m.value.text
		case "payload":
			f.equality.payload = m.value
		default:
			return nil, fmt.Errorf("messageFilter%s: no such field; there are cel, or headers, key and payload", step(m.name))
		}
	}
	return f, nil
}
