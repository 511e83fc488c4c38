package filter

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	for raw, problem := range map[string]string{
		`[]`:                       "messageFilter: must be an object",
		`null`:                     "messageFilter: must be an object",
		`"cel"`:                    "messageFilter: must be an object",
		`{} {}`:                    "messageFilter: something follows the object",
		`{}x`:                      "messageFilter: something follows the object",
		`{"cel":1}`:                "messageFilter.cel: must be a string",
		`{"cel":"true","key":"a"}`: "messageFilter.key: cannot be combined with cel",
		`{"nope":1,"cel":"true"}`:  "messageFilter.nope: cannot be combined with cel",
		`{"Key":"a"}`:              "messageFilter.Key: no such field; there are cel, or headers, key and payload",
		`{"key":1}`:                "messageFilter.key: must be a string",
		`{"headers":[]}`:           "messageFilter.headers: must be an object",
		`{"headers":{"n":1}}`:      "messageFilter.headers.n: must be a string",
		`{"headers":{"n":null}}`:   "messageFilter.headers.n: must be a string",
		`{"payload":1e1000001}`:    "messageFilter: has a number out of range",
	} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			_, err := Compile([]byte(raw))
			require.EqualError(t, err, problem)
		})
	}
	for _, raw := range []string{``, `{`, `{"key":"a","key":"b"}`, `{"payload":[1,]}`, "{\"key\":\"\xff\"}", `{"payload":01}`} {
		_, err := Compile([]byte(raw))
		require.ErrorContains(t, err, "messageFilter: is not valid JSON: ", raw)
	}
}

func TestCompileLimits(t *testing.T) {
	t.Parallel()
	fits := `{"key":"` + strings.Repeat("a", FilterBytesMax-len(`{"key":""}`)) + `"}`
	mustCompile(t, fits)
	_, err := Compile([]byte(fits + " "))
	require.EqualError(t, err, "messageFilter: has 4097 bytes, at most 4096 are allowed")

	nested := func(depth int) []byte {
		return []byte(`{"payload":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + "}")
	}
	mustCompile(t, string(nested(FilterDepthMax)))
	_, err = Compile(nested(FilterDepthMax + 1))
	require.EqualError(t, err, "messageFilter: nests deeper than 32 levels")

	mustCompile(t, celFilter(strings.Repeat("[", ExpressionDepthMax/2)+strings.Repeat("]", ExpressionDepthMax/2)+" == []"))
	_, err = Compile([]byte(celFilter(strings.Repeat("(", ExpressionDepthMax+1) + "true" + strings.Repeat(")", ExpressionDepthMax+1))))
	require.EqualError(t, err, "messageFilter.cel: 1:1: expression recursion limit exceeded: 50")

	mustCompile(t, celFilter(`key.matches('a{990}')`))
	_, err = Compile([]byte(celFilter(`key.matches('a{999}')`)))
	require.EqualError(t, err, "messageFilter.cel: 1:13: the pattern takes 1001 instructions, at most 1000 are allowed")

	_, err = Compile([]byte(`{"` + strings.Repeat("ä", 1000) + `":1}`))
	requireText(t, err.Error(), ErrorBytesMax)
	_, err = Compile([]byte(celFilter(strings.Repeat("ab", 1000) + "\n\t== 1")))
	requireText(t, err.Error(), ErrorBytesMax)
}

func TestZeroFilterMatches(t *testing.T) {
	t.Parallel()
	require.Equal(t, Verdict{Matches: true}, (&Filter{}).Match(Message{}))
}

func TestMatchConcurrently(t *testing.T) {
	t.Parallel()
	filters := []*Filter{
		mustCompile(t, celFilter(`payload.items.exists(i, i.n > 2) && payload.secret.matches('^s')`)),
		mustCompile(t, celFilter(`payload.price + 1 == 11 && headers.type == 'order'`)),
		mustCompile(t, celFilter(`payload.amount > 'x'`)),
		mustCompile(t, `{"headers":{"type":"order"},"payload":{"amount":12}}`),
	}
	want := []string{"", "error: no such overload", "error: no such overload", "payload.amount differs"}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			m := order()
			for range 50 {
				for i, f := range filters {
					if why := f.Match(m).Why; why != want[i] {
						t.Errorf("filter %d says %q", i, why)
					}
				}
			}
		})
	}
	wg.Wait()
}
