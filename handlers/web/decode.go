package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"
)

// Decode reads a JSON body into a struct, strictly: see the package's promise. A
// jsontext.Value field keeps its bytes as they came. Errors are *Error: 400, 413
// past limitBytes, 415 for another content type.
//
// apart are the places (JSON pointers, * for any index) of raw values that the caller
// checks one by one with [CheckPayload]: valid JSON that we do not take is no error
// there.
func Decode(c echo.Context, into any, limitBytes int64, apart ...string) error {
	data, err := body(c.Request(), limitBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into, json.RejectUnknownMembers(true)); err != nil {
		return decodeError(data, err)
	}
	f := scan(data, bodyDepthMax)
	if f != nil && len(apart) > 0 {
		f = scan(without(data, apart), bodyDepthMax)
	}
	if f != nil {
		return Invalid(Detail{Field: fieldAt(data, f.offset), Limit: f.limit, Problem: f.problem})
	}
	return nil
}

// bodyGrowMax is how much memory a body gets before its first byte.
const bodyGrowMax = 64 << 10

func body(r *http.Request, limitBytes int64) ([]byte, error) {
	if contentType := r.Header.Get(echo.HeaderContentType); contentType != "" {
		media, params, err := mime.ParseMediaType(contentType)
		charset := params["charset"]
		if err != nil || media != echo.MIMEApplicationJSON || (charset != "" && !strings.EqualFold(charset, "utf-8")) {
			return nil, &Error{
				Status: http.StatusUnsupportedMediaType, Code: CodeUnsupportedMediaType,
				Message: "Content-Type must be application/json in UTF-8",
				Details: []Detail{{Field: "Content-Type", Limit: "application/json", Problem: "is another"}},
			}
		}
	}
	if r.ContentLength > limitBytes {
		return nil, tooLarge("body", limitBytes)
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		// Memory is for what has come, not for what was announced.
		buf.Grow(int(min(r.ContentLength, bodyGrowMax)) + bytes.MinRead)
	}
	n, err := io.Copy(&buf, io.LimitReader(r.Body, limitBytes+1))
	if err != nil {
		return nil, Invalid(Detail{Field: "body", Problem: "could not be read to its end"})
	}
	if n > limitBytes {
		return nil, tooLarge("body", limitBytes)
	}
	if len(bytes.TrimSpace(buf.Bytes())) == 0 {
		return nil, Invalid(Detail{Field: "body", Limit: "a JSON object", Problem: "is empty"})
	}
	return buf.Bytes(), nil
}

// decodeError says in words, and with the field's path, what the decoder found.
func decodeError(data []byte, err error) *Error {
	var syntactic *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case !utf8.Valid(data):
		return Invalid(Detail{Field: "body", Limit: "valid UTF-8 (RFC 8259, section 8.1)", Problem: "is not valid UTF-8"})
	case errors.As(err, &syntactic):
		field := dotted(syntactic.JSONPointer)
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			return Invalid(Detail{Field: field, Limit: "each name once", Problem: "is given twice"})
		case strings.Contains(syntactic.Err.Error(), "surrogate") || strings.Contains(syntactic.Err.Error(), "UTF-8"):
			return Invalid(Detail{Field: field, Limit: "whole Unicode characters", Problem: "has an unpaired surrogate"})
		case strings.Contains(syntactic.Err.Error(), "after top-level value"):
			return Invalid(Detail{Field: "body", Limit: "one JSON object and nothing behind it", Problem: "has something behind the object"})
		case strings.Contains(syntactic.Err.Error(), "max depth"):
			return Invalid(Detail{Field: field, Limit: depthLimit, Problem: "is nested deeper"})
		case errors.Is(err, io.ErrUnexpectedEOF):
			return Invalid(Detail{Field: field, Limit: "complete JSON", Problem: "ends in the middle"})
		default:
			return Invalid(Detail{Field: field, Limit: "JSON (RFC 8259)", Problem: fmt.Sprintf("is not valid JSON at byte %d: %v", syntactic.ByteOffset, syntactic.Err)})
		}
	case errors.As(err, &semantic):
		field := dotted(semantic.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			return Invalid(Detail{Field: field, Limit: "the fields of this request", Problem: "is unknown"})
		}
		return Invalid(Detail{Field: field, Limit: wanted(semantic), Problem: "is " + kindText(semantic.JSONKind)})
	}
	return Invalid(Detail{Field: "body", Limit: "JSON (RFC 8259)", Problem: "is not valid JSON"})
}

func wanted(e *json.SemanticError) string {
	if e.GoType == nil {
		return "another kind of value"
	}
	name := strings.TrimPrefix(e.GoType.String(), "*")
	switch {
	case name == "string":
		return "a string"
	case name == "bool":
		return "true or false"
	case strings.HasPrefix(name, "int"):
		return "an integer"
	case name == "time.Time":
		return "a time as in RFC 3339, such as 2026-01-31T08:00:00Z"
	case strings.HasPrefix(name, "[]"):
		return "an array"
	default:
		return "an object"
	}
}

func kindText(k jsontext.Kind) string {
	switch k {
	case jsontext.KindString:
		return "a string that is not that"
	case jsontext.KindNumber:
		return "a number that is not that"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "true or false"
	case jsontext.KindNull:
		return "null"
	case jsontext.KindBeginObject:
		return "an object"
	case jsontext.KindBeginArray:
		return "an array"
	default:
		return "something else"
	}
}

// dotted turns a JSON pointer into the path that details use: messages[3].key. What
// lies deeper than any field of ours is cut short.
func dotted(p jsontext.Pointer) string {
	var b strings.Builder
	level := 0
	for token := range p.Tokens() {
		if level++; level > bodyDepthMax {
			b.WriteString("…")
			break
		}
		switch {
		case token != "" && strings.Trim(token, "0123456789") == "":
			b.WriteString("[" + token + "]")
		case b.Len() > 0:
			b.WriteString("." + brief(token))
		default:
			b.WriteString(brief(token))
		}
	}
	if b.Len() == 0 {
		return "body"
	}
	return b.String()
}

// without is valid JSON with the values of members at some places blanked out.
func without(data []byte, places []string) []byte {
	out := bytes.Clone(data)
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	for {
		if _, err := dec.ReadToken(); err != nil {
			return out
		}
		// A member's place is first met with its name, and its value is then skipped.
		at := string(dec.StackPointer())
		if !slices.ContainsFunc(places, func(place string) bool { ok, _ := path.Match(place, at); return ok }) {
			continue
		}
		from := dec.InputOffset()
		if err := dec.SkipValue(); err != nil {
			return out
		}
		for i := from; i < dec.InputOffset(); i++ {
			out[i] = ' '
		}
	}
}

// fieldAt names the value of valid JSON that holds the byte at offset.
func fieldAt(data []byte, offset int) string {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	for {
		if _, err := dec.ReadToken(); err != nil {
			return "body"
		}
		if dec.InputOffset() > int64(offset) {
			return dotted(dec.StackPointer())
		}
	}
}

func brief(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}
