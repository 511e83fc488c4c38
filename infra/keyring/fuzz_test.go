package keyring

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParseKeys: what is taken keeps the limits; what is refused is not quoted, but for
// an id.
func FuzzParseKeys(f *testing.F) {
	f.Add("a:" + key(1) + ",b:" + key(2))
	f.Add("a:" + strings.TrimRight(key(1), "="))
	f.Add("a:" + key(1) + ",a:" + key(1) + ",,:")
	f.Add(key(3) + ":a")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseKeys(text)
		if err != nil {
			require.Equal(t, Masters{}, m)
			for entry := range strings.SplitSeq(text, ",") {
				if _, secret, _ := strings.Cut(entry, ":"); len(secret) > MasterIDMax {
					require.NotContains(t, err.Error(), secret)
				}
			}
			return
		}
		require.NotNil(t, m.current)
		require.Len(t, m.byID, strings.Count(text, ",")+1)
		require.LessOrEqual(t, len(m.byID), MastersMax)
		for id, held := range m.byID {
			require.True(t, wellFormed(id))
			require.Contains(t, text, id+":")
			require.Equal(t, id, held.id)
		}
	})
}

// FuzzOpen: only what was sealed opens, and only as itself.
func FuzzOpen(f *testing.F) {
	b := setup(f)
	k := b.keyring(masters(f, masterEntry("k")))
	good := map[string][]byte{}
	for n := range 6 {
		payload := bytes.Repeat([]byte("x"), n)
		sealed := seal(f, k, testBinding, payload)
		good[string(sealed)] = payload
		f.Add(sealed)
		f.Add(sealed[:len(sealed)-n])
		f.Add(bytes.ToLower(sealed))
	}
	f.Add([]byte(`"mqenc1:`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		payload, err := k.Open(t.Context(), testBinding, sealed)
		if want, ok := good[string(sealed)]; ok {
			require.NoError(t, err)
			require.Equal(t, want, payload)
			require.True(t, IsSealed(sealed))
			return
		}
		require.True(t, errors.Is(err, ErrTampered) || errors.Is(err, ErrUnknownKey), "%v", err)

		// The form is what the decoder takes.
		_, body, ok := split(sealed)
		if ok {
			_, ok = decode(nil, body)
		}
		require.Equal(t, ok, IsSealed(sealed))
	})
}
