// Package docs is the API's description: one OpenAPI 3.1 document, written in the
// files of openapi/, served as /openapi.json and, rendered to one page, as /docs.
//
// It guarantees that both are the same document, that the page needs no script and
// nothing from elsewhere, and that neither asks for a token. That the document is true
// is for the tests of cmd/tallymq to prove, which send every request in it to a
// service and check every answer.
//
// It imports echo, go-json-experiment and a YAML parser; nothing of TallyMQ.
package docs
