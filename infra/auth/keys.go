package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of keys.
const (
	// KeysMax bounds a set; a larger one is refused whole.
	KeysMax = 100
	// RSABitsMin and RSABitsMax bound an RSA key: below it is weak, above it makes
	// each check dear.
	RSABitsMin = 2048
	RSABitsMax = 8192
)

// key is a public key and the one algorithm that it is for.
type key struct {
	alg    string
	public interface {
		Equal(other crypto.PublicKey) bool
	}
}

// keySet is what the auth service publishes at one time, and the tokens found good
// by it: they are forgotten with it. It is not changed; nil is no set yet.
type keySet struct {
	keys map[string]key
	good cache
}

func (s *keySet) find(kid string) (key, bool) {
	if s == nil {
		return key{}, false
	}
	k, ok := s.keys[kid]
	return k, ok
}

func (s *keySet) recall(digest [sha256.Size]byte, now time.Time) (Claims, bool) {
	if s == nil {
		return Claims{}, false
	}
	return s.good.recall(digest, now)
}

func (s *keySet) remember(digest [sha256.Size]byte, claims Claims) { s.good.remember(digest, claims) }

func (s *keySet) equal(other *keySet) bool {
	return s != nil && maps.EqualFunc(s.keys, other.keys, func(a, b key) bool { return a.alg == b.alg && a.public.Equal(b.public) })
}

// parseSet reads a JWK set. Keys that are not for us, or that we do not trust, are
// left out, and why is in ignored. A set without one key that can be used is an
// error: to take it would lock everybody out.
func parseSet(data []byte) (set *keySet, ignored []string, err error) {
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		// The decoder's error may quote the answer, at any length.
		return nil, nil, errors.New("the answer is not a JWK set in JSON")
	}
	if len(doc.Keys) > KeysMax {
		return nil, nil, fmt.Errorf("the set has %d keys; allowed: %d", len(doc.Keys), KeysMax)
	}
	set = &keySet{keys: make(map[string]key, len(doc.Keys))}
	for i, raw := range doc.Keys {
		kid, k, err := parseKey(raw)
		if _, twice := set.keys[kid]; err == nil && twice {
			err = errors.New("its kid is another's")
		}
		if err != nil {
			ignored = append(ignored, fmt.Sprintf("key %d: %v", i, err))
			continue
		}
		set.keys[kid] = k
	}
	switch {
	case len(doc.Keys) == 0:
		return nil, nil, errors.New("the set has no keys")
	case len(set.keys) == 0:
		return nil, ignored, fmt.Errorf("none of the set's %d keys can be used: %s", len(ignored), ignored[0])
	}
	return set, ignored, nil
}

// jwk is what is read of a key; certificates and links to them are not.
type jwk struct {
	KeyType  jwkset.KTY     `json:"kty"`
	KeyID    string         `json:"kid"`
	Use      string         `json:"use"`
	Ops      []string       `json:"key_ops"` //nolint:tagliatelle // RFC 7517
	Alg      string         `json:"alg"`
	Curve    jwkset.CRV     `json:"crv"`
	N        string         `json:"n"`
	E        string         `json:"e"`
	X        string         `json:"x"`
	Y        string         `json:"y"`
	Private  jsontext.Value `json:"d"`
	Symmetry jsontext.Value `json:"k"`
}

// parseKey's errors hold nothing of the key.
func parseKey(raw []byte) (kid string, k key, err error) {
	var j jwk
	if err := json.Unmarshal(raw, &j); err != nil {
		return "", key{}, errors.New("it is not a JWK")
	}
	switch {
	case j.KeyID == "" || len(j.KeyID) > KeyIDBytesMax:
		return "", key{}, fmt.Errorf("its kid must be 1 to %d bytes", KeyIDBytesMax)
	case j.Private != nil || j.Symmetry != nil:
		return "", key{}, errors.New("it is not public")
	case j.Use != "" && j.Use != "sig", j.Ops != nil && !slices.Contains(j.Ops, "verify"):
		return "", key{}, errors.New("it is not for signatures")
	}
	parsed, err := jwkset.NewJWKFromMarshal(
		jwkset.JWKMarshal{KTY: j.KeyType, CRV: j.Curve, N: j.N, E: j.E, X: j.X, Y: j.Y},
		jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return "", key{}, errors.New("it is of a kind that is not known, or broken")
	}
	if k, err = usable(parsed.Key()); err != nil {
		return "", key{}, err
	}
	if j.Alg != "" && j.Alg != k.alg {
		return "", key{}, errors.New("it is for another algorithm")
	}
	return j.KeyID, k, nil
}

// usable says which algorithm a key is for.
func usable(public any) (key, error) {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < RSABitsMin || bits > RSABitsMax {
			return key{}, fmt.Errorf("it has %d bits; allowed: %d to %d", bits, RSABitsMin, RSABitsMax)
		}
		if public.E < 3 || public.E%2 == 0 || public.N.Bit(0) == 0 {
			return key{}, errors.New("it is no sound RSA key")
		}
		return key{alg: algRS256, public: public}, nil
	case *ecdsa.PublicKey:
		// The signature check does not ask for the curve.
		if public.Curve != elliptic.P256() {
			return key{}, errors.New("its curve is not P-256")
		}
		return key{alg: algES256, public: public}, nil
	case ed25519.PublicKey:
		return key{alg: algEdDSA, public: public}, nil
	}
	return key{}, errors.New("it is not for signatures")
}
