package docs

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// baseURL is where `tallymq dev` listens.
const baseURL = "http://localhost:3010"

// callView is a request to copy.
type callView struct{ Summary, Curl string }

// calls returns an operation's requests: one for each example of its bodies, or one.
func (r reader) calls(v operationView, body *yaml.Node) ([]callView, error) {
	var out []callView
	content := items(get(body, "content"))
	for i := 0; i < len(content); i += 2 {
		media := content[i+1]
		if example := get(media, "example"); example != nil {
			call, err := v.call("", content[i].Value, example)
			if err != nil {
				return nil, err
			}
			out = append(out, call)
		}
		examples := items(get(media, "examples"))
		for k := 0; k < len(examples); k += 2 {
			example, _ := r.resolve(examples[k+1])
			call, err := v.call(text(example, "summary"), content[i].Value, get(example, "value"))
			if err != nil {
				return nil, err
			}
			out = append(out, call)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	call, err := v.call("", "", nil)
	return []callView{call}, err
}

func (v operationView) call(summary, mediaType string, body *yaml.Node) (callView, error) {
	target, headers := v.target(mediaType)
	first := "curl " + quote(baseURL+target)
	if v.Method != http.MethodGet && (v.Method != http.MethodPost || body == nil) {
		first = "curl -X " + v.Method + " " + quote(baseURL+target)
	}
	parts := []string{first}
	switch {
	case len(v.Scopes) > 0:
		parts = append(parts, `-H "Authorization: Bearer $TOKEN"`)
	case v.IsServiceToken:
		parts = append(parts, `-H "X-Service-Token: $SERVICE_TOKEN"`)
	}
	for _, h := range headers {
		parts = append(parts, "-H "+quote(h))
	}
	if body != nil {
		data := body.Value
		if body.Kind != yaml.ScalarNode {
			var err error
			if data, err = pretty(body); err != nil {
				return callView{}, err
			}
		}
		parts = append(parts, "-H "+quote("Content-Type: "+mediaType), "-d "+quote(data))
	}
	if summary == "" && strings.HasPrefix(mediaType, "application/cloudevents") {
		summary = mediaType
	}
	return callView{Summary: summary, Curl: strings.Join(parts, " \\\n  ")}, nil
}

// target is the path and query of the parameters' examples, and the headers that a
// media type asks for.
func (v operationView) target(mediaType string) (target string, headers []string) {
	target = v.Path
	var query []string
	for _, p := range v.Parameters {
		isBound := slices.Contains(p.MediaTypes, mediaType)
		switch {
		case p.Example == "" || (len(p.MediaTypes) > 0 && !isBound):
		case p.In == "path":
			target = strings.ReplaceAll(target, "{"+p.Name+"}", url.PathEscape(p.Example))
		case p.In == "query":
			query = append(query, p.Name+"="+url.QueryEscape(p.Example))
		case isBound:
			headers = append(headers, p.Name+": "+p.Example)
		}
	}
	if len(query) > 0 {
		target += "?" + strings.Join(query, "&")
	}
	return target, headers
}

// quote is text as a shell reads it literally.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// lineMax is how long JSON may be, in characters, to stand on one line.
const lineMax = 80

// pretty is JSON to read: on one line where it is short.
func pretty(n *yaml.Node) (string, error) {
	line, err := marshal(n, jsontext.SpaceAfterColon(true), jsontext.SpaceAfterComma(true))
	if err != nil || len(line) <= lineMax {
		return string(line), err
	}
	lines, err := marshal(n, jsontext.WithIndent("  "))
	return string(lines), err
}
