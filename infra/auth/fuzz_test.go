package auth

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzVerify: whatever is sent is refused as the caller's fault, without a panic and
// without quoting it; only what a key signed is taken.
func FuzzVerify(f *testing.F) {
	b := setup(f, 0)
	good := map[string]bool{}
	for _, s := range signers {
		token := s.token(nil, nil)
		good[token] = true
		f.Add(token)
		f.Add(s.token(map[string]any{"crit": []string{"x"}}, nil))
		f.Add(s.token(nil, map[string]any{"exp": 1e300, "aud": []any{nil, 1}}))
		f.Add(s.raw(`{"alg":"none"}`, "null"))
	}
	f.Add("")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		_, err := b.Verify(t.Context(), token)
		if good[token] {
			require.NoError(t, err)
			return
		}
		require.ErrorIs(t, err, ErrInvalid)
		for part := range strings.SplitSeq(token, ".") {
			if len(part) > 60 {
				require.NotContains(t, err.Error(), part)
			}
		}
	})
}

// FuzzClaims: what claims say of a caller keeps its promises, whoever signed them.
func FuzzClaims(f *testing.F) {
	b := setup(f, 0)
	f.Add(`{"iss":"https://auth.test","aud":["tallymq"],"sub":"s","tenant_id":"` + testTenant + `","scope":"mq:read x","exp":4102444800,"nbf":1}`)
	f.Add(`null`)
	f.Add(`{"exp":"1","aud":{}}`)
	f.Fuzz(func(t *testing.T, payload string) {
		c, err := b.Verify(t.Context(), signers[2].raw(`{"alg":"EdDSA","kid":"ed-1"}`, payload))
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		require.Len(t, c.TenantID, 36)
		require.NotEmpty(t, c.Subject)
		require.LessOrEqual(t, len(c.Scopes), 4)
		require.True(t, c.ExpiresAt.After(testNow.Add(-Leeway)))
	})
}

// FuzzParseSet: an answer of the auth service is taken with at least one key, or not.
func FuzzParseSet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"k","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","kid":"k","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, ignored, err := parseSet(data)
		require.Equal(t, err == nil, set != nil)
		require.LessOrEqual(t, len(ignored), KeysMax)
		if err != nil {
			require.False(t, errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnavailable))
			return
		}
		require.NotEmpty(t, set.keys)
	})
}
