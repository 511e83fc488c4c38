package webhook

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// reply is what a receiver answers whatever is asked.
func reply(text string) func(*rawServer, net.Conn) {
	return func(s *rawServer, conn net.Conn) {
		in := bufio.NewReader(conn)
		s.readRequest(in)
		_, _ = io.WriteString(conn, text)
		_, _ = io.Copy(io.Discard, in) // the sender closes
	}
}

func TestSend_saysWhyThereIsNoAnswer(t *testing.T) {
	t.Parallel()
	untrusted := httptest.NewUnstartedServer(nil)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	old := httptest.NewUnstartedServer(nil)
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11} //nolint:gosec // what must be refused
	old.Config.ErrorLog = untrusted.Config.ErrorLog
	old.StartTLS()
	t.Cleanup(old.Close)
	plain := httptest.NewServer(nil)
	t.Cleanup(plain.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for want, url := range map[string]string{
		"connection refused":                   gone.URL,
		"TLS: certificate is not trusted":      untrusted.URL,
		"TLS: handshake failed":                old.URL,
		"TLS: the receiver does not speak TLS": strings.Replace(plain.URL, "http:", "https:", 1),
		"connection closed without an answer": serveRaw(t, "127.0.0.1:0", nil, func(_ *rawServer, conn net.Conn) {
			_, _ = conn.Read(make([]byte, 4096))
		}).url,
		"malformed answer":        serveRaw(t, "127.0.0.1:0", nil, reply("220 mail.internal ESMTP\r\n")).url,
		"too large answer header": serveRaw(t, "127.0.0.1:0", nil, reply("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", AnswerHeaderMax)+"\r\n\r\n")).url,
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			result := clientOf(t, nil, loopback...).Send(t.Context(), delivery(url+"?secret=1"))
			require.EqualError(t, result.Err, want)
			require.Zero(t, result.Status)
			require.False(t, result.OK())
		})
	}
}

func TestSend_boundsAnAnswersHeaderByHTTP2(t *testing.T) {
	t.Parallel()
	for want, fields := range map[string][]string{
		"too large answer header": slices.Repeat([]string{strings.Repeat("x", 1024)}, AnswerHeaderMax/1024+1),
		// A field larger than all may be is not even unpacked.
		"HTTP/2: malformed answer": {strings.Repeat("x", 2*AnswerHeaderMax)},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["X"] = fields
			}))
			srv.EnableHTTP2 = true
			srv.StartTLS()
			t.Cleanup(srv.Close)
			c := clientOf(t, nil, loopback...)
			trust(c, srv)
			require.EqualError(t, c.Send(t.Context(), delivery(srv.URL)).Err, want)
		})
	}
}

func TestSend_saysThatANameIsUnknown(t *testing.T) {
	t.Parallel()
	resolver := resolverOf(t, func(int) []string { return nil })
	result := clientOf(t, resolver).Send(t.Context(), delivery("http://nobody.example.test./"))
	require.EqualError(t, result.Err, "DNS: host not found")
}

func TestSend_saysThatACertificateIsForAnotherHost(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(nil)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c := clientOf(t, resolverOf(t, func(int) []string { return []string{"127.0.0.1"} }), loopback...)
	trust(c, srv)
	url := strings.Replace(srv.URL, "127.0.0.1", "other.example.test.", 1)
	require.EqualError(t, c.Send(t.Context(), delivery(url)).Err, "TLS: certificate is for another host")
}

func TestExplain_textsAreShortAndNameNothing(t *testing.T) {
	t.Parallel()
	secret := "https://user:pass@10.1.2.3:99/hook?token=abc " + strings.Repeat("x", 1000)
	addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.1.2.3:99"))
	for want, cause := range map[string]error{
		"connection reset":         errors.Join(errors.New(secret), syscall.ECONNRESET),
		"host not reachable":       syscall.EHOSTUNREACH,
		"DNS: timeout":             &net.DNSError{Err: secret, Server: "10.1.2.3:53", IsTimeout: true},
		"DNS: lookup failed":       &net.DNSError{Err: secret, Server: "10.1.2.3:53", Name: secret},
		"timeout while connecting": syscall.ETIMEDOUT,
		"TLS: certificate has expired or is not yet valid": &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired, Detail: secret}},
		"TLS: certificate is not valid":                    &tls.CertificateVerificationError{Err: errors.New(secret)},
		"TLS: handshake failed":                            tls.AlertError(40),
		"no answer":                                        errors.New(secret),
		"address not allowed":                              ErrNotAllowed,
	} {
		got := explain(&net.OpError{Op: "dial " + secret, Net: "tcp", Addr: addr, Err: cause})
		require.EqualError(t, got, want)
		require.ErrorIs(t, got, cause)
		require.LessOrEqual(t, len(got.Error()), ErrorTextMax)
	}
	require.EqualError(t, timedOut(TimeoutMax, nil), "timeout after 60s")
}
