package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Limits of tokens.
const (
	// TokenBytesMax bounds a token; a longer one is refused unread.
	TokenBytesMax = 8 << 10
	// Leeway is how far the auth service's clock and ours may be apart.
	Leeway = 60 * time.Second
	// KeyIDBytesMax bounds a kid, in a token and in a key set.
	KeyIDBytesMax = 256
)

// Algorithms that are taken.
const (
	algRS256 = "RS256"
	algES256 = "ES256"
	algEdDSA = "EdDSA"
)

var (
	// ErrInvalid says that a token is not to be trusted: the caller's fault, 401.
	ErrInvalid = errors.New("the token is not valid")
	// ErrUnavailable says that a token could not be judged, because there are no
	// keys yet, or because its key is unknown and the auth service does not answer:
	// not the caller's fault, 503.
	ErrUnavailable = errors.New("the token cannot be checked now")
)

// Config says whose tokens are taken.
type Config struct {
	// URL is the auth service's base; keys are at URL/.well-known/jwks.json.
	URL string
	// Issuer and Audience are what iss must be and aud must contain. Empty: any.
	Issuer, Audience string
	// Client makes the requests; its redirects and cookies are switched off in a
	// copy. Nil: one of our own.
	Client *http.Client
	// Now is the clock that claims are held against. Nil: time.Now.
	Now func() time.Time
	// Logger hears when the auth service goes and comes back, and when keys change.
	// Nil: slog.Default.
	Logger *slog.Logger
	// RefreshEvery is the time between background fetches. Zero: [RefreshDefault].
	RefreshEvery time.Duration
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	keys   *keySource
	parser *jwt.Parser
	now    func() time.Time
}

// New returns a verifier that has no keys yet: [Verifier.Run] or the first
// [Verifier.Verify] fetches them.
func New(cfg Config) *Verifier {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{algRS256, algES256, algEdDSA}),
		jwt.WithExpirationRequired(), jwt.WithLeeway(Leeway), jwt.WithTimeFunc(cfg.Now),
		jwt.WithStrictDecoding(),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	return &Verifier{keys: newKeySource(cfg), parser: jwt.NewParser(options...), now: cfg.Now}
}

// Run keeps the keys fresh until ctx ends. Without it keys are fetched only when
// a token names an unknown one.
func (v *Verifier) Run(ctx context.Context) { v.keys.run(ctx) }

// Ready is nil once tokens can be checked, and wraps [ErrUnavailable] before.
func (v *Verifier) Ready() error { return v.keys.ready() }

// Degraded is nil while the auth service answers; else it says since when and why
// not. Tokens signed with keys that are known are still taken then.
func (v *Verifier) Degraded() error { return v.keys.degraded() }

// Verify returns the claims of a good token. Errors wrap [ErrInvalid], whose text
// may be shown to the caller, or [ErrUnavailable], whose text is for the log. It
// waits for the auth service, [FetchTimeout] at most, only if the token's key is
// unknown and a fetch is allowed or under way.
func (v *Verifier) Verify(ctx context.Context, token string) (Claims, error) {
	if len(token) > TokenBytesMax {
		return Claims{}, invalid(reasonError(fmt.Sprintf("it is longer than %d bytes", TokenBytesMax)))
	}
	// Base64 decoders skip line ends, so one token could be written in many ways.
	if strings.ContainsAny(token, "\r\n") {
		return Claims{}, invalid(reasonError("it is not a JWT"))
	}
	digest := sha256.Sum256([]byte(token))
	if claims, ok := v.keys.current().recall(digest, v.now()); ok {
		return claims, nil
	}
	var p payload
	var by *keySet
	_, err := v.parser.ParseWithClaims(token, &p, func(t *jwt.Token) (any, error) {
		public, set, err := v.key(ctx, t)
		by = set
		return public, err
	})
	switch {
	case errors.Is(err, ErrUnavailable):
		return Claims{}, fmt.Errorf("verify a token: %w", unwrapped(err))
	case err != nil:
		return Claims{}, invalid(err)
	}
	claims := p.claims()
	by.remember(digest, claims)
	claims.Scopes = slices.Clone(claims.Scopes)
	return claims, nil
}

// key finds the key that a token names, and the set that it is in.
func (v *Verifier) key(ctx context.Context, t *jwt.Token) (any, *keySet, error) {
	// What crit names must be understood (RFC 7515, section 4.1.11), and we know none.
	if _, ok := t.Header["crit"]; ok {
		return nil, nil, reasonError("its header has crit")
	}
	kid, ok := t.Header["kid"].(string)
	if !ok || kid == "" || len(kid) > KeyIDBytesMax {
		return nil, nil, reasonError("its header lacks a proper kid")
	}
	k, set, err := v.keys.find(ctx, kid)
	if err != nil {
		return nil, nil, err
	}
	if t.Method.Alg() != k.alg {
		return nil, nil, reasonError("its algorithm is not its key's")
	}
	return k.public, set, nil
}

// reasonError is why a token is refused, in words that hold nothing of the token.
type reasonError string

func (r reasonError) Error() string { return string(r) }

// unavailableError is why a token cannot be judged.
type unavailableError struct{ cause error }

func (u *unavailableError) Error() string   { return fmt.Sprintf("%v: %v", ErrUnavailable, u.cause) }
func (u *unavailableError) Unwrap() []error { return []error{ErrUnavailable, u.cause} }

// unwrapped takes off what the parser says around our error.
func unwrapped(err error) error {
	if u, ok := errors.AsType[*unavailableError](err); ok {
		return u
	}
	return ErrUnavailable
}

// invalid turns what the parser found into a reason of ours: its own texts can
// quote the token.
func invalid(err error) error {
	if reason, ok := errors.AsType[reasonError](err); ok {
		return fmt.Errorf("%w: %w", ErrInvalid, reason)
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return fmt.Errorf("%w: %s", ErrInvalid, r.text)
		}
	}
	return ErrInvalid
}

var reasons = []struct {
	err  error
	text string
}{
	{jwt.ErrTokenMalformed, "it is not a JWT"},
	{jwt.ErrTokenUnverifiable, "its algorithm is unknown"},
	{jwt.ErrTokenSignatureInvalid, "its algorithm or signature is not accepted"},
	{jwt.ErrTokenExpired, "it has expired"},
	{jwt.ErrTokenNotValidYet, "it is not valid yet"},
	{jwt.ErrTokenInvalidAudience, "it is for another audience"},
	{jwt.ErrTokenInvalidIssuer, "it is from another issuer"},
	{jwt.ErrTokenRequiredClaimMissing, "it lacks exp, aud or iss"},
}
