package filter

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// order is the message of most tests.
func order() Message {
	return Message{
		Key:     "customer-7",
		Headers: map[string]string{"type": "order", "content-type": "application/json"},
		Payload: []byte(`{
			"amount": 11, "price": 10.0, "whole": 1e1, "big": 9007199254740993, "huge": 18446744073709551615,
			"secret": "s3cr3t", "none": null, "paid": true, "tags": ["a", "b"], "when": "2026-01-31T23:00:00Z",
			"customer": {"id": "c1", "address": {"city": "Riga"}},
			"items": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2.5}]
		}`),
	}
}

func mustCompile(tb testing.TB, raw string) *Filter {
	tb.Helper()
	f, err := Compile([]byte(raw))
	require.NoError(tb, err, raw)
	return f
}

func celFilter(expression string) string {
	raw, err := json.Marshal(map[string]string{"cel": expression})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// requireText checks what holds for every text that a tenant sees.
func requireText(tb testing.TB, text string, bytesMax int) {
	tb.Helper()
	require.LessOrEqual(tb, len(text), bytesMax, text)
	require.True(tb, utf8.ValidString(text), "%q", text)
	for _, r := range text {
		require.False(tb, r < ' ' || r == 0x7f, "%q", text)
	}
}
