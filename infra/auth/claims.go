package auth

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// Scopes that mean something to this service; others are left out of [Claims].
const (
	ScopeAdmin   = "mq:admin"
	ScopePublish = "mq:publish"
	ScopeConsume = "mq:consume"
	ScopeRead    = "mq:read"
)

// SubjectMax bounds sub, in characters: what a message record's producer holds.
const SubjectMax = 200

// secondsMax is the last second of the year 9999.
const secondsMax = 253402300799

// Claims are what a good token says of its caller.
type Claims struct {
	// TenantID is a UUID in lower case, not the nil one.
	TenantID string
	// Subject is 1 to [SubjectMax] characters without control characters.
	Subject string
	// Scopes are those of ours, each once; none means that nothing is allowed.
	Scopes []string
	// ExpiresAt is exp, without the leeway.
	ExpiresAt time.Time
}

// payload is the token's second part. Absent and null are the same.
type payload struct {
	Issuer    string           `json:"iss"`
	Audience  jwt.ClaimStrings `json:"aud"`
	Subject   string           `json:"sub"`
	ExpiresAt *float64         `json:"exp"`
	NotBefore *float64         `json:"nbf"`
	TenantID  string           `json:"tenant_id"` //nolint:tagliatelle // the auth service's name for it
	Scope     *string          `json:"scope"`
}

// UnmarshalJSON takes each name once, as it is written, in valid UTF-8: the parser's
// own decoder takes Exp for exp, and the last of two.
func (p *payload) UnmarshalJSON(data []byte) error {
	type plain payload
	if err := json.Unmarshal(data, (*plain)(p)); err != nil {
		return fmt.Errorf("decode claims: %w", err)
	}
	return nil
}

// Validate checks the claims that are ours; the parser calls it and checks the rest.
func (p *payload) Validate() error {
	switch id, err := uuid.Parse(p.TenantID); {
	case err != nil || id.String() != p.TenantID || id == uuid.Nil:
		return reasonError("tenant_id must be a UUID in lower case")
	case p.Subject == "" || utf8.RuneCountInString(p.Subject) > SubjectMax || strings.ContainsFunc(p.Subject, unicode.IsControl):
		return reasonError(fmt.Sprintf("sub must be 1 to %d characters", SubjectMax))
	case p.Scope == nil:
		return reasonError("scope is missing")
	}
	return nil
}

func (p *payload) claims() Claims {
	c := Claims{TenantID: p.TenantID, Subject: p.Subject, ExpiresAt: time.Unix(int64(*p.ExpiresAt), 0).UTC()}
	known := [...]string{ScopeAdmin, ScopePublish, ScopeConsume, ScopeRead}
	for scope := range strings.SplitSeq(*p.Scope, " ") {
		if i := slices.Index(known[:], scope); i >= 0 && !slices.Contains(c.Scopes, scope) {
			// The constant: the token's text need not stay in memory.
			c.Scopes = append(c.Scopes, known[i])
		}
	}
	return c
}

// date turns a NumericDate into a time. Far out ones would wrap around.
func date(name string, seconds *float64) (*jwt.NumericDate, error) {
	switch {
	case seconds == nil:
		return nil, nil //nolint:nilnil // the parser's sign for a claim that is absent
	case *seconds < 0 || *seconds > secondsMax:
		return nil, reasonError(name + " is out of range")
	}
	return jwt.NewNumericDate(time.Unix(int64(*seconds), 0)), nil
}

// What the parser asks for by jwt.Claims.
func (p *payload) GetExpirationTime() (*jwt.NumericDate, error) { return date("exp", p.ExpiresAt) }
func (p *payload) GetNotBefore() (*jwt.NumericDate, error)      { return date("nbf", p.NotBefore) }
func (p *payload) GetIssuedAt() (*jwt.NumericDate, error)       { return nil, nil } //nolint:nilnil // not checked
func (p *payload) GetIssuer() (string, error)                   { return p.Issuer, nil }
func (p *payload) GetSubject() (string, error)                  { return p.Subject, nil }
func (p *payload) GetAudience() (jwt.ClaimStrings, error)       { return p.Audience, nil }
