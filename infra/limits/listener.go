package limits

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Limits of connections.
const (
	// DefaultConnectionsMax is how many connections may be open at once.
	DefaultConnectionsMax = 10_000
	// RefusalTime bounds how long a refused connection is kept for its client to
	// read why.
	RefusalTime = time.Second
	// RefusalsMax is how many of them are told why at once; others are closed.
	RefusalsMax = 64

	// refusalReadMax is how much of what a refused client sent is read.
	refusalReadMax = 64 << 10
)

// Listener bounds the open connections of a listener. Past the bound, a connection
// gets an answer and is closed.
//
// To leave it in the system's queue instead, as netutil.LimitListener does, would let
// a client believe that it is connected, and wait for its own timeout; one that is
// told can go to another instance at once, and so can a load balancer. Probes of the
// instance's health are connections, too.
type Listener struct {
	net.Listener

	most   int64
	answer []byte
	open   atomic.Int64
	// telling has a place for each refused connection that is being told why.
	telling chan struct{}
}

// LimitConnections lets most connections be open at once; 0 or less is no limit.
// answer is what a connection past it gets, as it goes over the wire.
func LimitConnections(l net.Listener, most int, answer []byte) *Listener {
	return &Listener{Listener: l, most: int64(most), answer: answer, telling: make(chan struct{}, RefusalsMax)}
}

// Open is how many connections are open, without those being refused.
func (l *Listener) Open() int { return int(l.open.Load()) }

// Accept waits for a connection within the bound.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err //nolint:wrapcheck // net/http looks at what it is
		}
		if open := l.open.Add(1); l.most <= 0 || open <= l.most {
			return &connection{Conn: conn, open: &l.open}, nil
		}
		l.open.Add(-1)
		l.refuse(conn)
	}
}

func (l *Listener) refuse(conn net.Conn) {
	select {
	case l.telling <- struct{}{}:
		go func() {
			defer func() { <-l.telling }()
			tell(conn, l.answer)
		}()
	default:
		_ = conn.Close()
	}
}

// tell answers a connection and closes it. It reads what the client sent: closing
// over unread bytes resets the connection, and the answer could be lost.
func tell(conn net.Conn, answer []byte) {
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(RefusalTime)); err != nil {
		return
	}
	if _, err := conn.Write(answer); err != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, conn, refusalReadMax)
}

// connection is counted until it is closed.
type connection struct {
	net.Conn

	open   *atomic.Int64
	closed atomic.Bool
}

// Close closes the connection; it counts no more.
func (c *connection) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close() //nolint:wrapcheck // the connection's own
}

// CloseWrite ends what is sent. net/http does it before it closes over unread bytes,
// so that its answer is not lost.
func (c *connection) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite() //nolint:wrapcheck // the connection's own
}
