package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	testIssuer   = "https://auth.test"
	testAudience = "tallymq"
	testTenant   = "6f1c2d3e-4a5b-4c6d-8e7f-0a1b2c3d4e5f"
)

var testNow = time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)

// signer is a key of the auth service.
type signer struct {
	kid     string
	method  jwt.SigningMethod
	private crypto.Signer
}

// Making RSA keys is slow, and tests do not change them.
var (
	rsaKey, rsaOther, rsaWeak = newRSA(2048), newRSA(2048), newRSA(1024)
	ecKey, ecOther            = newEC(elliptic.P256()), newEC(elliptic.P256())
	ec384                     = newEC(elliptic.P384())
	edKey, edOther            = newEd(), newEd()
)

func newRSA(bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

func newEC(c elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func newEd() ed25519.PrivateKey {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// signers are one good key per algorithm, and another of its kind that is nobody's.
var signers = []struct {
	signer

	other crypto.Signer
}{
	{signer{"rsa-1", jwt.SigningMethodRS256, rsaKey}, rsaOther},
	{signer{"ec-1", jwt.SigningMethodES256, ecKey}, ecOther},
	{signer{"ed-1", jwt.SigningMethodEdDSA, edKey}, edOther},
}

// jwk is the key as the auth service publishes it, with members changed.
func (s signer) jwk(changes map[string]any) map[string]any {
	k, err := jwkset.NewJWKFromKey(s.private.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{
		KID: s.kid, USE: jwkset.UseSig, ALG: jwkset.ALG(s.method.Alg()),
	}})
	if err != nil {
		panic(err)
	}
	data, err := json.Marshal(k.Marshal())
	if err != nil {
		panic(err)
	}
	var members map[string]any
	if err := json.Unmarshal(data, &members); err != nil {
		panic(err)
	}
	return change(members, changes)
}

// change sets members, and takes those away whose value is nil.
func change(members, changes map[string]any) map[string]any {
	out := maps.Clone(members)
	for name, value := range changes {
		if out[name] = value; value == nil {
			delete(out, name)
		}
	}
	return out
}

func goodClaims() map[string]any {
	return map[string]any{
		"iss": testIssuer, "aud": testAudience, "sub": "orders", "tenant_id": testTenant,
		"scope": "mq:publish mq:read", "exp": testNow.Add(time.Hour).Unix(),
	}
}

// token signs a good token with changes to header and claims.
func (s signer) token(header, claims map[string]any) string {
	t := jwt.NewWithClaims(s.method, jwt.MapClaims(change(goodClaims(), claims)))
	t.Header = change(map[string]any{"typ": "JWT", "alg": s.method.Alg(), "kid": s.kid}, header)
	signed, err := t.SignedString(s.private)
	if err != nil {
		panic(err)
	}
	return signed
}

// raw signs a payload that no encoder would write.
func (s signer) raw(header, payload string) string {
	t := &jwt.Token{}
	text := t.EncodeSegment([]byte(header)) + "." + t.EncodeSegment([]byte(payload))
	sig, err := s.method.Sign(text, s.private)
	if err != nil {
		panic(err)
	}
	return text + "." + t.EncodeSegment(sig)
}
