package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

const (
	headerTenant = "X-Tenant-Id"
	headerToken  = "X-Service-Token"
	// devTenant is who asks a private service without saying.
	devTenant = "00000000-0000-0000-0000-000000000001"

	tenantKey = "tallymq.tenant"
)

// identify finds out whose request it is: X-Tenant-Id, from callers who have the
// service's token. Without a token (tallymq dev, on loopback only) everybody is
// believed, and the tenant may be left out. What is outside the API (health) asks
// for nothing.
func identify(token string) echo.MiddlewareFunc {
	want := sha256.Sum256([]byte(token))
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if !strings.HasPrefix(c.Path(), apiPrefix+"/") {
				return next(c)
			}
			header := c.Request().Header
			if token != "" {
				got := sha256.Sum256([]byte(header.Get(headerToken)))
				if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
					return &web.Error{Status: http.StatusUnauthorized, Code: web.CodeUnauthorized, Message: headerToken + " is missing or wrong"}
				}
			}
			tenant := header.Get(headerTenant)
			if tenant == "" && token == "" {
				tenant = devTenant
			}
			if !web.ValidUUID(tenant) {
				return web.Invalid(web.Detail{Field: headerTenant, Limit: "a UUID in lower case", Problem: "is not one"})
			}
			c.Set(tenantKey, tenant)
			return next(c)
		}
	}
}

// identity is what identify found. Callers with the service's token are the
// platform's own and have no subject.
func identity(c echo.Context) (tenantID, subject string) {
	tenantID, _ = c.Get(tenantKey).(string)
	return tenantID, ""
}
