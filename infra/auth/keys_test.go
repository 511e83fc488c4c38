package auth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

func TestParseSet(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	rsa1, ec1, ed1 := signers[0].signer, signers[1].signer, signers[2].signer
	b64 := base64.RawURLEncoding.EncodeToString
	for name, tc := range map[string]struct {
		key     m
		ignored string // empty: taken
	}{
		"RSA":                       {key: rsa1.jwk(nil)},
		"EC":                        {key: ec1.jwk(nil)},
		"Ed25519":                   {key: ed1.jwk(nil)},
		"without alg and use":       {key: ec1.jwk(m{"alg": nil, "use": nil})},
		"with key_ops":              {key: ec1.jwk(m{"key_ops": []string{"verify"}})},
		"with certificates unread":  {key: rsa1.jwk(m{"x5c": []string{"rubbish"}, "x5u": "http://127.0.0.1:1", "x5t": "x"})},
		"with members unknown":      {key: rsa1.jwk(m{"status": "current"})},
		"longest kid":               {key: ec1.jwk(m{"kid": strings.Repeat("k", KeyIDBytesMax)})},
		"RSA of 8192 bits":          {key: rsa1.jwk(m{"n": b64([]byte(strings.Repeat("\xff", RSABitsMax/8)))})},
		"for encryption":            {key: rsa1.jwk(m{"use": "enc"}), ignored: "not for signatures"},
		"for signing only":          {key: ec1.jwk(m{"key_ops": []string{"sign"}}), ignored: "not for signatures"},
		"for nothing":               {key: ec1.jwk(m{"key_ops": []string{}}), ignored: "not for signatures"},
		"use a number":              {key: ec1.jwk(m{"use": 1}), ignored: "not a JWK"},
		"RS512":                     {key: rsa1.jwk(m{"alg": "RS512"}), ignored: "another algorithm"},
		"PS256":                     {key: rsa1.jwk(m{"alg": "PS256"}), ignored: "another algorithm"},
		"RSA that says HS256":       {key: rsa1.jwk(m{"alg": "HS256"}), ignored: "another algorithm"},
		"RSA that says ES256":       {key: rsa1.jwk(m{"alg": "ES256"}), ignored: "another algorithm"},
		"RSA of 1024 bits":          {key: signer{"k", jwt.SigningMethodRS256, rsaWeak}.jwk(nil), ignored: "1024 bits; allowed: 2048"},
		"RSA of 8200 bits":          {key: rsa1.jwk(m{"n": b64([]byte(strings.Repeat("\xff", 1025)))}), ignored: "8200 bits"},
		"RSA with even modulus":     {key: rsa1.jwk(m{"n": b64([]byte(strings.Repeat("\xfe", 256)))}), ignored: "no sound"},
		"RSA with exponent 1":       {key: rsa1.jwk(m{"e": "AQ"}), ignored: "broken"},
		"RSA with exponent 2":       {key: rsa1.jwk(m{"e": "Ag"}), ignored: "no sound"},
		"RSA with wrapped exponent": {key: rsa1.jwk(m{"e": b64([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1})}), ignored: "broken"},
		"RSA without modulus":       {key: rsa1.jwk(m{"n": nil}), ignored: "broken"},
		"P-384":                     {key: signer{"k", jwt.SigningMethodES384, ec384}.jwk(nil), ignored: "not P-256"},
		"P-384 that says ES256":     {key: signer{"k", jwt.SigningMethodES384, ec384}.jwk(m{"alg": "ES256"}), ignored: "not P-256"},
		"point off the curve":       {key: ec1.jwk(m{"x": b64([]byte(strings.Repeat("\x01", 32)))}), ignored: "broken"},
		"unknown curve":             {key: ec1.jwk(m{"crv": "secp256k1"}), ignored: "broken"},
		"X25519":                    {key: ed1.jwk(m{"crv": "X25519", "alg": nil}), ignored: "not for signatures"},
		"Ed25519 too short":         {key: ed1.jwk(m{"x": "AAAA"}), ignored: "broken"},
		"secret":                    {key: m{"kty": "oct", "kid": "k", "k": "c2VjcmV0"}, ignored: "not public"},
		"private":                   {key: ec1.jwk(m{"d": "AAAA"}), ignored: "not public"},
		"unknown kind":              {key: m{"kty": "AKP", "kid": "k"}, ignored: "not known"},
		"no kid":                    {key: ec1.jwk(m{"kid": nil}), ignored: "kid must"},
		"kid too long":              {key: ec1.jwk(m{"kid": strings.Repeat("k", KeyIDBytesMax+1)}), ignored: "kid must"},
		"empty":                     {key: m{}, ignored: "kid must"},
		"kid of another":            {key: ec1.jwk(m{"kid": "good"}), ignored: "another's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// One key that is left out does not spoil the others.
			good := signer{"good", jwt.SigningMethodEdDSA, edOther}.jwk(nil)
			data, err := json.Marshal(m{"keys": []m{good, tc.key}})
			require.NoError(t, err)
			set, ignored, err := parseSet(data)
			require.NoError(t, err)
			require.Contains(t, set.keys, "good")
			require.True(t, set.keys["good"].public.Equal(edOther.Public()))
			if tc.ignored == "" {
				require.Empty(t, ignored)
				require.Len(t, set.keys, 2)
				return
			}
			require.Len(t, set.keys, 1)
			require.Len(t, ignored, 1)
			require.ErrorContains(t, fmt.Errorf("%s", ignored[0]), tc.ignored)
		})
	}
}

func TestParseSetRefusesWholeSets(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"nothing": "", "HTML": "<html>", "null": "null", "array": "[]", "string": `"x"`, "number": "1", "empty object": "{}",
		"no keys": `{"keys":[]}`, "keys null": `{"keys":null}`, "keys an object": `{"keys":{}}`, "keys of null": `{"keys":[null,1,"x",[]]}`,
		"cut": `{"keys":[`, "twice": `{"keys":[],"keys":[]}`, "more behind": `{"keys":[]}{}`, "not UTF-8": "{\"\xff\":1}",
		"deep": strings.Repeat("[", 100_000), "only unusable": `{"keys":[{"kty":"oct","kid":"k","k":"AA"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, _, err := parseSet([]byte(body))
			require.Error(t, err)
			require.Nil(t, set)
			require.Less(t, len(err.Error()), 500)
		})
	}
}

func TestKeysLimit(t *testing.T) {
	t.Parallel()
	of := func(n int) []byte {
		var keys []map[string]any
		for i := range n {
			keys = append(keys, signer{fmt.Sprint(i), jwt.SigningMethodEdDSA, edKey}.jwk(nil))
		}
		data, err := json.Marshal(map[string]any{"keys": keys})
		require.NoError(t, err)
		return data
	}
	set, ignored, err := parseSet(of(KeysMax))
	require.NoError(t, err)
	require.Empty(t, ignored)
	require.Len(t, set.keys, KeysMax)
	_, _, err = parseSet(of(KeysMax + 1))
	require.ErrorContains(t, err, "101 keys; allowed: 100")
}
