package docs

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// operationView is an operation as the page shows it.
type operationView struct {
	ID, Method, Path, Summary string
	Description               [][]span
	// Access is who may: the scopes of which a token needs one, and whether the
	// service token will do. Neither is everybody.
	Scopes         []string
	IsServiceToken bool
	Parameters     []parameterView
	Bodies         []bodyView
	// BodyLimits hold for all of Bodies.
	BodyLimits []string
	Responses  []responseView
	Calls      []callView
}

type parameterView struct {
	schemaView

	Name, In   string
	IsRequired bool
	Example    string
	// MediaTypes are those of the bodies that it goes with, none for any.
	MediaTypes []string
}

type bodyView struct {
	schemaView

	MediaType string
}

type responseView struct {
	Status      string
	Description [][]span
	// Codes are an error's.
	Codes   []string
	Headers []string
	Bodies  []bodyView
	Example string
}

func (r reader) operation(path, method string, shared, n *yaml.Node) (operationView, error) {
	v := operationView{
		ID: text(n, "operationId"), Method: strings.ToUpper(method), Path: path, Summary: text(n, "summary"), Description: describe(n),
	}
	for _, way := range items(get(n, "security")) {
		v.IsServiceToken = v.IsServiceToken || get(way, "serviceToken") != nil
		v.Scopes = append(v.Scopes, texts(get(way, "bearer"))...)
	}
	for _, p := range append(slices.Clone(items(shared)), items(get(n, "parameters"))...) {
		v.Parameters = append(v.Parameters, r.parameter(p))
	}
	body, _ := r.resolve(get(n, "requestBody"))
	v.Bodies, v.BodyLimits = r.bodies(body), limits(body)
	responses := items(get(n, "responses"))
	for i := 0; i < len(responses); i += 2 {
		response, err := r.response(responses[i].Value, responses[i+1])
		if err != nil {
			return v, err
		}
		v.Responses = append(v.Responses, response)
	}
	var err error
	v.Calls, err = r.calls(v, body)
	return v, err
}

func (r reader) parameter(n *yaml.Node) parameterView {
	p, _ := r.resolve(n)
	v := parameterView{Name: text(p, "name"), In: text(p, "in"), IsRequired: text(p, "required") == "true", Example: text(p, "example")}
	v.MediaTypes = texts(get(p, "x-mediaTypes"))
	v.schemaView = r.schema(get(p, "schema"))
	v.Description = describe(p)
	return v
}

// bodies reads the content of a request, whose fields are shown in place.
func (r reader) bodies(n *yaml.Node) []bodyView {
	content := items(get(n, "content"))
	var out []bodyView
	for i := 0; i < len(content); i += 2 {
		target, name := r.resolve(get(content[i+1], "schema"))
		v := r.shape(target)
		if v.Ref == "" {
			v.Ref = name
		}
		out = append(out, bodyView{MediaType: content[i].Value, schemaView: v})
	}
	return out
}

func (r reader) response(status string, n *yaml.Node) (responseView, error) {
	target, _ := r.resolve(n)
	v := responseView{Status: status, Description: describe(n, target)}
	headers := items(get(target, "headers"))
	for i := 0; i < len(headers); i += 2 {
		v.Headers = append(v.Headers, headers[i].Value)
	}
	content := items(get(target, "content"))
	for i := 0; i < len(content); i += 2 {
		media := content[i+1]
		v.Bodies = append(v.Bodies, bodyView{MediaType: content[i].Value, schemaView: r.schema(get(media, "schema"))})
		for _, part := range items(get(get(media, "schema"), "allOf")) {
			v.Codes = append(v.Codes, texts(get(get(get(part, "properties"), "code"), "enum"))...)
		}
		if example := get(media, "example"); example != nil && v.Example == "" {
			var err error
			if v.Example, err = pretty(example); err != nil {
				return v, err
			}
		}
	}
	if len(v.Codes) > 0 {
		v.Bodies = nil // all errors have one shape
	}
	return v, nil
}

// text is a member that is text, "" for none.
func text(n *yaml.Node, name string) string {
	if value := get(n, name); value != nil {
		return strings.TrimSpace(value.Value)
	}
	return ""
}
