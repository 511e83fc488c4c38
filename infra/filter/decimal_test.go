package filter

import (
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// rational reads a JSON number of moderate size in another way, nil for anything else.
func rational(text string) *big.Rat {
	value := jsontext.Value(text)
	if !value.IsValid() || value.Kind() != kindNumber || strings.TrimSpace(text) != text || len(text) > 100 {
		return nil
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		if exponent, err := strconv.Atoi(text[i+1:]); err != nil || exponent > 500 || exponent < -500 {
			return nil
		}
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil
	}
	return r
}

func TestDecimal(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{
		{"0", "-0", "0.000", "0e9", "-0.0E-9"},
		{"1", "1.0", "1e0", "10e-1", "0.1e1", "0.01E+2"},
		{"-1250", "-1.25e3", "-12500e-1", "-1250.000"},
		{"9007199254740993", "9007199254740993.0", "9.007199254740993e15"},
	} {
		want, ok := parseDecimal([]byte(same[0]))
		require.True(t, ok)
		for _, text := range same {
			got, ok := parseDecimal([]byte(text))
			require.True(t, ok, text)
			require.Equal(t, want, got, text)
		}
	}
	for _, other := range [][2]string{{"9007199254740993", "9007199254740992"}, {"1", "-1"}, {"1", "10"}, {"0.1", "0.01"}, {"101", "11"}} {
		a, _ := parseDecimal([]byte(other[0]))
		b, _ := parseDecimal([]byte(other[1]))
		require.NotEqual(t, a, b)
	}
	for text, fits := range map[string]bool{"1e1000000": true, "1e-1000000": true, "1e1000001": false, "1e-1000001": false, "1e99999999999999999999": false} {
		_, ok := parseDecimal([]byte(text))
		require.Equal(t, fits, ok, text)
	}
}
