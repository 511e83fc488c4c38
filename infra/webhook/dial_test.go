package webhook

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// answerAll answers every request with 204.
func answerAll(s *rawServer, conn net.Conn) {
	for in := bufio.NewReader(conn); s.readRequest(in); {
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
	}
}

func TestSend_reachesNoLoopbackListener(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			s := serveRaw(t, address, nil, answerAll)
			_, port, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/hook"))
			c := clientOf(t, nil)
			for _, host := range []string{
				"127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]",
				"[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost", "localhost.", "x.localhost",
			} {
				require.Error(t, c.Send(t.Context(), delivery("http://"+host+":"+port+"/")).Err, host)

				// And where nobody looked at the URL: the dialler itself refuses.
				host = strings.Trim(host, "[]")
				conn, err := c.transport.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
				require.Error(t, err, host)
				require.Nil(t, conn)
			}
			require.Zero(t, s.connections.Load())

			if s.isDeaf {
				return
			}
			require.True(t, clientOf(t, nil, loopback...).Send(t.Context(), delivery(s.url)).OK(), "the listener listens")
			require.Equal(t, int64(1), s.requests.Load())
		})
	}
}

func TestSend_checksTheAddressThatIsDialled(t *testing.T) {
	t.Parallel()
	// given a name that is public when it is looked up first, and loopback after that
	s := serveRaw(t, "127.0.0.1:0", nil, answerAll)
	resolver := resolverOf(t, func(n int) []string {
		if n == 0 {
			return []string{"8.8.8.8"}
		}
		return []string{"127.0.0.1"}
	})
	first, err := resolver.LookupNetIP(t.Context(), "ip4", "rebind.example.test.")
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("8.8.8.8")}, first)
	url := strings.Replace(s.url, "127.0.0.1", "rebind.example.test.", 1)

	// when it is delivered to
	c := clientOf(t, resolver)
	require.NoError(t, c.CheckURL(url))
	result := c.Send(t.Context(), delivery(url))

	// then nothing is dialled
	require.ErrorIs(t, result.Err, ErrNotAllowed)
	require.EqualError(t, result.Err, "address not allowed")
	require.Zero(t, s.connections.Load())

	// and the very same name is reached where the address is allowed
	require.True(t, clientOf(t, resolver, loopback...).Send(t.Context(), delivery(url)).OK())
}

func TestSend_checksEveryAddressOfAName(t *testing.T) {
	t.Parallel()
	s := serveRaw(t, "127.0.0.1:0", nil, answerAll)
	resolver := resolverOf(t, func(int) []string { return []string{"10.0.0.1", "169.254.169.254", "127.0.0.1"} })
	url := strings.Replace(s.url, "127.0.0.1", "many.example.test.", 1)

	require.ErrorIs(t, clientOf(t, resolver).Send(t.Context(), delivery(url)).Err, ErrNotAllowed)
	require.ErrorIs(t, clientOf(t, resolver, netip.MustParsePrefix("127.0.0.2/32")).Send(t.Context(), delivery(url)).Err, ErrNotAllowed)
	require.Zero(t, s.connections.Load())
	require.True(t, clientOf(t, resolver, loopback...).Send(t.Context(), delivery(url)).OK(), "the one that is allowed is dialled")
}
