package limits

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const testAnswer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

// listen serves HTTP behind a bound, and returns how to connect.
func listen(t *testing.T, most int) (*Listener, func() net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := LimitConnections(inner, most, []byte(testAnswer))
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNoContent)
		}),
		ReadHeaderTimeout: time.Minute,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		require.Eventually(t, func() bool { return l.Open() == 0 && len(l.telling) == 0 }, 10*time.Second, time.Millisecond)
	})
	return l, func() net.Conn {
		conn, err := net.Dial("tcp", inner.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
		return conn
	}
}

// ask sends a request on a connection and returns the answer's status.
func ask(t *testing.T, conn net.Conn, request string) int {
	t.Helper()
	_, err := io.WriteString(conn, request)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_ = res.Body.Close()
	return res.StatusCode
}

const testRequest = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

func TestConnectionsPastTheBoundAreToldWhy(t *testing.T) {
	t.Parallel()
	l, connect := listen(t, 2)
	// given as many connections as may be
	first, second := connect(), connect()
	require.Equal(t, http.StatusNoContent, ask(t, first, testRequest))
	require.Equal(t, http.StatusNoContent, ask(t, second, testRequest))
	require.Equal(t, 2, l.Open())
	// then one more gets an answer, with a request or without one, and is closed
	require.Equal(t, http.StatusServiceUnavailable, ask(t, connect(), testRequest))
	silent := connect()
	all, err := io.ReadAll(silent)
	require.NoError(t, err)
	require.Equal(t, testAnswer, string(all))
	// those before go on
	require.Equal(t, http.StatusNoContent, ask(t, first, testRequest))
	require.Equal(t, 2, l.Open())
	// and when one leaves, there is room
	require.NoError(t, first.Close())
	require.Eventually(t, func() bool { return l.Open() == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, http.StatusNoContent, ask(t, connect(), testRequest))
}

func TestARefusedConnectionIsNotKept(t *testing.T) {
	t.Parallel()
	l, connect := listen(t, 1)
	require.Equal(t, http.StatusNoContent, ask(t, connect(), testRequest))
	// given more refused connections than are told why, none of which closes
	for range RefusalsMax + 10 {
		connect()
	}
	// then all are given up in time
	require.Eventually(t, func() bool { return len(l.telling) == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, l.Open())
}

func TestNoBoundOnConnections(t *testing.T) {
	t.Parallel()
	l, connect := listen(t, 0)
	for range 5 {
		require.Equal(t, http.StatusNoContent, ask(t, connect(), testRequest))
	}
	require.Equal(t, 5, l.Open())
}

func TestAConnectionIsCountedOnce(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := LimitConnections(inner, 5, nil)
	client, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	conn, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, 1, l.Open())
	require.NoError(t, conn.Close())
	_ = conn.Close()
	require.Zero(t, l.Open())
	require.NoError(t, l.Close())
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAnAnswerOverUnreadBytesIsNotLost(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := LimitConnections(inner, 1, nil)
	t.Cleanup(func() { _ = l.Close() })
	client, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	conn, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	half, ok := conn.(interface{ CloseWrite() error })
	require.True(t, ok, "net/http looks for it")
	_, err = io.WriteString(conn, "answer")
	require.NoError(t, err)
	require.NoError(t, half.CloseWrite())
	all, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "answer", string(all))
	piped, other := net.Pipe()
	t.Cleanup(func() { _ = piped.Close(); _ = other.Close() })
	require.ErrorIs(t, (&connection{Conn: piped}).CloseWrite(), errors.ErrUnsupported)
}
