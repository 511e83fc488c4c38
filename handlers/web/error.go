package web

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
)

// Codes that the edge itself answers with.
const (
	CodeValidationFailed     = "MQ_VALIDATION_FAILED"
	CodeUnauthorized         = "MQ_UNAUTHORIZED"
	CodeForbidden            = "MQ_FORBIDDEN"
	CodePayloadTooLarge      = "MQ_PAYLOAD_TOO_LARGE"
	CodeUnsupportedMediaType = "MQ_UNSUPPORTED_MEDIA_TYPE"
	CodeUnavailable          = "MQ_UNAVAILABLE"
	CodeNotFound             = "MQ_NOT_FOUND"
	CodeMethodNotAllowed     = "MQ_METHOD_NOT_ALLOWED"
	CodeInternal             = "MQ_INTERNAL"
)

// Error is an error as callers see it.
type Error struct {
	Status  int      `json:"-"`
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Details []Detail `json:"details,omitempty"`
	// RetryAfterS is in seconds, and also sent as the Retry-After header.
	RetryAfterS int    `json:"retryAfter,omitzero"`
	RequestID   string `json:"requestId,omitempty"`
}

// Detail names a field that is not as it must be, and what would be.
type Detail struct {
	Field   string `json:"field"`
	Limit   string `json:"limit,omitempty"`
	Problem string `json:"problem"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Invalid is a 400 that names fields and their limits.
func Invalid(details ...Detail) *Error {
	e := &Error{Status: http.StatusBadRequest, Code: CodeValidationFailed, Details: details, Message: "the request is not valid"}
	if len(details) > 0 {
		d := details[0]
		e.Message = strings.TrimSpace(d.Field + " " + d.Problem)
		if d.Limit != "" {
			e.Message += "; allowed: " + d.Limit
		}
	}
	return e
}

// Unavailable is a 503: a store did not answer.
func Unavailable(message string) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Code: CodeUnavailable, Message: message, RetryAfterS: 1}
}

func tooLarge(field string, limitBytes int64) *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge, Code: CodePayloadTooLarge,
		Message: fmt.Sprintf("%s is too large; allowed: %d bytes", field, limitBytes),
		Details: []Detail{{Field: field, Limit: fmt.Sprintf("at most %d bytes", limitBytes), Problem: "is larger"}},
	}
}

// ErrorHandler answers errors in the API's format. What is no *Error and no error
// of the router is a fault: it is logged, and the caller learns its request id.
func ErrorHandler(logger *slog.Logger) echo.HTTPErrorHandler {
	return func(err error, c echo.Context) {
		if c.Response().Committed {
			return
		}
		e := toError(err)
		if e.Status == http.StatusInternalServerError {
			logger.Error("request failed", "error", err, "requestId", RequestID(c), "method", c.Request().Method, "path", c.Path())
		}
		if e.RetryAfterS > 0 {
			c.Response().Header().Set("Retry-After", strconv.Itoa(e.RetryAfterS))
		}
		out := *e
		out.RequestID = RequestID(c)
		if c.Request().Method == http.MethodHead {
			err = c.NoContent(e.Status)
		} else {
			err = WriteJSON(c, e.Status, out)
		}
		if err != nil {
			logger.Debug("answer an error", "error", err)
		}
	}
}

func toError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if routing, ok := errors.AsType[*echo.HTTPError](err); ok {
		switch routing.Code {
		case http.StatusNotFound:
			return &Error{Status: http.StatusNotFound, Code: CodeNotFound, Message: "no such path"}
		case http.StatusMethodNotAllowed:
			return &Error{Status: http.StatusMethodNotAllowed, Code: CodeMethodNotAllowed, Message: "this path does not have that method; see the Allow header"}
		}
	}
	return &Error{Status: http.StatusInternalServerError, Code: CodeInternal, Message: "internal error"}
}
