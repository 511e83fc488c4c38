package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// SecretsMax bounds the secrets one delivery is signed with.
	SecretsMax = 4
	// SecretBytesMin is the least of a secret's key (Standard Webhooks, "Signature
	// scheme").
	SecretBytesMin = 24
	// SecretBytesMax is the most.
	SecretBytesMax = 64

	secretPrefix = "whsec_"
)

// Secret is an endpoint's secret, derived from a key and what tells the endpoint and its
// secret's version from others: the same for the same, 32 bytes.
func Secret(key []byte, info string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("tallymq webhook secret\x00" + info))
	return secretPrefix + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// sign is the webhook-signature header: a signature for each secret.
func sign(secrets []string, id string, now time.Time, body []byte) (string, error) {
	if len(secrets) > SecretsMax {
		return "", &failure{"the endpoint has too many secrets", ErrRequest}
	}
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		key, err := decodeSecret(secret)
		if err != nil {
			return "", &failure{"the endpoint's secret is not valid", errors.Join(ErrRequest, err)}
		}
		signer, err := standardwebhooks.NewWebhookRaw(key)
		if err == nil {
			signatures[i], err = signer.Sign(id, now, body)
		}
		if err != nil {
			return "", &failure{"the delivery could not be signed", errors.Join(ErrRequest, err)}
		}
	}
	return strings.Join(signatures, " "), nil
}

// decodeSecret is a secret's key. Its errors do not repeat it.
func decodeSecret(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return nil, errors.New("a secret begins with " + secretPrefix)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("a secret is base64 after its prefix")
	}
	if len(key) < SecretBytesMin || len(key) > SecretBytesMax {
		return nil, errors.New("a secret has 24 to 64 bytes")
	}
	return key, nil
}
