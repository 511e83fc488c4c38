package docs

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// schemaView is a schema as the page shows it.
type schemaView struct {
	// Ref is the component that has the fields, "" where they are here.
	Ref string
	// Type is in words, before and after Ref's link.
	Type        string
	Limits      []string
	Description [][]span
	Fields      []fieldView
	// Parts are the schema of an array's items, or those of which it is one.
	Parts []schemaView
}

type fieldView struct {
	schemaView

	Name       string
	IsRequired bool
}

// reader reads a document.
type reader struct{ root *yaml.Node }

// resolve follows references within the document, and returns the last one's name.
func (r reader) resolve(n *yaml.Node) (target *yaml.Node, name string) {
	for ref := get(n, "$ref"); ref != nil; ref = get(n, "$ref") {
		n = r.root
		for step := range strings.SplitSeq(strings.TrimPrefix(ref.Value, "#/"), "/") {
			n = get(n, step)
			name = step
		}
	}
	return n, name
}

// schema reads a schema. A reference to one with fields is a link, any other is as if
// it stood here.
func (r reader) schema(n *yaml.Node) schemaView {
	target, name := r.resolve(n)
	if name != "" && hasShape(target) {
		return schemaView{Ref: name, Type: "object", Description: describe(n, target)}
	}
	v := r.shape(target)
	v.Description = describe(n, target)
	return v
}

// describe prefers what is said beside a reference.
func describe(nodes ...*yaml.Node) [][]span {
	for _, n := range nodes {
		if d := get(n, "description"); d != nil {
			return paragraphs(d.Value)
		}
	}
	return nil
}

func hasShape(n *yaml.Node) bool { return get(n, "properties") != nil }

// shape reads what a schema itself says.
func (r reader) shape(n *yaml.Node) schemaView {
	v := schemaView{Type: typeOf(n), Limits: limits(n)}
	required := map[string]bool{}
	for _, name := range items(get(n, "required")) {
		required[name.Value] = true
	}
	properties := items(get(n, "properties"))
	for i := 0; i < len(properties); i += 2 {
		name := properties[i].Value
		v.Fields = append(v.Fields, fieldView{Name: name, IsRequired: required[name], schemaView: r.schema(properties[i+1])})
	}
	if of := get(n, "items"); of != nil {
		item := r.schema(of)
		switch {
		case item.Ref != "":
			v.Type, v.Ref = "array of", item.Ref
		case len(item.Fields) > 0 || len(item.Parts) > 0:
			v.Type, v.Parts = "array of", []schemaView{item}
		default:
			v.Type = "array of " + item.Type
			v.Limits = append(v.Limits, item.Limits...)
		}
	}
	for _, part := range append(items(get(n, "oneOf")), items(get(n, "allOf"))...) {
		v.Parts = append(v.Parts, r.schema(part))
	}
	return v.simplified()
}

// simplified says "string or null" instead of one of two parts.
func (v schemaView) simplified() schemaView {
	var words []string
	var all []string
	for _, part := range v.Parts {
		if part.Ref != "" || len(part.Fields) > 0 || len(part.Parts) > 0 {
			return v
		}
		words = append(words, part.Type)
		all = append(all, part.Limits...)
	}
	if len(words) > 0 {
		v.Type, v.Limits, v.Parts = strings.Join(words, " or "), append(v.Limits, all...), nil
	}
	return v
}

func typeOf(n *yaml.Node) string {
	kind := get(n, "type")
	switch {
	case kind == nil && get(n, "oneOf") != nil:
		return "one of"
	case kind == nil && get(n, "allOf") != nil:
		return "all of"
	case kind == nil:
		return "any JSON value"
	case kind.Kind == yaml.SequenceNode:
		return strings.Join(texts(kind), " or ")
	}
	if of := get(n, "additionalProperties"); of != nil && of.Kind == yaml.MappingNode {
		return "object of " + typeOf(of) + "s"
	}
	return kind.Value
}

// limits are a schema's keywords in words.
func limits(n *yaml.Node) []string {
	var out []string
	add := func(form, keyword string) {
		if value := get(n, keyword); value != nil {
			out = append(out, fmt.Sprintf(form, value.Value))
		}
	}
	if enum := get(n, "enum"); enum != nil {
		out = append(out, strings.Join(texts(enum), " | "))
	}
	add("%s", "format")
	out = append(out, between(n, "minimum", "maximum", "")...)
	out = append(out, between(n, "minLength", "maxLength", " characters")...)
	out = append(out, between(n, "minItems", "maxItems", " items")...)
	if most := get(n, "maxProperties"); most != nil && most.Value != "0" {
		add("at most %s members", "maxProperties")
	}
	add("at most %s bytes", "x-maxBytes")
	add("at most %s levels deep", "x-maxDepth")
	if get(n, "format") == nil {
		add("matches %s", "pattern")
	}
	if value := get(n, "default"); value != nil && value.Kind == yaml.ScalarNode {
		add("default %s", "default")
	}
	return out
}

// between is a range in words.
func between(n *yaml.Node, least, most, unit string) []string {
	from, to := text(n, least), text(n, most)
	switch {
	case from == "" && to == "":
		return nil
	case to == "":
		return []string{from + unit + " or more"}
	case from == "":
		return []string{"at most " + to + unit}
	case from == to:
		return []string{from + unit}
	default:
		return []string{from + " to " + to + unit}
	}
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil {
		return nil
	}
	return n.Content
}

func texts(n *yaml.Node) []string {
	var out []string
	for _, item := range items(n) {
		out = append(out, item.Value)
	}
	return out
}
