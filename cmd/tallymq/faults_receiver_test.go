package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// faultTimeout is the webhooks' timeout, the least there is.
	faultTimeout = time.Second
	// faultTooLate is when an answer comes that nobody waits for any more. On a machine
	// that is busy, timers are late: it must be clear who was first.
	faultTooLate = faultTimeout + time.Second
	// faultStreamMax bounds streams without end, far above what the service reads of one.
	faultStreamMax = 64 << 20
)

// fault is a way in which an endpoint fails.
type fault struct {
	name string
	// oneIn says how many of the attempts it gets fail: every so-manieth. Where each
	// costs a timeout, few do.
	oneIn uint32
	// fail fails an attempt; dice are the attempt's own.
	fail func(c *faultCall, dice uint32)
	// counts reports that the service may count it as delivered nevertheless; nil is never.
	counts func(dice uint32) bool
}

// faults are those of the endpoints.
var faults = []fault{
	{name: "never", oneIn: 12, fail: never},
	{name: "drip", oneIn: 12, fail: drip, counts: func(dice uint32) bool { return dice%2 == 0 }},
	{name: "endless", oneIn: 3, fail: endless, counts: func(dice uint32) bool { return dice%3 == 1 }},
	{name: "reset", oneIn: 3, fail: reset},
	{name: "late", oneIn: 12, fail: late},
	{name: "limited", oneIn: 3, fail: limited},
}

// never answers nothing until the caller has given up.
func never(c *faultCall, _ uint32) {
	select {
	case <-c.req.Context().Done():
	case <-c.stop:
	}
}

// late answers well when nobody waits for it any more.
func late(c *faultCall, _ uint32) {
	c.pause(faultTooLate)
	c.w.WriteHeader(http.StatusOK)
}

// drip answers one byte a second: the body behind a header that counts, or the header.
func drip(c *faultCall, dice uint32) {
	head := "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"
	c.hijacked(func(conn net.Conn) {
		rest := head
		if dice%2 == 0 {
			_, _ = io.WriteString(conn, head)
			rest = strings.Repeat("x", 20)
		}
		for n := range rest {
			if _, err := io.WriteString(conn, rest[n:n+1]); err != nil || !c.pause(time.Second) {
				return
			}
		}
	})
}

// endless streams without end: a header, or the body of an answer that counts or does not.
func endless(c *faultCall, dice uint32) {
	head := [...]string{
		"HTTP/1.1 200 OK\r\nX-Endless: ", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n",
		"HTTP/1.1 500 Internal Server Error\r\n\r\n",
	}[dice%3]
	c.hijacked(func(conn net.Conn) {
		_, _ = io.WriteString(conn, head)
		chunk := bytes.Repeat([]byte("endless "), 4096)
		for range faultStreamMax / len(chunk) {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	})
}

// reset resets the connection: before the body was read, after, or within the answer.
func reset(c *faultCall, dice uint32) {
	c.hijacked(func(conn net.Conn) {
		if dice%3 == 2 {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 O")
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	})
}

// limited answers 429, and now and then asks for a second's rest.
func limited(c *faultCall, dice uint32) {
	if dice%32 == 0 {
		c.w.Header().Set("Retry-After", "1")
	}
	c.w.WriteHeader(http.StatusTooManyRequests)
}

// faultCall is a request to fail.
type faultCall struct {
	w    http.ResponseWriter
	req  *http.Request
	stop <-chan struct{}
}

// pause waits, and reports whether the test goes on.
func (c *faultCall) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.stop:
		return false
	}
}

// hijacked does with the connection what net/http would not, and closes it.
func (c *faultCall) hijacked(do func(net.Conn)) {
	conn, _, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
	do(conn)
}

// sighting is an attempt that an endpoint saw, if only in part.
type sighting struct {
	at      time.Time
	message string
	attempt int
	key     string
	// said is what it did with it; mayCount that it may count as delivered.
	said     string
	mayCount bool
}

func (s sighting) String() string {
	return fmt.Sprintf("%s %s attempt %d key %s: %s", s.at.Format("05.000"), s.message, s.attempt, s.key, s.said)
}

// endpoint is a real HTTP server that fails now and then.
type endpoint struct {
	name   string
	fault  fault
	server *httptest.Server
	stop   chan struct{}

	mu   sync.Mutex
	seen []sighting
}

func newEndpoint(t *testing.T, name string, f fault) *endpoint {
	t.Helper()
	e := &endpoint{name: name, fault: f, stop: make(chan struct{})}
	e.server = httptest.NewServer(e)
	t.Cleanup(func() {
		close(e.stop)
		e.server.CloseClientConnections()
		e.server.Close()
	})
	return e
}

// ServeHTTP notes the attempt before anything else, then takes or fails it.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := req.Header
	attempt, err := strconv.Atoi(h.Get("X-Tallymq-Attempt"))
	if err != nil {
		attempt = -1 // no attempt has that number, so the check finds it
	}
	s := sighting{at: time.Now(), message: h.Get("Webhook-Id"), attempt: attempt, key: h.Get("X-Tallymq-Message-Key"), said: "taken", mayCount: true}
	dice := diceOf(e.name, s.message, h.Get("X-Tallymq-Attempt"))
	fails := dice%e.fault.oneIn == 0
	dice /= e.fault.oneIn
	if fails {
		s.said, s.mayCount = e.fault.name, e.fault.counts != nil && e.fault.counts(dice)
	}
	n := e.note(s)
	// Half of what is reset is not even read.
	if fails && e.fault.name == "reset" && dice%2 == 0 {
		e.fault.fail(&faultCall{w, req, e.stop}, dice/2)
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		e.amend(n, "cut off by the caller")
		return
	}
	var message struct {
		Doomed bool `json:"doomed"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		e.amend(n, "unreadable: "+err.Error())
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch {
	case message.Doomed:
		e.amend(n, "refused")
		w.WriteHeader(http.StatusInternalServerError)
	case fails:
		e.fault.fail(&faultCall{w, req, e.stop}, dice)
	}
}

func (e *endpoint) note(s sighting) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, s)
	return len(e.seen) - 1
}

// amend says that an attempt failed otherwise than was noted.
func (e *endpoint) amend(n int, said string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen[n].said, e.seen[n].mayCount = said, false
}

// sightings are all so far, in order.
func (e *endpoint) sightings() []sighting {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]sighting(nil), e.seen...)
}

// diceOf are an attempt's own: they fall alike whenever it is looked at.
func diceOf(parts ...string) uint32 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = io.WriteString(h, p+"|")
	}
	sum := h.Sum64()
	return uint32(sum>>32) ^ uint32(sum) //nolint:gosec // the halves
}
