package feed

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// Every kind of the catalogue can be asked for.
func TestKindsAreTheCatalogue(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../../events/catalogue.go", nil, 0)
	require.NoError(t, err)
	var want []events.Kind
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && len(spec.Values) == 1 && strings.HasPrefix(spec.Names[0].Name, "Kind") {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			want = append(want, events.Kind(text))
		}
		return true
	})
	require.NotEmpty(t, want)
	require.ElementsMatch(t, want, kinds)
}

func TestTypesAreBounded(t *testing.T) {
	t.Parallel()
	_, err := parseTypes(strings.Repeat("message.*,", typeItemsMax) + "topic.*")
	require.ErrorContains(t, err, "at most 50")
	got, err := parseTypes(strings.Repeat("message.*,", typeItemsMax-1) + "topic.created")
	require.NoError(t, err)
	require.Len(t, got, 12)
}

func FuzzParseTypes(f *testing.F) {
	for _, seed := range []string{"", "message.*", "tallymq.topic.created, message.", ",", "*", "message.published,,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseTypes(text)
		if err != nil {
			require.Nil(t, got)
			return
		}
		require.Equal(t, text == "", len(got) == 0)
		require.True(t, slices.IsSorted(got))
		for _, kind := range got {
			require.Contains(t, kinds, events.Kind(kind))
		}
	})
}
