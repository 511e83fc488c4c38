package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// loadConn is a keep-alive HTTP/1.1 connection that does no more than a load
// generator needs, so that what is measured is the service and not net/http's
// client beside it on the same cores. It reads answers with a Content-Length.
type loadConn struct {
	conn net.Conn
	r    *bufio.Reader
	body []byte
}

func dialLoad(ctx context.Context, addr string) (*loadConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &loadConn{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}, nil
}

// request is a request's bytes, made once and sent many times.
func request(path, body string, headers ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, len(body))
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.Bytes()
}

var errAnswer = errors.New("the answer is no HTTP/1.1 with a length")

// do sends a request and returns the answer's status and body, which the next
// call overwrites.
func (c *loadConn) do(req []byte) (status int, body []byte, err error) {
	if _, err := c.conn.Write(req); err != nil {
		return 0, nil, fmt.Errorf("send: %w", err)
	}
	first, err := c.r.ReadSlice('\n')
	if err != nil || len(first) < 12 {
		return 0, nil, fmt.Errorf("answer: %w", errors.Join(err, errAnswer))
	}
	if status, err = strconv.Atoi(string(first[9:12])); err != nil {
		return 0, nil, errAnswer
	}
	length := 0
	for {
		header, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, nil, fmt.Errorf("answer: %w", err)
		}
		if len(header) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(header, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, errAnswer
			}
		}
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	if _, err := io.ReadFull(c.r, c.body); err != nil {
		return 0, nil, fmt.Errorf("answer: %w", err)
	}
	return status, c.body, nil
}

// measured is what a load has shown.
type measured struct {
	done     int
	took     time.Duration
	latency  []time.Duration
	failures int
}

func (m measured) perSecond() float64 { return float64(m.done) / m.took.Seconds() }

// quantile is of the sorted latencies.
func (m measured) quantile(q float64) time.Duration {
	if len(m.latency) == 0 {
		return 0
	}
	return m.latency[min(int(q*float64(len(m.latency))), len(m.latency)-1)]
}

// load runs step on so many connections at once until the time is over. step
// returns how much it did, -1 for a failure.
func load(ctx context.Context, addr string, connections int, d time.Duration, step func(*loadConn) (int, error)) (measured, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var mu sync.Mutex
	var all measured
	var failure error
	var wg sync.WaitGroup
	began := time.Now()
	for range connections {
		wg.Go(func() {
			mine, err := loadOne(ctx, addr, step)
			mu.Lock()
			defer mu.Unlock()
			all.done += mine.done
			all.failures += mine.failures
			all.latency = append(all.latency, mine.latency...)
			failure = errors.Join(failure, err)
		})
	}
	wg.Wait()
	all.took = time.Since(began)
	slices.Sort(all.latency)
	return all, failure
}

func loadOne(ctx context.Context, addr string, step func(*loadConn) (int, error)) (m measured, err error) {
	c, err := dialLoad(context.WithoutCancel(ctx), addr)
	if err != nil {
		return m, err
	}
	defer func() { _ = c.conn.Close() }()
	for ctx.Err() == nil {
		began := time.Now()
		n, err := step(c)
		if err != nil {
			return m, err
		}
		if n < 0 {
			m.failures++
			continue
		}
		m.latency = append(m.latency, time.Since(began))
		m.done += n
	}
	return m, nil
}
