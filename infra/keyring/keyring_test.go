package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPayloadsComeBackByteForByte(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	reader := b.keyring(k.masters)
	large := make([]byte, 1<<20)
	_, _ = rand.Read(large)
	for _, payload := range [][]byte{
		{},
		{0},
		[]byte(`null`), []byte(`{"a": 1,  "a":2, "ü":"\u0000"}`), []byte("\xff\x00\xfe"),
		[]byte(`"mqenc1:x"`), testPayload, large, bytes.Repeat([]byte("x"), scratchBytesMax),
	} {
		sealed := seal(t, k, testBinding, payload)
		require.Len(t, sealed, SealedSize(len(payload)))
		require.True(t, IsSealed(sealed))
		require.False(t, len(payload) > 7 && bytes.Contains(sealed, payload))
		requireOpens(t, k, testBinding, sealed, payload)
		requireOpens(t, reader, testBinding, sealed, payload)

		// the form needs no escapes, and jsonb gives it back
		var text string
		require.NoError(t, json.Unmarshal(sealed, &text))
		require.Equal(t, string(sealed), `"`+text+`"`)
		var stored []byte
		require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT $1::jsonb::text`, string(sealed)).Scan(&stored))
		require.True(t, bytes.Equal(sealed, stored))

		require.NotEqual(t, sealed, seal(t, k, testBinding, payload))
	}
}

func TestAPayloadOpensOnlyWhereItWasSealed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	sealed := seal(t, k, testBinding, testPayload)
	other := testBinding
	other.TenantID = tenantB
	theirs := seal(t, k, other, testPayload)

	requireFails(t, k, other, sealed, ErrUnknownKey) // the key is another tenant's
	body := bytes.Join([][]byte{theirs[:head], sealed[head:]}, nil)
	requireFails(t, k, other, body, ErrTampered)
	for _, wrong := range []Binding{
		{tenantA, testBinding.TopicID + "x", "m-1"},
		{tenantA, testBinding.TopicID, "m-2"},
		{tenantA, "m-1", testBinding.TopicID},
		{tenantA, testBinding.TopicID + "m", "-1"}, // the same, put together
	} {
		requireFails(t, k, wrong, sealed, ErrTampered)
	}
	for _, none := range []Binding{{"", "q", "m"}, {tenantA, "", "m"}, {tenantA, "q", ""}, {strings.ToUpper(tenantA), "q", "m"}, {"a tenant", "q", "m"}} {
		_, err := k.Seal(t.Context(), none, testPayload)
		require.Error(t, err)
		_, err = k.Open(t.Context(), none, sealed)
		require.Error(t, err)
	}
	require.Equal(t, 2, b.count(t, `SELECT count(*) FROM tenant_keys`))
}

func TestEveryBitOfASealedPayloadMatters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	for size := range 4 { // each length that base64 ends in
		sealed := seal(t, k, testBinding, testPayload[:size])
		for i := range sealed {
			for bit := range 8 {
				changed := bytes.Clone(sealed)
				changed[i] ^= 1 << bit
				_, err := k.Open(t.Context(), testBinding, changed)
				inID := i >= len(opening) && i < head-1
				require.True(t, errors.Is(err, ErrTampered) || inID && errors.Is(err, ErrUnknownKey), "byte %d, bit %d: %v", i, bit, err)
			}
		}
		for n := range sealed {
			requireFails(t, k, testBinding, sealed[:n], ErrTampered)
			if n < len(sealed)-1 {
				requireFails(t, k, testBinding, append(bytes.Clone(sealed[:n]), '"'), ErrTampered)
			}
			requireFails(t, k, testBinding, sealed[n+1:], ErrTampered)
		}
		for _, more := range []string{" ", "\n", "A", `"`, "="} {
			requireFails(t, k, testBinding, append(bytes.Clone(sealed), more...), ErrTampered)
			inside := append(bytes.Clone(sealed[:len(sealed)-1]), more+`"`...)
			requireFails(t, k, testBinding, inside, ErrTampered)
		}
	}
}

func TestIsSealedTellsTheFormExactly(t *testing.T) {
	t.Parallel()
	id, body := strings.Repeat("A", keyIDChars), strings.Repeat("A", 59) // the least: 44 bytes
	require.True(t, IsSealed([]byte(`"mqenc1:`+id+`:`+body+`"`)))
	for _, wrong := range []string{
		``, `"`, `""`, `null`, `"mqenc1"`, `"mqenc1:` + id + `:"`,
		`"mqenc2:` + id + `:` + body + `"`, `"MQENC1:` + id + `:` + body + `"`,
		`"mqenc1:` + id + `:` + body[1:] + `"`, `"mqenc1:` + id + `:` + body + `AA"`,
		`"mqenc1:` + id + `:` + body[1:] + `B"`, `"mqenc1:` + id[1:] + `B:` + body + `"`,
		`"mqenc1:` + id + `;` + body + `"`, `"mqenc1:` + id[1:] + `:` + body + `"`,
		`"mqenc1:` + id + `:` + body[1:] + `+"`, `"mqenc1:` + id + `:` + body[1:] + `="`,
		`"mqenc1:` + id + `:` + body, `mqenc1:` + id + `:` + body, ` "mqenc1:` + id + `:` + body + `"`,
		`"mqenc1:` + id + `:` + body[1:] + "\n" + `"`,
	} {
		require.False(t, IsSealed([]byte(wrong)), wrong)
	}
}

func TestManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	k := b.keyring(masters(t, masterEntry("k")))
	k.sealsMax = 7
	reader := b.keyring(k.masters)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 50 {
				bound := Binding{TenantID: tenantA, TopicID: "q", MessageID: fmt.Sprint(g, "-", i)}
				if g%2 == 0 {
					bound.TenantID = tenantB
				}
				payload := bytes.Repeat([]byte(bound.MessageID), i*10)
				sealed, err := k.Seal(t.Context(), bound, payload)
				if !assertEqual(t, nil, err) {
					return
				}
				for _, ring := range []*Keyring{k, reader} {
					got, err := ring.Open(t.Context(), bound, sealed)
					if !assertEqual(t, nil, err) || !assertEqual(t, payload, got) {
						return
					}
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 2, b.count(t, `SELECT count(*) FROM tenant_keys`))
	// One load per tenant to seal (which is one to open too) and one to open.
	require.LessOrEqual(t, b.store.asked.Load(), int64(4))
}
