package commands

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

var testTokens = tokens{key: []byte("a key that is the same on every instance")}

func deliveries() []delivery {
	return []delivery{
		{SubscriptionID: subscriptionID, MessageID: messageID, Lease: events.Lease{Stream: 3, EntryID: "0-1234"}, Partition: 3, Offset: 1233, Attempt: 1, LeasedAtMs: 1767323045006},
		{SubscriptionID: subscriptionID, MessageID: messageID, Lease: events.Lease{Stream: events.StreamRetry, EntryID: "1767323045006-0"}, Partition: 63, Offset: math.MaxInt64, Attempt: 1001, LeasedAtMs: math.MaxInt64},
		{SubscriptionID: "00000000-0000-0000-0000-000000000000", MessageID: "ffffffff-ffff-ffff-ffff-ffffffffffff", Lease: events.Lease{EntryID: "9223372036854775807-9223372036854775807"}},
	}
}

func TestTokensOpenToWhatWasSealed(t *testing.T) {
	t.Parallel()
	for _, d := range deliveries() {
		token := testTokens.seal(d)
		require.LessOrEqual(t, len(token), tokenCharsMax)
		got, err := testTokens.open(token)
		require.NoError(t, err)
		require.Equal(t, d, got)
	}
}

func TestTokensThatAreNotOurs(t *testing.T) {
	t.Parallel()
	token := testTokens.seal(deliveries()[0])
	raw, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(t, err)
	refused := func(name, token string) {
		t.Helper()
		d, err := testTokens.open(token)
		require.ErrorIs(t, err, errToken, name)
		require.Equal(t, delivery{}, d, name)
	}
	for n := range len(token) {
		refused("cut", token[:n])
	}
	for i := range raw {
		for _, bit := range []byte{1, 0x80} {
			forged := append([]byte{}, raw...)
			forged[i] ^= bit
			refused("changed", base64.RawURLEncoding.EncodeToString(forged))
		}
	}
	refused("longer", token+"AA")
	refused("padded", token+"=")
	refused("with a line break", token[:8]+"\n"+token[8:])
	refused("in the other alphabet", strings.NewReplacer("-", "+", "_", "/").Replace(testTokens.seal(deliveries()[2])))
	refused("endless", strings.Repeat("A", 1<<20))
	refused("another key's", tokens{key: []byte("another key")}.seal(deliveries()[0]))
	refused("unsigned", base64.RawURLEncoding.EncodeToString(make([]byte, 60)))
	refused("no base64", "ä")
}

// Every field is under the signature: two deliveries never share a token.
func TestTokensNameOneDelivery(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, change := range []func(*delivery){
		func(*delivery) {},
		func(d *delivery) { d.SubscriptionID = messageID },
		func(d *delivery) { d.MessageID = subscriptionID },
		func(d *delivery) { d.Lease.Stream = events.StreamRetry },
		func(d *delivery) { d.Lease.EntryID = "0-1235" },
		func(d *delivery) { d.Lease.EntryID = "1-1234" },
		func(d *delivery) { d.Partition++ },
		func(d *delivery) { d.Offset++ },
		func(d *delivery) { d.Attempt++ },
		func(d *delivery) { d.LeasedAtMs++ },
	} {
		d := deliveries()[0]
		change(&d)
		token := testTokens.seal(d)
		require.False(t, seen[token])
		seen[token] = true
	}
}

// FuzzOpenToken: no token panics, and none is accepted that was not sealed with the
// key: what opens must seal to the very same token.
func FuzzOpenToken(f *testing.F) {
	for _, d := range deliveries() {
		f.Add(testTokens.seal(d))
		f.Add(tokens{key: []byte("another key")}.seal(d))
	}
	f.Add("")
	f.Add(strings.Repeat("A", tokenCharsMax))
	f.Add(base64.RawURLEncoding.EncodeToString(append([]byte{tokenVersion}, make([]byte, 100)...)))
	sealed := map[string]bool{}
	for _, d := range deliveries() {
		sealed[testTokens.seal(d)] = true
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := testTokens.open(token); err == nil {
			require.True(t, sealed[token], "forged: %s", token)
		}
	})
}
