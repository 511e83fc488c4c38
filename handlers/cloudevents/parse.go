package cloudevents

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

// Media types of the JSON event format.
const (
	MediaStructured = "application/cloudevents+json"
	MediaBatch      = "application/cloudevents-batch+json"

	// mediaPrefix begins the media types of all event formats.
	mediaPrefix = "application/cloudevents"
)

const headerSpecVersion = "Ce-Specversion"

// Is reports whether a request says that it is CloudEvents: by an event format's
// Content-Type or by a ce-specversion header.
func Is(h http.Header) bool {
	return isFormat(h.Get(echo.HeaderContentType)) || len(h.Values(headerSpecVersion)) > 0
}

func isFormat(contentType string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(contentType)), mediaPrefix)
}

// Parse reads a request's events. One that is not batched has one event. A batch has
// an event for each of its members, in order, with a Problem where it cannot be taken;
// it may have none.
//
// Errors are *web.Error: 400, 413 past a limit on bytes, 415 for an event format, an
// encoding or a charset that we do not know. Fields are paths in a JSON body, header
// names in binary mode, and data… for what is in the data.
func Parse(c echo.Context, limits Limits) (events []Event, batched bool, err error) {
	h := c.Request().Header
	if values := h.Values(echo.HeaderContentType); len(values) > 1 {
		return nil, false, web.Invalid(web.Detail{Field: echo.HeaderContentType, Limit: limitOnce, Problem: "is given twice"})
	}
	for _, coding := range h.Values(echo.HeaderContentEncoding) {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return nil, false, unsupported(echo.HeaderContentEncoding, "identity")
		}
	}
	contentType := h.Get(echo.HeaderContentType)
	if !isFormat(contentType) {
		return one(parseBinary(c, limits))
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || (media != MediaStructured && media != MediaBatch) || !utf8Charset(params["charset"]) {
		return nil, false, unsupported(echo.HeaderContentType, MediaStructured+" or "+MediaBatch+", in UTF-8")
	}
	if media == MediaStructured {
		return one(parseStructured(c, limits))
	}
	events, err = parseBatch(c, limits)
	return events, true, err
}

func one(e Event, err error) ([]Event, bool, error) {
	if err != nil {
		return nil, false, err
	}
	return []Event{e}, false, nil
}

func utf8Charset(charset string) bool {
	return charset == "" || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "us-ascii")
}

// jsonBody is c with a body that web.Decode takes.
func jsonBody(c echo.Context, body io.ReadCloser, lengthBytes int64) echo.Context { //nolint:ireturn // it is what web.Decode takes
	r := c.Request().WithContext(c.Request().Context())
	r.Header = http.Header{echo.HeaderContentType: {echo.MIMEApplicationJSON}}
	r.Body, r.ContentLength = body, lengthBytes
	return c.Echo().NewContext(r, nil)
}

func unsupported(field, limit string) *web.Error {
	return &web.Error{
		Status: http.StatusUnsupportedMediaType, Code: web.CodeUnsupportedMediaType,
		Message: field + " must be " + limit,
		Details: []web.Detail{{Field: field, Limit: limit, Problem: "is another"}},
	}
}

func tooLarge(field string, limitBytes int64) *web.Error {
	return &web.Error{
		Status: http.StatusRequestEntityTooLarge, Code: web.CodePayloadTooLarge,
		Message: fmt.Sprintf("%s is too large; allowed: %d bytes", field, limitBytes),
		Details: []web.Detail{{Field: field, Limit: fmt.Sprintf("at most %d bytes", limitBytes), Problem: "is larger"}},
	}
}
