package keyring

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// key is a key that is the same each time.
func key(first byte) string {
	raw := make([]byte, KeyBytes)
	for i := range raw {
		raw[i] = first + byte(i)*7
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func TestMasterKeysAreReadInOrder(t *testing.T) {
	t.Parallel()
	m, err := ParseKeys("2026.b_-Z:" + key(1) + " , old:" + strings.TrimRight(key(2), "=") + "\n")
	require.NoError(t, err)
	require.Equal(t, "2026.b_-Z", m.current.id)
	require.Len(t, m.byID, 2)
	require.Equal(t, "2 master keys, current 2026.b_-Z", m.String())
	require.Equal(t, "no master keys", Masters{}.String())
}

func TestMasterKeysAreNotShown(t *testing.T) {
	t.Parallel()
	m := masters(t, "k:"+key(1))
	raw, err := base64.StdEncoding.DecodeString(key(1))
	require.NoError(t, err)
	inside := struct{ m Masters }{m}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, value := range []any{m, &m, inside, []Masters{m}} {
			shown := fmt.Sprintf(verb, value)
			require.NotContains(t, shown, key(1)[:8])
			require.NotContains(t, shown, fmt.Sprintf("%x", raw[:4]))
			require.NotContains(t, shown, fmt.Sprintf("%d %d %d", raw[0], raw[1], raw[2]))
		}
	}
}

func TestMasterKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	many := make([]string, MastersMax+1)
	for i := range many {
		many[i] = fmt.Sprintf("k%d:%s", i, key(byte(i)))
	}
	good := masters(t, many[:MastersMax]...)
	require.Len(t, good.byID, MastersMax)
	longest := strings.Repeat("x", MasterIDMax)
	require.Equal(t, longest, masters(t, longest+":"+key(1)).current.id)

	for name, c := range map[string]struct{ text, want string }{
		"nothing":          {" ", "ENCRYPTION_KEYS: is empty"},
		"too many":         {strings.Join(many, ","), "has 17 keys; allowed: 16"},
		"no id":            {key(1), "entry 1: is not id:key"},
		"empty entry":      {"a:" + key(1) + ",", "entry 2: is not id:key"},
		"empty id":         {":" + key(1), "entry 1: its id must be 1 to 32 of the characters"},
		"long id":          {longest + "x:" + key(1), "entry 1: its id must be"},
		"wrong id":         {"a b:" + key(1), "entry 1: its id must be"},
		"the other way":    {key(1) + ":a", "entry 1: its id must be"},
		"empty key":        {"a:", "entry 1 (a): its key has 0 bytes; it must have 32"},
		"short key":        {"a:" + key(1)[:40], "entry 1 (a): its key has 30 bytes; it must have 32"},
		"long key":         {"a:" + base64.StdEncoding.EncodeToString(make([]byte, 33)), "entry 1 (a): its key has 33 bytes; it must have 32"},
		"base64url":        {"a:" + strings.Repeat("-_", 21) + "8=", "entry 1 (a): its key is not standard base64"},
		"padded too much":  {"a:" + key(1) + "=", "entry 1 (a): its key is not standard base64"},
		"a line break":     {"a:" + key(1)[:20] + "\n" + key(1)[20:], "entry 1 (a): its key is not standard base64"},
		"bits left over":   {"a:" + strings.Repeat("A", 42) + "B=", "entry 1 (a): its key is not standard base64"},
		"more than a key":  {"a:" + key(1) + ":x", "entry 1 (a): its key is not standard base64"},
		"not random":       {"a:" + base64.StdEncoding.EncodeToString(make([]byte, 32)), "entry 1 (a): its key is one byte repeated"},
		"an id twice":      {"a:" + key(1) + ",a:" + key(2), "entry 2 (a): another entry has this id"},
		"a key twice":      {"a:" + key(1) + ",b:" + key(1), "entry 2 (b): is the same key as a"},
		"several mistakes": {"a:" + key(1) + ",b,c:x", "entry 2: is not id:key\nENCRYPTION_KEYS: entry 3 (c): its key is not"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := ParseKeys(c.text)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, Masters{}, m)
			require.NotContains(t, err.Error(), key(1)[:8])
		})
	}
}
