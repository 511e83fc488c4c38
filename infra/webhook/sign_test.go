package webhook

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSecret_isTheSameForTheSame(t *testing.T) {
	t.Parallel()
	secret := Secret([]byte("key"), "endpoint/1")
	// printf 'tallymq webhook secret\0endpoint/1' | openssl dgst -sha256 -hmac key -binary | base64
	require.Equal(t, "whsec_dwG78zhdwTwv8+n57SLg5nzq/e2wTDbsBTFi4JXYRyo=", secret)
	require.NotEqual(t, secret, Secret([]byte("key"), "endpoint/2"))
	require.NotEqual(t, secret, Secret([]byte("kez"), "endpoint/1"))
	key, err := decodeSecret(secret)
	require.NoError(t, err)
	require.Len(t, key, 32)
}

func TestSign_asTheSpecificationDoes(t *testing.T) {
	t.Parallel()
	// The example of the Standard Webhooks libraries' own tests.
	got, err := sign([]string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	require.NoError(t, err)
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", got)
}

func TestDecodeSecret_bounds(t *testing.T) {
	t.Parallel()
	for size, ok := range map[int]bool{0: false, SecretBytesMin - 1: false, SecretBytesMin: true, SecretBytesMax: true, SecretBytesMax + 1: false} {
		key, err := decodeSecret(secretPrefix + base64.StdEncoding.EncodeToString(make([]byte, size)))
		require.Equal(t, ok, err == nil, size)
		if ok {
			require.Len(t, key, size)
		}
	}
}
