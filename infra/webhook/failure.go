package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrorTextMax bounds the bytes of an error's text.
const ErrorTextMax = 200

// ErrRequest is what errors.Is finds where the delivery itself is wrong: its URL, id,
// content type or secrets. Nothing was sent, and another attempt will fail alike.
var ErrRequest = errors.New("the delivery cannot be sent")

// failure has a text for the tenant, and the cause for errors.Is. The cause's own text
// may name addresses: it is not for the tenant.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }

// Unwrap is the cause.
func (f *failure) Unwrap() error { return f.cause }

func timedOut(timeout time.Duration, cause error) error {
	return &failure{"timeout after " + strconv.FormatFloat(timeout.Seconds(), 'f', -1, 64) + "s", cause}
}

// explain is a transport's error for the tenant.
func explain(err error) error { return &failure{explanation(err), err} }

func explanation(err error) string {
	if errors.Is(err, ErrNotAllowed) {
		return ErrNotAllowed.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case dns.IsNotFound:
			return "DNS: host not found"
		case dns.IsTimeout:
			return "DNS: timeout"
		}
		return "DNS: lookup failed"
	}
	if text := explainTLS(err); text != "" {
		return text
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "host not reachable"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "timeout while connecting"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed without an answer"
	}
	return explainText(err.Error())
}

func explainTLS(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "TLS: certificate is not trusted"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "TLS: certificate is for another host"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "TLS: certificate has expired or is not yet valid"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "TLS: certificate is not valid"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return "TLS: the receiver does not speak TLS"
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return "TLS: handshake failed"
	}
	return ""
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// explainText knows what net/http and crypto/tls say in words only.
func explainText(text string) string {
	for _, known := range [...]struct{ part, text string }{
		{"server response headers exceeded", "too large answer header"},
		{"response header list larger", "too large answer header"},
		{"server closed idle connection", "connection closed without an answer"},
		{"tls: ", "TLS: handshake failed"},
		{"http2: ", "HTTP/2: the receiver ended the request"},
		{"stream error: ", "HTTP/2: the receiver ended the request"},
		{"connection error: ", "HTTP/2: malformed answer"},
		{"malformed", "malformed answer"},
		{"too many 1xx", "malformed answer"},
	} {
		if strings.Contains(text, known.part) {
			return known.text
		}
	}
	return "no answer"
}
