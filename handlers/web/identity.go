package web

import (
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// Scopes of tokens.
const (
	ScopeAdmin   = "mq:admin"
	ScopePublish = "mq:publish"
	ScopeConsume = "mq:consume"
	ScopeRead    = "mq:read"
)

// Identity is who a request is from.
type Identity struct {
	TenantID string
	// Subject is the caller within the tenant; the platform's own have none.
	Subject string
	// Platform says that the caller is the platform's own, who may do everything.
	Platform bool
	// OnBehalfOf is the tenant for whom the platform's own act in their own tenant.
	OnBehalfOf string
	// Scopes are what the caller's token allows.
	Scopes []string
	// AllTenants says that the caller named no tenant and may see all of them.
	AllTenants bool
}

const identityKey = "tallymq.identity"

// SetIdentity notes who a request is from.
func SetIdentity(c echo.Context, who Identity) { c.Set(identityKey, who) }

// IdentityOf returns who a request is from.
func IdentityOf(c echo.Context) Identity {
	who, _ := c.Get(identityKey).(Identity)
	return who
}

// Require lets those pass whose token has one of some scopes, and the platform's own.
// The caller must have named a tenant.
func Require(scopes ...string) echo.MiddlewareFunc {
	scoped := RequireScope(scopes...)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return scoped(func(c echo.Context) error {
			if IdentityOf(c).TenantID == "" {
				return Invalid(Detail{Field: HeaderTenant, Limit: "a UUID in lower case", Problem: "is missing"})
			}
			return next(c)
		})
	}
}

// RequireScope is Require for routes that the platform's own may use for all tenants.
func RequireScope(scopes ...string) echo.MiddlewareFunc {
	forbidden := &Error{
		Status: http.StatusForbidden, Code: CodeForbidden,
		Message: "the token does not have the scope " + strings.Join(scopes, " or "),
	}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			who := IdentityOf(c)
			if !who.Platform && !slices.ContainsFunc(scopes, func(s string) bool { return slices.Contains(who.Scopes, s) }) {
				return forbidden
			}
			return next(c)
		}
	}
}

// HeaderTenant names the tenant that the platform's own speak for.
const HeaderTenant = "X-Tenant-Id"
