package web

import (
	"fmt"
	"regexp"
	"runtime/debug"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
)

const requestIDKey = "tallymq.requestId"

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// RequestIDs gives every request an id: the caller's X-Request-Id where it is 1
// to 100 of [A-Za-z0-9._-], else a UUIDv7. The answer carries it.
func RequestIDs(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		id := c.Request().Header.Get(echo.HeaderXRequestID)
		if !requestID.MatchString(id) {
			minted, err := uuid.NewV7()
			if err != nil {
				return fmt.Errorf("mint a request id: %w", err)
			}
			id = minted.String()
		}
		c.Set(requestIDKey, id)
		c.Response().Header().Set(echo.HeaderXRequestID, id)
		return next(c)
	}
}

// RequestID returns the request's id.
func RequestID(c echo.Context) string {
	id, _ := c.Get(requestIDKey).(string)
	return id
}

// Recover turns a panic into an error, so that one request cannot end the rest.
func Recover(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		return next(c)
	}
}
