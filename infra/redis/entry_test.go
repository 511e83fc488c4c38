package redis

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack"
)

func TestPackedPairsAreMessagePack(t *testing.T) {
	t.Parallel()
	for _, keys := range []int{0, 1, 15, 16, 300} {
		for _, length := range []int{0, 1, 31, 32, 255, 256, 65_535, 65_536} {
			if keys*length > 1<<22 {
				continue
			}
			var pairs []string
			want := map[string]string{}
			for n := range keys {
				key := strings.Repeat("k", n+1)
				pairs = append(pairs, key, strings.Repeat("é"[:1+n%2], length))
				want[key] = pairs[len(pairs)-1]
			}
			got := map[string]string{}
			require.NoError(t, msgpack.Unmarshal(packPairs(pairs), &got), "%d keys of %d", keys, length)
			require.Equal(t, want, got)
		}
	}
}
