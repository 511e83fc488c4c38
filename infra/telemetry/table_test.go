package telemetry

import (
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATableIsBoundedAndKeepsWhatCameFirst(t *testing.T) {
	t.Parallel()
	table := newTable[int, string](3)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if v, ok := table.add(i, func() string { return strconv.Itoa(i) }); ok && v != strconv.Itoa(i) {
				t.Errorf("%d has the value %s", i, v)
			}
		})
	}
	wg.Wait()
	require.Len(t, *table.m.Load(), 3)
	require.True(t, table.full())
	table.retain(func(int, string) bool { return false })
	require.False(t, table.full())
	v, ok := table.add(1, func() string { return "one" })
	require.True(t, ok)
	require.Equal(t, "one", v)
	v, _ = table.add(1, func() string { return "another" })
	require.Equal(t, "one", v)
}

func TestLabelValuesAreBounded(t *testing.T) {
	t.Parallel()
	b := newBounds(2, 2)
	require.Equal(t, pair{"a", "x"}, b.pair(pair{"a", "x"}))
	require.Equal(t, triple{"a", "y", "g"}, b.triple(triple{"a", "y", "g"}))
	// no room for a third topic, nor for its groups
	require.Equal(t, otherPair, b.pair(pair{"b", "x"}))
	require.Equal(t, triple{Other, Other, Other}, b.triple(triple{"b", "x", "g"}))
	// a group that finds no room is still its topic's
	require.Equal(t, triple{"a", "x", "g"}, b.triple(triple{"a", "x", "g"}))
	require.Equal(t, triple{"a", "x", Other}, b.triple(triple{"a", "x", "h"}))
	// and those that came first stay
	require.Equal(t, pair{"a", "y"}, b.pair(pair{"a", "y"}))
}

func TestReasonsAndCodesAreWordsAndFew(t *testing.T) {
	t.Parallel()
	b := newBounds(1, 1)
	for _, free := range []string{"", "card 4111 1111 1111 1111 declined", "a\nb", "é"} {
		require.Equal(t, Other, b.reason(free))
		require.Equal(t, Other, b.code(free))
	}
	for i := range ReasonsMax {
		name := "reason_" + strconv.Itoa(i)
		require.Equal(t, name, b.reason(name))
	}
	require.Equal(t, Other, b.reason("one_more"))
	for i := range CodesMax {
		name := "MQ_" + strconv.Itoa(i)
		require.Equal(t, name, b.code(name))
	}
	require.Equal(t, Other, b.code("MQ_MORE"))
}
