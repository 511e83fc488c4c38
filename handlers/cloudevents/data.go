package cloudevents

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

// Content types of data that declares none.
const (
	contentTypeStructured = echo.MIMEApplicationJSON
	contentTypeBinary     = echo.MIMEOctetStream
)

// data turns an event's data into its payload.
type data struct {
	c echo.Context
	// at and contentTypeAt are the paths of the data and of its content type.
	at, contentTypeAt string
	payloadBytesMax   int
}

// member takes data of an event in JSON: the member data, or the member data_base64,
// or neither.
func (d data) member(e *Event, plain, encoded jsontext.Value) *web.Error {
	if len(plain) == 0 && len(encoded) == 0 {
		return d.bytes(e, nil)
	}
	if e.ContentType == "" {
		e.ContentType = contentTypeStructured
	}
	if len(encoded) > 0 {
		decoded, ok := decodeBase64(encoded)
		if !ok {
			return web.Invalid(web.Detail{Field: d.at, Limit: "a string in base64 (RFC 4648, section 4)", Problem: "is not that"})
		}
		return d.bytes(e, decoded)
	}
	if isJSON, _, _ := kindOf(e.ContentType); isJSON {
		return d.keep(e, plain, "")
	}
	if plain.Kind() != jsontext.KindString {
		return web.Invalid(web.Detail{Field: d.at, Limit: "a string, as " + d.contentTypeAt + " is not JSON", Problem: "is something else"})
	}
	return d.keep(e, plain, EncodingText)
}

// bytes takes data that came as bytes.
func (d data) bytes(e *Event, raw []byte) *web.Error {
	if len(raw) == 0 {
		return d.keep(e, jsontext.Value("null"), EncodingNone)
	}
	if e.ContentType == "" {
		e.ContentType = contentTypeBinary
	}
	isJSON, isText, charset := kindOf(e.ContentType)
	switch {
	case isJSON && !utf8Charset(charset):
		return unsupported(d.contentTypeAt, "JSON in UTF-8")
	case isJSON && len(bytes.TrimSpace(raw)) > d.payloadBytesMax:
		return tooLarge(d.at, int64(d.payloadBytesMax))
	case isJSON:
		payload, problem := d.decode(raw)
		if problem != nil {
			return problem
		}
		return d.keep(e, payload, "")
	case isText && utf8Charset(charset) && utf8.Valid(raw) && bytes.IndexByte(raw, 0) < 0:
		payload, err := jsontext.AppendQuote(nil, raw)
		if err != nil {
			return web.Invalid(web.Detail{Field: d.at, Limit: "valid UTF-8", Problem: "is not that"})
		}
		return d.keep(e, payload, EncodingText)
	}
	payload := make([]byte, 0, base64.StdEncoding.EncodedLen(len(raw))+len(`""`))
	payload = append(payload, '"')
	payload = base64.StdEncoding.AppendEncode(payload, raw)
	return d.keep(e, append(payload, '"'), EncodingBase64)
}

// decode reads JSON that came as bytes, as strictly as any body.
func (d data) decode(raw []byte) (jsontext.Value, *web.Error) {
	var payload jsontext.Value
	length := int64(len(raw))
	err := web.Decode(jsonBody(d.c, io.NopCloser(bytes.NewReader(raw)), length), &payload, length)
	if err == nil {
		return payload, nil
	}
	problem, ok := errors.AsType[*web.Error](err)
	if !ok {
		return nil, web.Invalid(web.Detail{Field: d.at, Limit: "JSON (RFC 8259)", Problem: "is not valid JSON"})
	}
	details := make([]web.Detail, len(problem.Details))
	for i, detail := range problem.Details {
		// Within the body there are paths, and "body" is the path of all of it.
		switch {
		case detail.Field == "body":
			detail.Field = d.at
		case strings.HasPrefix(detail.Field, "["):
			detail.Field = d.at + detail.Field
		default:
			detail.Field = d.at + "." + detail.Field
		}
		details[i] = detail
	}
	return nil, web.Invalid(details...)
}

// keep makes valid JSON the event's payload.
func (d data) keep(e *Event, payload jsontext.Value, encoding string) *web.Error {
	if len(payload) > d.payloadBytesMax {
		return tooLarge(d.at, int64(d.payloadBytesMax))
	}
	if detail := web.CheckPayload(d.at, payload, d.payloadBytesMax); detail != nil {
		return web.Invalid(*detail)
	}
	e.Payload = payload
	if encoding != "" {
		e.Headers[HeaderDataEncoding] = encoding
	}
	return nil
}

// kindOf says what a valid content type declares.
func kindOf(contentType string) (isJSON, isText bool, charset string) {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false, false, ""
	}
	kind, subtype, _ := strings.Cut(media, "/")
	return subtype == "json" || strings.HasSuffix(subtype, "+json"), kind == "text", params["charset"]
}

// decodeBase64 reads a JSON string in base64, padded and without line breaks.
func decodeBase64(value jsontext.Value) ([]byte, bool) {
	if value.Kind() != jsontext.KindString {
		return nil, false
	}
	text, err := jsontext.AppendUnquote(nil, value)
	// The decoder skips line breaks.
	if err != nil || bytes.ContainsAny(text, "\r\n") {
		return nil, false
	}
	decoded, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	return decoded, err == nil
}
