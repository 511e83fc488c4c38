package web

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of raw JSON that we keep. They are what Postgres' jsonb can hold and
// what other parsers agree on (RFC 7493, section 2.2: numbers within a double).
const (
	// PayloadDepthMax is how deep arrays and objects may nest.
	PayloadDepthMax = 32
	// NumberCharsMax is how long a number may be written.
	NumberCharsMax = 1000
	// NumberExponentMax bounds an exponent as written.
	NumberExponentMax = 1000

	// bodyDepthMax leaves room for what surrounds a payload in a batch.
	bodyDepthMax = PayloadDepthMax + 3
)

// depthLimit is PayloadDepthMax in words.
const depthLimit = "at most 32 levels"

// CheckPayload checks a raw value of a decoded body against its own limits and
// says what is wrong with it, nil for nothing.
func CheckPayload(field string, raw jsontext.Value, maxBytes int) *Detail {
	if len(raw) > maxBytes {
		return &Detail{Field: field, Limit: fmt.Sprintf("at most %d bytes", maxBytes), Problem: fmt.Sprintf("has %d bytes", len(raw))}
	}
	if f := scan(raw, PayloadDepthMax); f != nil {
		return &Detail{Field: field, Limit: f.limit, Problem: f.problem}
	}
	return nil
}

// fault is what scan found, and where.
type fault struct {
	offset         int
	limit, problem string
}

// scan looks through valid JSON, once and without building anything, for what
// the grammar allows and we do not: deep nesting, NUL characters (which jsonb
// cannot hold), numbers beyond a double.
func scan(data []byte, depthMax int) *fault {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			end, nul := scanString(data, i+1)
			if nul >= 0 {
				return &fault{offset: nul, limit: `text without the NUL character (\u0000)`, problem: "has a NUL character"}
			}
			i = end
		case c == '{' || c == '[':
			if depth++; depth > depthMax {
				return &fault{offset: i, limit: depthLimit, problem: "is nested deeper"}
			}
		case c == '}' || c == ']':
			depth--
		case c == '-' || (c >= '0' && c <= '9'):
			end := i + 1
			for end < len(data) && numberByte(data[end]) {
				end++
			}
			if limit := checkNumber(data[i:end]); limit != "" {
				return &fault{offset: i, limit: limit, problem: "has a number out of range"}
			}
			i = end - 1
		}
	}
	return nil
}

// scanString returns where the string that began before i ends, and where it has
// a NUL escape, -1 for nowhere.
func scanString(data []byte, i int) (end, nul int) {
	for ; i < len(data); i++ {
		switch data[i] {
		case '"':
			return i, -1
		case '\\':
			if i+5 < len(data) && string(data[i+1:i+6]) == "u0000" {
				return i, i
			}
			i++
		}
	}
	return i, -1
}

func numberByte(c byte) bool {
	return (c >= '0' && c <= '9') || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

// checkNumber returns the limit that a number exceeds, "" for none.
func checkNumber(text []byte) string {
	if len(text) > NumberCharsMax {
		return fmt.Sprintf("numbers of at most %d characters", NumberCharsMax)
	}
	for i, c := range text {
		if c != 'e' && c != 'E' {
			continue
		}
		exponent, err := strconv.Atoi(string(text[i+1:]))
		if err != nil || exponent > NumberExponentMax || exponent < -NumberExponentMax {
			return fmt.Sprintf("exponents within ±%d", NumberExponentMax)
		}
	}
	if _, err := strconv.ParseFloat(string(text), 64); err != nil {
		return "numbers within the range of a double (about ±1.8e308)"
	}
	return ""
}
