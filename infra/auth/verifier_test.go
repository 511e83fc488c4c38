package auth

import (
	"crypto/x509"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

func TestGoodTokens(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) int64 { return testNow.Add(d).Unix() }
	longest := strings.Repeat("ü", SubjectMax)
	for name, tc := range map[string]struct {
		header, claims map[string]any
		want           func(*Claims)
	}{
		"plain":                {},
		"no typ":               {header: map[string]any{"typ": nil}},
		"access token's typ":   {header: map[string]any{"typ": "at+jwt"}},
		"aud as array":         {claims: map[string]any{"aud": []string{"other", testAudience}}},
		"expired in leeway":    {claims: map[string]any{"exp": at(-Leeway + time.Second)}, want: func(c *Claims) { c.ExpiresAt = testNow.Add(-Leeway + time.Second) }},
		"nbf past":             {claims: map[string]any{"nbf": at(-time.Hour)}},
		"nbf at leeway's end":  {claims: map[string]any{"nbf": at(Leeway)}},
		"exp with a fraction":  {claims: map[string]any{"exp": float64(at(time.Hour)) + 0.9}},
		"further claims":       {claims: map[string]any{"email": "a@b.c", "roles": []string{"x"}, "iat": "whenever"}},
		"all scopes":           {claims: map[string]any{"scope": "mq:admin mq:publish mq:consume mq:read"}, want: func(c *Claims) { c.Scopes = []string{ScopeAdmin, ScopePublish, ScopeConsume, ScopeRead} }},
		"others' scopes":       {claims: map[string]any{"scope": " users:write  mq:read mq:read mq:adminx MQ:ADMIN mq:admin\tmq:publish"}, want: func(c *Claims) { c.Scopes = []string{ScopeRead} }},
		"no scope of ours":     {claims: map[string]any{"scope": "users:write"}, want: func(c *Claims) { c.Scopes = nil }},
		"empty scope":          {claims: map[string]any{"scope": ""}, want: func(c *Claims) { c.Scopes = nil }},
		"longest sub":          {claims: map[string]any{"sub": longest}, want: func(c *Claims) { c.Subject = longest }},
		"jku and x5u unread":   {header: map[string]any{"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}},
		"embedded key unread":  {header: map[string]any{"jwk": signer{"evil", jwt.SigningMethodEdDSA, edOther}.jwk(nil)}},
		"unrelated big header": {header: map[string]any{"pad": strings.Repeat("x", 3000)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 0)
			want := Claims{TenantID: testTenant, Subject: "orders", Scopes: []string{ScopePublish, ScopeRead}, ExpiresAt: testNow.Add(time.Hour)}
			if tc.want != nil {
				tc.want(&want)
			}
			for _, s := range signers {
				token := s.token(tc.header, tc.claims)
				for range 2 { // judged, then remembered
					got, err := b.Verify(t.Context(), token)
					require.NoError(t, err, s.kid)
					require.Equal(t, want, got, s.kid)
				}
			}
			require.EqualValues(t, 1, b.service.fetches.Load())
		})
	}
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) int64 { return testNow.Add(d).Unix() }
	type m = map[string]any
	for name, tc := range map[string]struct {
		header, claims m
		text           string
	}{
		"expired":                   {claims: m{"exp": at(-2 * Leeway)}, text: "expired"},
		"expired at leeway's end":   {claims: m{"exp": at(-Leeway)}, text: "expired"},
		"exp missing":               {claims: m{"exp": nil}, text: "lacks exp"},
		"exp a string":              {claims: m{"exp": "4102444800"}, text: "not a JWT"},
		"exp zero":                  {claims: m{"exp": 0}, text: "expired"},
		"exp negative":              {claims: m{"exp": -1}, text: "exp is out of range"},
		"exp beyond all time":       {claims: m{"exp": 1e300}, text: "exp is out of range"},
		"nbf in future":             {claims: m{"nbf": at(Leeway + time.Second)}, text: "not valid yet"},
		"nbf beyond all time":       {claims: m{"nbf": 1e19}, text: "nbf is out of range"},
		"nbf a string":              {claims: m{"nbf": "now"}, text: "not a JWT"},
		"wrong aud":                 {claims: m{"aud": "other"}, text: "another audience"},
		"wrong auds":                {claims: m{"aud": []string{"other", "tallymq2"}}, text: "another audience"},
		"aud empty":                 {claims: m{"aud": []string{}}, text: "lacks"},
		"aud of numbers":            {claims: m{"aud": []int{1}}, text: "not a JWT"},
		"aud missing":               {claims: m{"aud": nil}, text: "lacks"},
		"wrong iss":                 {claims: m{"iss": testIssuer + "/"}, text: "another issuer"},
		"iss missing":               {claims: m{"iss": nil}, text: "lacks"},
		"sub missing":               {claims: m{"sub": nil}, text: "sub must"},
		"sub empty":                 {claims: m{"sub": ""}, text: "sub must"},
		"sub a number":              {claims: m{"sub": 7}, text: "not a JWT"},
		"sub too long":              {claims: m{"sub": strings.Repeat("x", SubjectMax+1)}, text: "sub must"},
		"sub with NUL":              {claims: m{"sub": "a\x00b"}, text: "sub must"},
		"sub with a line end":       {claims: m{"sub": "a\nb"}, text: "sub must"},
		"tenant_id missing":         {claims: m{"tenant_id": nil}, text: "tenant_id must"},
		"tenant_id upper case":      {claims: m{"tenant_id": strings.ToUpper(testTenant)}, text: "tenant_id must"},
		"tenant_id without hyphens": {claims: m{"tenant_id": strings.ReplaceAll(testTenant, "-", "")}, text: "tenant_id must"},
		"tenant_id in braces":       {claims: m{"tenant_id": "{" + testTenant + "}"}, text: "tenant_id must"},
		"tenant_id a URN":           {claims: m{"tenant_id": "urn:uuid:" + testTenant}, text: "tenant_id must"},
		"tenant_id with a space":    {claims: m{"tenant_id": testTenant + " "}, text: "tenant_id must"},
		"tenant_id nil UUID":        {claims: m{"tenant_id": "00000000-0000-0000-0000-000000000000"}, text: "tenant_id must"},
		"tenant_id SQL":             {claims: m{"tenant_id": "' or 1=1 --"}, text: "tenant_id must"},
		"tenant_id an array":        {claims: m{"tenant_id": []string{testTenant}}, text: "not a JWT"},
		"scope missing":             {claims: m{"scope": nil}, text: "scope is missing"},
		"scope an array":            {claims: m{"scope": []string{ScopeAdmin}}, text: "not a JWT"},
		"kid missing":               {header: m{"kid": nil}, text: "kid"},
		"kid empty":                 {header: m{"kid": ""}, text: "kid"},
		"kid a number":              {header: m{"kid": 1}, text: "kid"},
		"kid too long":              {header: m{"kid": strings.Repeat("k", KeyIDBytesMax+1)}, text: "kid"},
		"kid unknown":               {header: m{"kid": "who-is-this"}, text: "not known"},
		"kid a path":                {header: m{"kid": "../../dev/null"}, text: "not known"},
		"crit":                      {header: m{"crit": []string{"exp"}}, text: "crit"},
		"crit empty":                {header: m{"crit": []string{}}, text: "crit"},
		"crit b64":                  {header: m{"crit": []string{"b64"}, "b64": false}, text: "crit"},
		"alg missing":               {header: m{"alg": nil}, text: "algorithm"},
		"alg none in name":          {header: m{"alg": "none"}, text: "algorithm"},
		"alg nOnE":                  {header: m{"alg": "nOnE"}, text: "algorithm"},
		"alg in lower case":         {header: m{"alg": "rs256"}, text: "algorithm"},
		"alg a number":              {header: m{"alg": 256}, text: "algorithm"},
		"alg of a longer hash":      {header: m{"alg": "RS512"}, text: "algorithm"},
		"alg PSS":                   {header: m{"alg": "PS256"}, text: "algorithm"},
		"embedded key, kid unknown": {header: m{"kid": "evil", "jwk": signer{"evil", jwt.SigningMethodEdDSA, edOther}.jwk(nil)}, text: "not known"},
		"longer than allowed":       {claims: m{"pad": strings.Repeat("x", TokenBytesMax)}, text: "longer than 8192 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 0)
			for _, s := range signers {
				for range 2 { // a bad one is not remembered as good
					b.requireError(t, s.token(tc.header, tc.claims), ErrInvalid, tc.text)
				}
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	require.NoError(t, err)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	none := func(kid string) string {
		token := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(goodClaims()))
		token.Header["kid"] = kid
		signed, err := token.SignedString(jwt.UnsafeAllowNoneSignatureType)
		require.NoError(t, err)
		return signed
	}
	for _, secret := range [][]byte{public, der, []byte("secret"), rsaKey.N.Bytes()} {
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(goodClaims()))
		token.Header["kid"] = "rsa-1"
		signed, err := token.SignedString(secret)
		require.NoError(t, err)
		b.requireError(t, signed, ErrInvalid, "algorithm")
	}
	for _, s := range signers {
		good := s.token(nil, nil)
		parts := strings.Split(good, ".")
		unsigned := parts[0] + "." + parts[1] + "."
		b.requireError(t, none(s.kid), ErrInvalid, "algorithm")
		b.requireError(t, signer{s.kid, s.method, s.other}.token(nil, nil), ErrInvalid, "signature")
		b.requireError(t, unsigned, ErrInvalid, "signature")
		b.requireError(t, unsigned+strings.Repeat("A", 86), ErrInvalid, "signature")
		for _, o := range signers {
			if o.kid != s.kid {
				b.requireError(t, o.token(map[string]any{"kid": s.kid}, nil), ErrInvalid, "its key's")
				other := strings.Split(o.token(nil, nil), ".")
				b.requireError(t, parts[0]+"."+other[1]+"."+other[2], ErrInvalid, "signature")
			}
		}
		changed := strings.Split(s.token(nil, map[string]any{"scope": ScopeAdmin}), ".")
		b.requireError(t, parts[0]+"."+changed[1]+"."+parts[2], ErrInvalid, "signature")
	}
}

func TestMalformedTokens(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	s := signers[1].signer
	good := s.token(nil, nil)
	b.requireGood(t, good)
	header, claims := `{"alg":"ES256","kid":"ec-1"}`, `{"iss":"https://auth.test","aud":"tallymq","sub":"s","tenant_id":"`+testTenant+`","scope":"","exp":4102444800`
	b.requireGood(t, s.raw(header, claims+"}"))
	for name, token := range map[string]string{
		"empty": "", "dots": "..", "more dots": "....", "one part": "abc", "bearer": "Bearer " + good,
		"four parts": good + ".x", "padded": good + "=", "line end": good + "\n", "space": " " + good,
		"not base64": "!!!." + good, "standard base64": strings.ReplaceAll(good, ".", "+/."),
		"NUL": "\x00", "not UTF-8": "\xff.\xff.\xff",
		"header no JSON": s.raw("{", claims+"}"), "header null": s.raw("null", claims+"}"), "header array": s.raw("[]", claims+"}"),
		"claims null": s.raw(header, "null"), "claims array": s.raw(header, "[]"), "claims string": s.raw(header, `"x"`),
		"claims empty": s.raw(header, ""), "claims object empty": s.raw(header, "{}"),
		"claims cut": s.raw(header, claims), "claims and more": s.raw(header, claims+"}{}"),
		"claim twice": s.raw(header, claims+`,"sub":"admin"}`), "claims not UTF-8": s.raw(header, claims+",\"x\":\"\xff\"}"),
		"claim in other case": s.raw(header, strings.Replace(claims, `"sub"`, `"Sub"`, 1)+"}"),
		"exp null":            s.raw(header, strings.Replace(claims, "4102444800", "null", 1)+"}"),
		"exp past float":      s.raw(header, strings.Replace(claims, "4102444800", "1e400", 1)+"}"),
		"deep":                s.raw(header, strings.Repeat("[", 5000)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.requireError(t, token, ErrInvalid, "")
		})
	}
}

