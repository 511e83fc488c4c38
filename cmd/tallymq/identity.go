package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/auth"
)

const (
	internalPrefix = "/internal/mq"
	headerTenant   = web.HeaderTenant
	headerToken    = "X-Service-Token"
	// devTenant is who asks a private service without saying.
	devTenant = "00000000-0000-0000-0000-000000000001"
)

// access finds out whose requests are whose. There are three kinds of callers: the
// platform's own services, who have the service's token and name a tenant; those with
// a token of the auth service, which names their tenant; and, where there is no
// service token (tallymq dev, on loopback only), everybody.
type access struct {
	// token is the service's token, "" for none.
	token string
	// tokens verifies the auth service's, nil where there is none.
	tokens interface {
		Verify(ctx context.Context, token string) (auth.Claims, error)
	}
	logger *slog.Logger
}

// identify notes who a request is from, or refuses it. What is outside the API
// (health, documentation) asks for nothing.
func (a access) identify(next echo.HandlerFunc) echo.HandlerFunc {
	want := sha256.Sum256([]byte(a.token))
	return func(c echo.Context) error {
		if c.Path() == apiPrefix+"/health" || c.Path() == apiPrefix+"/status" {
			return next(c)
		}
		isInternal := strings.HasPrefix(c.Path(), internalPrefix+"/")
		if !isInternal && !strings.HasPrefix(c.Path(), apiPrefix+"/") {
			return next(c)
		}
		header := c.Request().Header
		bearer, isBearer := bearerToken(header)
		var who web.Identity
		var err error
		switch {
		case header.Get(headerToken) != "" || isInternal:
			got := sha256.Sum256([]byte(header.Get(headerToken)))
			if a.token != "" && subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
				return unauthorized(c, headerToken+" is missing or wrong")
			}
			who, err = platformIdentity(header)
		case isBearer && a.tokens != nil:
			who, err = a.tenantIdentity(c, bearer)
		case a.token == "":
			who, err = platformIdentity(header)
			if who.AllTenants {
				who.TenantID, who.AllTenants = devTenant, false
			}
		default:
			return unauthorized(c, "a token is missing: Authorization: Bearer, or "+headerToken)
		}
		if err != nil {
			return err
		}
		web.SetIdentity(c, who)
		return next(c)
	}
}

// bearerToken is the token of the Authorization header (RFC 6750, section 2.1).
func bearerToken(header http.Header) (token string, found bool) {
	scheme, token, _ := strings.Cut(header.Get("Authorization"), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

// unauthorized is the 401 that says how to do better (RFC 6750, section 3).
func unauthorized(c echo.Context, message string) error {
	c.Response().Header().Set("WWW-Authenticate", `Bearer realm="tallymq"`)
	return &web.Error{Status: http.StatusUnauthorized, Code: web.CodeUnauthorized, Message: message}
}

// platformIdentity is a caller of the platform's own, for the tenant that they name.
func platformIdentity(header http.Header) (web.Identity, error) {
	tenant := header.Get(headerTenant)
	if tenant != "" && !web.ValidUUID(tenant) {
		return web.Identity{}, web.Invalid(web.Detail{Field: headerTenant, Limit: "a UUID in lower case", Problem: "is not one"})
	}
	return web.Identity{TenantID: tenant, Platform: true, AllTenants: tenant == ""}, nil
}

// tenantIdentity is a caller with a token of the auth service.
func (a access) tenantIdentity(c echo.Context, token string) (web.Identity, error) {
	claims, err := a.tokens.Verify(c.Request().Context(), token)
	switch {
	case errors.Is(err, auth.ErrUnavailable):
		a.logger.Warn("a token could not be verified", "error", err, "requestId", web.RequestID(c))
		return web.Identity{}, web.Unavailable("tokens cannot be verified now: the auth service does not answer")
	case err != nil:
		return web.Identity{}, unauthorized(c, err.Error())
	}
	if named := c.Request().Header.Get(headerTenant); named != "" && named != claims.TenantID {
		return web.Identity{}, &web.Error{Status: http.StatusForbidden, Code: web.CodeForbidden, Message: "the token is another tenant's than " + headerTenant + " names"}
	}
	return web.Identity{TenantID: claims.TenantID, Subject: claims.Subject, Scopes: claims.Scopes}, nil
}
