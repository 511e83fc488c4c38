package docs

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/labstack/echo/v4"
)

// Register adds /openapi.json and /docs. What they show is made at the first request.
func Register(e *echo.Echo) {
	e.GET("/openapi.json", func(c echo.Context) error {
		text, err := document()
		if err != nil {
			return err
		}
		guard(c.Response().Header())
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, text)
	})
	e.GET("/docs", func(c echo.Context) error {
		text, err := page()
		if err != nil {
			return err
		}
		h := c.Response().Header()
		guard(h)
		h.Set(echo.HeaderContentSecurityPolicy, contentPolicy)
		return c.HTMLBlob(http.StatusOK, text)
	})
}

// contentPolicy lets the page have its own style and nothing else.
var contentPolicy = "default-src 'none'; style-src 'sha256-" + digest(style) +
	"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// guard keeps browsers from guessing and from showing an older version's document.
func guard(h http.Header) {
	h.Set(echo.HeaderXContentTypeOptions, "nosniff")
	h.Set(echo.HeaderReferrerPolicy, "no-referrer")
	h.Set(echo.HeaderCacheControl, "no-cache")
}
