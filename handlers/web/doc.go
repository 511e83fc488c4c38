// Package web is the HTTP edge that all handlers share: strict JSON in, the
// error format out, cursors, request ids, times.
//
// It guarantees that a request body is what it says it is (no unknown field, no
// duplicate name, nothing behind it, valid UTF-8, no NUL, bounded in size and
// depth), that raw JSON leaves byte for byte as it came, and that no internal
// error text reaches a caller.
//
// It imports the standard library, echo, go-json-experiment and uuid, nothing of
// TallyMQ.
package web
