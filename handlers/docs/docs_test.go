package docs

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// served is what a path answers.
func served(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	e := echo.New()
	Register(e)
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	require.Equal(t, http.StatusOK, rec.Code)
	require.Equal(t, "nosniff", rec.Header().Get("X-Content-Type-Options"))
	return rec
}

func TestTheDocumentIsServedAsJSON(t *testing.T) {
	t.Parallel()
	rec := served(t, "/openapi.json")
	require.Equal(t, "application/json", rec.Header().Get("Content-Type"))
	text, err := JSON()
	require.NoError(t, err)
	require.Equal(t, text, rec.Body.Bytes())
	var doc map[string]any
	require.NoError(t, json.Unmarshal(text, &doc))
	require.Equal(t, "3.1.0", doc["openapi"])
}

// A comma in an unquoted description would begin another member.
func TestNoMemberIsMadeByAMistake(t *testing.T) {
	t.Parallel()
	root, err := tree()
	require.NoError(t, err)
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		for i, item := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 0 {
				require.NotContains(t, item.Value, " ", "line %d", item.Line)
			}
			visit(item)
		}
	}
	visit(root)
}

func TestThePageShowsAllOfIt(t *testing.T) {
	t.Parallel()
	rec := served(t, "/docs")
	require.Equal(t, "text/html; charset=UTF-8", rec.Header().Get("Content-Type"))
	html := rec.Body.String()
	require.NotContains(t, html, "ZgotmplZ", "the template refused something")
	ids := map[string]bool{}
	for _, found := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(html, -1) {
		require.False(t, ids[found[1]], found[1])
		ids[found[1]] = true
	}
	links := 0
	for _, found := range regexp.MustCompile(` href="#([^"]+)"`).FindAllStringSubmatch(html, -1) {
		require.True(t, ids[found[1]], "%s leads nowhere", found[1])
		links++
	}
	require.Greater(t, links, len(ids))
	root, err := tree()
	require.NoError(t, err)
	paths := get(root, "paths").Content
	for i := 0; i < len(paths); i += 2 {
		require.Contains(t, html, "<code>"+paths[i].Value+"</code>")
		for k := 1; k < len(paths[i+1].Content); k += 2 {
			if id := text(paths[i+1].Content[k], "operationId"); id != "" {
				require.True(t, ids[id], id)
			}
		}
	}
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	rec := served(t, "/docs")
	html := rec.Body.String()
	for _, tag := range []string{"<script", "<link", "<img", "<iframe", "@import", "url(", "onclick", "style="} {
		require.NotContains(t, html, tag)
	}
	policy := rec.Header().Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	_, after, found := strings.Cut(html, "<style>")
	require.True(t, found)
	css, _, found := strings.Cut(after, "</style>")
	require.True(t, found)
	require.Contains(t, policy, "style-src 'sha256-"+digest(css)+"'", "the browser would refuse the style")
}

func TestPartsThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		parts map[string]string
		want  string
	}{
		"one place in two parts": {map[string]string{"a": "x: {y: 1}", "b": "x: {y: 2}"}, "b.yaml: x: y: line 1: is in another part already"},
		"no YAML":                {map[string]string{"a": "x: ["}, "a.yaml: yaml"},
		"nothing":                {map[string]string{"a": ""}, "a.yaml: must be one object"},
		"a list":                 {map[string]string{"a": "[1]"}, "a.yaml: line 1"},
		"merged over":            {map[string]string{"a": "x: &x {y: 1}\nz: {<<: *x, y: 2}"}, "y is there already"},
		"a name twice":           {map[string]string{"a": "x: 1\nx: 2"}, "x is there already"},
		"a list merged":          {map[string]string{"a": "x: &x [1]\nz: {<<: *x}"}, "only objects are merged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := fstest.MapFS{}
			for part, content := range tc.parts {
				files["openapi/"+part+".yaml"] = &fstest.MapFile{Data: []byte(content), Mode: fs.ModePerm}
			}
			_, err := join(files)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestPartsBecomeJSON(t *testing.T) {
	t.Parallel()
	root, err := join(fstest.MapFS{
		"openapi/1.yaml": {Data: []byte("a: &a {s: '1', i: 1, f: 1.50, b: true, n: null, t: 2026-01-31, l: [x, 1.0]}\nz: {one: 1}")},
		"openapi/2.yaml": {Data: []byte("z: {two: \"a\\\"<b>\"}\nb: &b {c: 3}\nd: {<<: *b, e: *b}")},
	})
	require.NoError(t, err)
	data, err := marshal(root)
	require.NoError(t, err)
	require.Equal(t, `{"a":{"s":"1","i":1,"f":1.50,"b":true,"n":null,"t":"2026-01-31","l":["x",1.0]},"z":{"one":1,"two":"a\"<b>"},"b":{"c":3},"d":{"c":3,"e":{"c":3}}}`, string(data)) //nolint:testifylint // the order counts
}

func TestAShellReadsWhatWasQuoted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "it's", `{"a":"$HOME \ ` + "`x`" + `"}`, "'", "''\n'"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+quote(text)).Output() //nolint:gosec // that is the question
		require.NoError(t, err)
		require.Equal(t, text, string(out))
	}
}

func TestDescriptionsHaveThreeStyles(t *testing.T) {
	t.Parallel()
	require.Equal(t, [][]span{
		{{Text: "a "}, {Style: "code", Text: "b**"}, {Text: " "}, {Style: "strong", Text: "c"}},
		{{Text: "d e"}},
	}, paragraphs("a `b**` **c**\n\nd\n  e\n"))
	require.Empty(t, paragraphs(" \n"))
}
