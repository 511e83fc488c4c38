package webhook

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// loopback lets tests deliver to this machine.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func clientOf(tb testing.TB, resolver *net.Resolver, allow ...netip.Prefix) *Client {
	c := newClient(Config{Allow: allow, UserAgent: "test/1"}, resolver)
	tb.Cleanup(c.Close)
	return c
}

// trust makes a client trust a test server's certificate. It is called before any Send.
func trust(c *Client, srv *httptest.Server) {
	c.transport.TLSClientConfig.RootCAs = srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}

func delivery(url string) Request {
	return Request{
		URL: url, Timeout: 10 * time.Second, ID: "0198c0de-7b1c-7d0e-9b1e-6a1d2c3b4a59",
		ContentType: "application/json", Body: []byte(`{"hello":"world"}`),
	}
}

// rawServer answers connections by hand. It counts them and the requests.
type rawServer struct {
	url                   string
	connections, requests atomic.Int64
	// isDeaf says that the machine has no such address to listen on.
	isDeaf bool
}

// serveRaw calls serve for every connection, which is closed when it returns. It listens
// by TLS where there is a configuration.
func serveRaw(t *testing.T, address string, conf *tls.Config, serve func(s *rawServer, conn net.Conn)) *rawServer {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil && strings.HasPrefix(address, "[") {
		// Without IPv6 nobody listens, and it is to be refused all the same.
		return &rawServer{url: "http://[::1]:9/hook", isDeaf: true}
	}
	require.NoError(t, err)
	s := &rawServer{url: "http://" + listener.Addr().String() + "/hook"}
	if conf != nil {
		listener = tls.NewListener(listener, conf)
		s.url = "https" + strings.TrimPrefix(s.url, "http")
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			go func() {
				defer func() { _ = conn.Close() }()
				serve(s, conn)
			}()
		}
	}()
	return s
}

// readRequest reads a request whole, and counts it.
func (s *rawServer) readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	s.requests.Add(1)
	for {
		if _, err := req.Body.Read(make([]byte, 1024)); err != nil {
			return true
		}
	}
}

// resolverOf is a resolver that asks a name server which answers the n-th lookup of IPv4
// addresses (from 0) with answer(n), and has no IPv6 addresses. No answer: no such name.
func resolverOf(t *testing.T, answer func(n int) []string) *net.Resolver {
	conn, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		lookups, query := 0, make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			end := 12
			for query[end] != 0 {
				end += int(query[end]) + 1
			}
			end += 5
			var addresses []string
			if isA := n >= end && query[end-3] == 1; isA {
				addresses = answer(lookups)
				lookups++
			}
			_, _ = conn.WriteTo(dnsReply(query[:end], addresses), from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// dnsReply answers a query of one question (RFC 1035, 4).
func dnsReply(query []byte, addresses []string) []byte {
	reply := append([]byte(nil), query...)
	copy(reply[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
	if isA := query[len(query)-3] == 1; isA && len(addresses) == 0 {
		reply[3] |= 3 // no such name
	}
	for _, a := range addresses {
		reply[7]++
		ip := netip.MustParseAddr(a).As4()
		reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, ip[:]...)
	}
	return reply
}
