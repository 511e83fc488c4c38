package docs

import (
	"bytes"
	_ "embed" // the page's template and style
	"fmt"
	"html/template"
	"slices"
	"sync"

	"go.yaml.in/yaml/v3"
)

var (
	//go:embed page.html
	layout string
	//go:embed page.css
	style string
)

// page is the document as HTML.
var page = sync.OnceValues(func() ([]byte, error) {
	root, err := tree()
	if err != nil {
		return nil, err
	}
	return render(root)
})

// pageView is what the template shows.
type pageView struct {
	Style                   template.CSS
	Title, Version, Summary string
	Description             [][]span
	Schemes                 []schemeView
	Tags                    []tagView
	Schemas                 []fieldView
}

type schemeView struct {
	Name, How   string
	Description [][]span
}

type tagView struct {
	Name        string
	Description [][]span
	Operations  []operationView
}

func render(root *yaml.Node) ([]byte, error) {
	t, err := template.New("page").Parse(layout)
	if err != nil {
		return nil, fmt.Errorf("read the page's template: %w", err)
	}
	view, err := reader{root: root}.page()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := t.Execute(&buf, view); err != nil {
		return nil, fmt.Errorf("render the page: %w", err)
	}
	return buf.Bytes(), nil
}

func (r reader) page() (pageView, error) {
	info := get(r.root, "info")
	v := pageView{
		Style: template.CSS(style), //nolint:gosec // ours
		Title: text(info, "title"), Version: text(info, "version"), Summary: text(info, "summary"), Description: describe(info),
	}
	for _, tag := range items(get(r.root, "tags")) {
		v.Tags = append(v.Tags, tagView{Name: text(tag, "name"), Description: describe(tag)})
	}
	components := get(r.root, "components")
	schemes := items(get(components, "securitySchemes"))
	for i := 0; i < len(schemes); i += 2 {
		v.Schemes = append(v.Schemes, scheme(schemes[i+1]))
	}
	schemas := items(get(components, "schemas"))
	for i := 0; i < len(schemas); i += 2 {
		shape := r.shape(schemas[i+1])
		shape.Description = describe(schemas[i+1])
		if len(shape.Fields) > 0 {
			v.Schemas = append(v.Schemas, fieldView{Name: schemas[i].Value, schemaView: shape})
		}
	}
	return v, r.operations(&v)
}

func scheme(n *yaml.Node) schemeView {
	v := schemeView{Name: text(n, "name"), How: "header", Description: describe(n)}
	if text(n, "type") == "http" {
		v.Name, v.How = "Authorization", text(n, "scheme")+", "+text(n, "bearerFormat")
	}
	return v
}

// methods of operations; what else a path has are no operations.
var methods = []string{"get", "post", "put", "patch", "delete"}

func (r reader) operations(v *pageView) error {
	paths := items(get(r.root, "paths"))
	for i := 0; i < len(paths); i += 2 {
		members := paths[i+1].Content
		for k := 0; k < len(members); k += 2 {
			if !slices.Contains(methods, members[k].Value) {
				continue
			}
			op, err := r.operation(paths[i].Value, members[k].Value, get(paths[i+1], "parameters"), members[k+1])
			if err != nil {
				return fmt.Errorf("%s %s: %w", members[k].Value, paths[i].Value, err)
			}
			name := texts(get(members[k+1], "tags"))
			at := slices.IndexFunc(v.Tags, func(t tagView) bool { return slices.Contains(name, t.Name) })
			if at < 0 {
				return fmt.Errorf("%s %s: has none of the tags", members[k].Value, paths[i].Value)
			}
			v.Tags[at].Operations = append(v.Tags[at].Operations, op)
		}
	}
	return nil
}
