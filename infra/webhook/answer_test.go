package webhook

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// margin is what a busy machine may take longer.
const margin = 5 * time.Second

func TestSend_aBodyWithoutEndChangesNothing(t *testing.T) {
	t.Parallel()
	drip := func(w http.ResponseWriter, r *http.Request) { // a byte, and then none
		_, _ = w.Write([]byte("x"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	flood := func(w http.ResponseWriter, r *http.Request) {
		for chunk := make([]byte, 1<<14); r.Context().Err() == nil; {
			_, _ = w.Write(chunk)
		}
	}
	for name, stream := range map[string]http.HandlerFunc{"drip": drip, "flood": flood} {
		for _, http2 := range []bool{false, true} {
			t.Run(name+" HTTP/2 "+strconv.FormatBool(http2), func(t *testing.T) {
				t.Parallel()
				ended := make(chan struct{})
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(ended)
					_, _ = io.Copy(io.Discard, r.Body)
					stream(w, r)
				}))
				srv.EnableHTTP2 = http2
				srv.StartTLS()
				t.Cleanup(srv.Close)
				c := clientOf(t, nil, loopback...)
				trust(c, srv)
				r := delivery(srv.URL)
				r.Timeout = TimeoutMax

				begun := time.Now()
				result := c.Send(t.Context(), r)
				require.True(t, result.OK())
				require.Less(t, time.Since(begun), AnswerBodyTime+margin)
				<-ended // the receiver's connection or stream is closed
			})
		}
	}
}

func TestSend_theConnectionIsUsedAgainAfterABodyWithinBounds(t *testing.T) {
	t.Parallel()
	for size, connections := range map[int]int64{0: 1, 100: 1, AnswerBodyMax: 1, AnswerBodyMax + 1: 3} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			s := serveRaw(t, "127.0.0.1:0", nil, func(s *rawServer, conn net.Conn) {
				for in := bufio.NewReader(conn); s.readRequest(in); {
					_, _ = io.WriteString(conn, "HTTP/1.1 500 No\r\nContent-Length: "+strconv.Itoa(size)+"\r\n\r\n"+strings.Repeat("x", size))
				}
			})
			c := clientOf(t, nil, loopback...)
			for range 3 {
				require.Equal(t, 500, c.Send(t.Context(), delivery(s.url)).Status)
			}
			require.Equal(t, connections, s.connections.Load())
		})
	}
}

func TestSend_endsInTimeWhateverComes(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(s *rawServer, conn net.Conn){
		"silence":                 func(_ *rawServer, conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"a body that is not read": func(_ *rawServer, _ net.Conn) { <-t.Context().Done() },
		"a byte now and then": func(s *rawServer, conn net.Conn) {
			s.readRequest(bufio.NewReader(conn))
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: ")
			for range tick.C {
				if _, err := conn.Write([]byte("x")); err != nil {
					return
				}
			}
		},
		"one 103 after another": func(s *rawServer, conn net.Conn) {
			s.readRequest(bufio.NewReader(conn))
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveRaw(t, "127.0.0.1:0", nil, serve)
			r := delivery(s.url)
			r.Timeout = 0 // moved to TimeoutMin
			r.Body = make([]byte, 16<<20)
			result := clientOf(t, nil, loopback...).Send(t.Context(), r)
			require.EqualError(t, result.Err, "timeout after 1s")
			require.GreaterOrEqual(t, result.Took, TimeoutMin)
			require.Less(t, result.Took, TimeoutMin+margin)
		})
	}
}

func TestSend_doesNotWaitForAnotherProtocol(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	s := serveRaw(t, "127.0.0.1:0", nil, func(s *rawServer, conn net.Conn) {
		defer close(closed)
		in := bufio.NewReader(conn)
		s.readRequest(in)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = io.Copy(io.Discard, in)
	})
	result := clientOf(t, nil, loopback...).Send(t.Context(), delivery(s.url))
	require.Equal(t, http.StatusSwitchingProtocols, result.Status)
	require.False(t, result.OK())
	<-closed
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, " ": 0, "0": 0, "1": time.Second, " 120 ": 2 * time.Minute, "007": 7 * time.Second,
		"86400": RetryAfterMax, "86401": RetryAfterMax, "9223372036854775807": RetryAfterMax, strings.Repeat("9", 100): RetryAfterMax,
		"-1": 0, "+1": 0, "1.5": 0, "1s": 0, "soon": 0, "1, 2": 0,
		"Sun, 01 Mar 2026 12:00:30 GMT":  30 * time.Second,
		"Sunday, 01-Mar-26 12:00:30 GMT": 30 * time.Second,
		"Sun Mar  1 12:00:30 2026":       30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT":  0,
		"Sun, 01 Mar 2076 11:00:00 GMT":  RetryAfterMax,
		"Sun, 01 Mar 9999 11:00:00 GMT":  RetryAfterMax,
		"Sun, 01 Mar 0001 11:00:00 GMT":  0,
	} {
		require.Equal(t, want, retryAfter(text, now), text)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "120", "99999999999999999999", "-5", "Sun, 01 Mar 2026 12:00:30 GMT", "Sunday, 01-Mar-26 12:00:30 GMT"} {
		f.Add(seed, int64(1_772_366_400))
	}
	f.Fuzz(func(t *testing.T, text string, now int64) {
		got := retryAfter(text, time.Unix(now, 0))
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, RetryAfterMax)
	})
}
