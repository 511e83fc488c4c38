package webhook

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// repeatable are deliveries that net/http would like to repeat.
func repeatable(url string) map[string]Request {
	requests := make(map[string]Request)
	for _, body := range []string{"", "{}"} {
		r := delivery(url)
		r.Body = []byte(body)
		r.Header = http.Header{"Idempotency-Key": {"1"}, "X-Idempotency-Key": {"1"}}
		requests[fmt.Sprintf("body %q", body)] = r
	}
	return requests
}

func TestSend_isSeenOnceWhereAConnectionIsClosedUnderIt(t *testing.T) {
	t.Parallel()
	for name, r := range repeatable("") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// given a receiver that answers a connection's first request, reads its
			// second and closes the connection
			s := serveRaw(t, "127.0.0.1:0", nil, func(s *rawServer, conn net.Conn) {
				in := bufio.NewReader(conn)
				if s.readRequest(in) {
					_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
					s.readRequest(in)
				}
			})
			c := clientOf(t, nil, loopback...)
			r.URL = s.url
			for i := range 10 {
				result := c.Send(t.Context(), r)
				require.Equal(t, i%2 == 0, result.OK(), "every second request is on a used connection")
				require.Equal(t, int64(i+1), s.requests.Load(), "requests seen")
				if !result.OK() {
					require.EqualError(t, result.Err, "connection closed without an answer")
				}
			}
		})
	}
}

func TestSend_isSeenOnceWhereIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	for name, r := range repeatable("") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveRaw(t, "127.0.0.1:0", nil, func(s *rawServer, conn net.Conn) {
				s.readRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			})
			c := clientOf(t, nil, loopback...)
			r.URL = s.url
			for i := range int64(100) {
				_ = c.Send(t.Context(), r) // it may have failed
				require.LessOrEqual(t, s.requests.Load(), i+1, "requests seen")
			}
		})
	}
}

// Frames of HTTP/2 (RFC 9113, 6) that the receiver below needs.
const (
	frameHeaders   = 1
	frameRST       = 3
	frameSettings  = 4
	protocolError  = 1
	refusedStream  = 7
	frameHeaderLen = 9
)

func TestSend_isSeenOnceWhereAStreamIsRefused(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(srv.Close)
	conf := &tls.Config{Certificates: srv.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	for _, code := range []uint32{protocolError, refusedStream} {
		for name, r := range repeatable("") {
			t.Run(fmt.Sprint("code ", code, " ", name), func(t *testing.T) {
				t.Parallel()
				s := serveRaw(t, "127.0.0.1:0", conf, func(s *rawServer, conn net.Conn) { refuseStreams(s, conn, code) })
				c := clientOf(t, nil, loopback...)
				trust(c, srv)
				r.URL = s.url
				for i := range 3 {
					require.EqualError(t, c.Send(t.Context(), r).Err, "HTTP/2: the receiver ended the request")
					require.Equal(t, int64(i+1), s.requests.Load(), "requests seen")
				}
			})
		}
	}
}

// refuseStreams speaks as much HTTP/2 as it takes to refuse every request.
func refuseStreams(s *rawServer, conn net.Conn, code uint32) {
	in := bufio.NewReader(conn)
	if _, err := in.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
		return
	}
	_, _ = conn.Write([]byte{0, 0, 0, frameSettings, 0, 0, 0, 0, 0})
	for {
		var header [frameHeaderLen]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return
		}
		length := int(header[0])<<16 | int(header[1])<<8 | int(header[2])
		if _, err := in.Discard(length); err != nil {
			return
		}
		switch header[3] {
		case frameSettings:
			if isAck := header[4] == 1; !isAck {
				_, _ = conn.Write([]byte{0, 0, 0, frameSettings, 1, 0, 0, 0, 0})
			}
		case frameHeaders:
			s.requests.Add(1)
			rst := append([]byte{0, 0, 4, frameRST, 0}, header[5:]...)
			_, _ = conn.Write(binary.BigEndian.AppendUint32(rst, code))
		}
	}
}