// One token is not taken in two writings.
func TestSignatureBitsAreStrict(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	good := signers[1].token(nil, nil) // 64 bytes: the last of 86 letters has 4 unused bits
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(letters, good[len(good)-1])
	b.requireError(t, good[:len(good)-1]+letters[last+1:last+2], ErrInvalid, "not a JWT")
	b.requireGood(t, good)
}

func TestTokenSizeLimit(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	s := signers[2].signer
	sized := func(n int) string { return s.token(nil, map[string]any{"pad": strings.Repeat("x", n)}) }
	// Three bytes of claims are four of the token.
	n := (TokenBytesMax - len(sized(0))) / 4 * 3
	for len(sized(n)) <= TokenBytesMax {
		n++
	}
	b.requireGood(t, sized(n-1))
	b.requireError(t, sized(n), ErrInvalid, "longer")
}

func TestIssuerAndAudienceAreOptional(t *testing.T) {
	t.Parallel()
	service := newAuthService(t, signers[2].jwk(nil))
	v := New(Config{URL: service.url, Now: newClock().now})
	for _, claims := range []map[string]any{{}, {"iss": "x", "aud": "y"}, {"iss": nil, "aud": nil}} {
		_, err := v.Verify(t.Context(), signers[2].token(nil, maps.Clone(claims)))
		require.NoError(t, err)
	}
}
