package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/docs"
)

func loadDocument(t testing.TB) *openapi3.T {
	t.Helper()
	text, err := docs.JSON()
	require.NoError(t, err)
	doc, err := openapi3.NewLoader().LoadFromData(text)
	require.NoError(t, err)
	return doc
}

// documentedOp is an operation of the document.
type documentedOp struct {
	*openapi3.Operation

	path, method string
	item         *openapi3.PathItem
}

func operationsOf(doc *openapi3.T) []documentedOp {
	var out []documentedOp
	for _, path := range doc.Paths.InMatchingOrder() {
		item := doc.Paths.Value(path)
		for method, op := range item.Operations() {
			out = append(out, documentedOp{Operation: op, path: path, method: method, item: item})
		}
	}
	slices.SortFunc(out, func(a, b documentedOp) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	return out
}

func (o documentedOp) statuses() []int {
	var out []int
	for status := range o.Responses.Map() {
		n, err := strconv.Atoi(status)
		if err != nil {
			panic(status + " is no status")
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// parameters are the path's and the operation's.
func (o documentedOp) parameters() []*openapi3.Parameter {
	var out []*openapi3.Parameter
	for _, p := range append(slices.Clone(o.item.Parameters), o.Parameters...) {
		out = append(out, p.Value)
	}
	return out
}

// scopes are those of which a token needs one.
func (o documentedOp) scopes() []string {
	var out []string
	for _, way := range *o.Security {
		out = append(out, way["bearer"]...)
	}
	return out
}

// takes reports whether a security scheme opens the operation, alone or with others.
func (o documentedOp) takes(scheme string) bool {
	return slices.ContainsFunc(*o.Security, func(way openapi3.SecurityRequirement) bool { _, ok := way[scheme]; return ok })
}

// docRequest is a request to a documented operation.
type docRequest struct {
	op        documentedOp
	path      map[string]string
	query     url.Values
	header    http.Header
	mediaType string
	body      []byte
}

// example is a request as the document has it.
type example struct {
	name, mediaType string
	body            []byte
}

// examples are an operation's bodies; one that is empty where it takes none.
func (o documentedOp) examples() []example {
	if o.RequestBody == nil {
		return []example{{}}
	}
	var out []example
	for mediaType, media := range o.RequestBody.Value.Content {
		add := func(name string, value any) {
			body, err := json.Marshal(value)
			if err != nil {
				panic(err)
			}
			if text, ok := value.(string); ok {
				body = []byte(text)
			}
			out = append(out, example{name: mediaType + " " + name, mediaType: mediaType, body: body})
		}
		if media.Example != nil {
			add("", media.Example)
		}
		for name, e := range media.Examples {
			add(name, e.Value.Value)
		}
	}
	slices.SortFunc(out, func(a, b example) int { return strings.Compare(a.name, b.name) })
	return out
}

// like makes the request of an example. Parameters have the values of their examples,
// except those headers that would change what is answered.
func (o documentedOp) like(e example) *docRequest {
	r := &docRequest{op: o, path: map[string]string{}, query: url.Values{}, header: http.Header{}, mediaType: e.mediaType, body: e.body}
	for _, p := range o.parameters() {
		only, isBound := p.Extensions["x-mediaTypes"].([]any)
		switch {
		case p.Example == nil || (isBound && !slices.Contains(only, any(e.mediaType))):
		case p.In == openapi3.ParameterInPath:
			r.path[p.Name] = fmt.Sprint(p.Example)
		case p.In == openapi3.ParameterInQuery:
			r.query.Set(p.Name, fmt.Sprint(p.Example))
		case p.Name != "Prefer" && p.Name != "Idempotency-Key":
			r.header.Set(p.Name, fmt.Sprint(p.Example))
		}
	}
	return r
}

func (r *docRequest) build(ctx context.Context, base string) *http.Request {
	target := r.op.path
	for name, value := range r.path {
		target = strings.ReplaceAll(target, "{"+name+"}", url.PathEscape(value))
	}
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.op.method, base+target, bytes.NewReader(r.body))
	if err != nil {
		panic(err)
	}
	req.Header = r.header.Clone()
	if r.mediaType != "" {
		req.Header.Set("Content-Type", r.mediaType)
	}
	return req
}
