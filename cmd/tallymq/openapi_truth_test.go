package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/stretchr/testify/require"
)

func init() { //nolint:gochecknoinits // the library's own table
	for _, mediaType := range []string{"application/cloudevents+json", "application/cloudevents-batch+json"} {
		openapi3filter.RegisterBodyDecoder(mediaType, openapi3filter.JSONBodyDecoder)
	}
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.PlainBodyDecoder)
}

// truth is the document and what of it was met.
type truth struct {
	doc *openapi3.T

	mu sync.Mutex
	// met are "operation status", codes "status code".
	met, codes map[string]bool
}

func newTruth(t testing.TB) *truth {
	t.Helper()
	return &truth{doc: loadDocument(t), met: map[string]bool{}, codes: map[string]bool{}}
}

// send sends a request and checks the answer against the document, and where it is a
// success the request too.
func (d *truth) send(t testing.TB, base string, r *docRequest) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(r.build(t.Context(), base))
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	got := answer{t: t, status: resp.StatusCode, header: resp.Header, body: body}
	d.check(t, base, r, got)
	return got
}

func (d *truth) check(t testing.TB, base string, r *docRequest, got answer) {
	t.Helper()
	what := fmt.Sprintf("%s %s: %d %s", r.op.method, r.op.path, got.status, got.body)
	in := d.input(t, base, r)
	if got.status < http.StatusMultiStatus { // of a batch, members may be wrong
		require.NoError(t, openapi3filter.ValidateRequest(t.Context(), in), what)
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: got.status, Header: got.header, Options: in.Options}
	require.NoError(t, openapi3filter.ValidateResponse(t.Context(), out.SetBodyBytes(got.body)), what)
	response := r.op.Responses.Status(got.status).Value
	d.checkHeaders(t, response, got, what)
	if len(response.Content) == 0 {
		require.Empty(t, got.body, what)
	} else if media := response.Content.Get(got.header.Get("Content-Type")); strings.Contains(got.header.Get("Content-Type"), "json") {
		var value any
		require.NoError(t, json.Unmarshal(got.body, &value), what)
		require.Empty(t, undocumented(media.Schema, value, ""), what)
		d.note(got.status, value)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.met[fmt.Sprint(r.op.OperationID, " ", got.status)] = true
}

func (d *truth) input(t testing.TB, base string, r *docRequest) *openapi3filter.RequestValidationInput {
	t.Helper()
	return &openapi3filter.RequestValidationInput{
		Request: r.build(t.Context(), base), PathParams: r.path,
		Route:   &routers.Route{Spec: d.doc, Path: r.op.path, PathItem: r.op.item, Method: r.op.method, Operation: r.op.Operation},
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
}

// telling are the response headers that mean something; where one comes, the document
// says so.
var telling = []string{"ETag", "Location", "Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate", "X-Request-Id", "Allow", "Last-Modified", "Link"}

func (d *truth) checkHeaders(t testing.TB, response *openapi3.Response, got answer, what string) {
	t.Helper()
	for _, name := range telling {
		if got.header.Get(name) != "" {
			require.Contains(t, response.Headers, name, what)
		}
	}
}

// note notes an error's code.
func (d *truth) note(status int, value any) {
	object, _ := value.(map[string]any)
	if code, ok := object["code"].(string); ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.codes[fmt.Sprint(status, " ", code)] = true
	}
}

// undocumented are the members of an answer that its schema does not name.
func undocumented(ref *openapi3.SchemaRef, value any, at string) []string {
	schemas := parts(ref)
	var out []string
	switch v := value.(type) {
	case []any:
		for _, s := range schemas {
			for i, item := range v {
				if s.Items != nil {
					out = append(out, undocumented(s.Items, item, fmt.Sprintf("%s[%d]", at, i))...)
				}
			}
		}
	case map[string]any:
		named, isFree := map[string]*openapi3.SchemaRef{}, true
		for _, s := range schemas {
			isFree = isFree && len(s.Properties) == 0
			maps.Copy(named, s.Properties)
		}
		for name, member := range v {
			if p, ok := named[name]; ok {
				out = append(out, undocumented(p, member, at+"."+name)...)
			} else if !isFree {
				out = append(out, at+"."+name)
			}
		}
	}
	return out
}

// parts are a schema and those it is made of.
func parts(ref *openapi3.SchemaRef) []*openapi3.Schema {
	if ref == nil {
		return nil
	}
	out := []*openapi3.Schema{ref.Value}
	for _, list := range []openapi3.SchemaRefs{ref.Value.AllOf, ref.Value.OneOf, ref.Value.AnyOf} {
		for _, part := range list {
			out = append(out, parts(part)...)
		}
	}
	return out
}
