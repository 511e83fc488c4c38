package cloudevents

import (
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

// bodyGrowMax is how much memory a body gets before its first byte.
const bodyGrowMax = 64 << 10

// limitHeaderValue is what a header value must be, in words.
const limitHeaderValue = "UTF-8, percent-encoded (CloudEvents HTTP binding, section 3.1.3.2)"

// parseBinary reads an event whose attributes are headers and whose data is the body.
func parseBinary(c echo.Context, limits Limits) (Event, error) {
	d := newDraft(func(name string) string {
		if name == "datacontenttype" {
			return echo.HeaderContentType
		}
		return HeaderPrefix + name
	})
	h := c.Request().Header
	d.headers(h)
	if contentType, given := h[echo.HeaderContentType]; given {
		d.set("datacontenttype", contentType[0])
	}
	e, problem := d.event()
	if problem != nil {
		return Event{}, problem
	}
	body, err := readBody(c.Request(), limits.BodyBytesMax)
	if err != nil {
		return Event{}, err
	}
	data := data{c: c, at: "data", contentTypeAt: echo.HeaderContentType, payloadBytesMax: limits.PayloadBytesMax}
	if problem := data.bytes(&e, body); problem != nil {
		return Event{}, problem
	}
	return e, nil
}

// headers reads the attributes from ce- headers, in the order of their names.
func (d *draft) headers(h http.Header) {
	var keys []string
	for key := range h {
		if len(key) >= len(HeaderPrefix) && strings.EqualFold(key[:len(HeaderPrefix)], HeaderPrefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		name := strings.ToLower(key[len(HeaderPrefix):])
		_, twice := d.attributes[name]
		switch values := h[key]; {
		case name == "datacontenttype":
			// Its path would be Content-Type, which is not at fault.
			d.problems = append(d.problems, web.Detail{Field: HeaderPrefix + name, Limit: "the Content-Type header instead", Problem: "is given"})
		case name == "data" || !attributeName.MatchString(name):
			d.wrong(name, limitName+`, but not "data"`, "is no attribute")
		case twice || len(values) != 1:
			d.wrong(name, limitOnce, "is given twice")
			d.attributes[name] = ""
		default:
			d.header(name, values[0])
		}
	}
}

func (d *draft) header(name, raw string) {
	value, ok := decodeHeader(raw)
	if !ok {
		d.wrong(name, limitHeaderValue, "is not that")
		d.attributes[name] = ""
		return
	}
	d.set(name, value)
}

// decodeHeader takes a value's double quotes off, if it has them, and then decodes
// its percent-encoding, once.
func decodeHeader(raw string) (value string, ok bool) {
	if strings.HasPrefix(raw, `"`) {
		if raw, ok = unquote(raw); !ok {
			return "", false
		}
	}
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			b.WriteByte(raw[i])
			continue
		}
		if i+2 >= len(raw) {
			return "", false
		}
		octet, err := hex.DecodeString(raw[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.Write(octet)
		i += 2
	}
	return b.String(), utf8.ValidString(b.String())
}

// unquote reads a quoted-string (RFC 7230, section 3.2.6).
func unquote(raw string) (text string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			return b.String(), i == len(raw)-1
		case '\\':
			if i++; i == len(raw) {
				return "", false
			}
		}
		b.WriteByte(raw[i])
	}
	return "", false
}

// readBody reads all of a body within its limit.
func readBody(r *http.Request, limitBytes int64) ([]byte, error) {
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
		return nil, web.Invalid(web.Detail{Field: "body", Problem: "could not be read to its end"})
	}
	if n > limitBytes {
		return nil, tooLarge("body", limitBytes)
	}
	return buf.Bytes(), nil
}
