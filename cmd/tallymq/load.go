package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// loader puts load on a service over connections that stay open.
type loader struct {
	client http.Client
	base   string
}

func newLoader(addr string, connections int) *loader {
	return &loader{base: "http://" + addr, client: http.Client{
		Timeout:   clientTimeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true},
	}}
}

// post sends a request and returns the answer's status and body.
func (l *loader) post(ctx context.Context, path string, body []byte, headers ...string) (int, []byte, error) {
	// A request that was sent is seen through: its connection is worth keeping.
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, l.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("load: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	for n := 0; n+1 < len(headers); n += 2 {
		req.Header.Set(headers[n], headers[n+1])
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("load: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return 0, nil, fmt.Errorf("load: %w", err)
	}
	return resp.StatusCode, text, nil
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

// errFailed is a step that was answered, but not as it should be.
var errFailed = errors.New("the answer was not the one wanted")

// load runs step, so many at once, until the time is over. step returns how much
// it did, or errFailed, which is counted; any other error ends the load.
func load(ctx context.Context, workers int, d time.Duration, step func(context.Context) (int, error)) (measured, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var mu sync.Mutex
	var all measured
	var failure error
	var wg sync.WaitGroup
	began := time.Now()
	for range workers {
		wg.Go(func() {
			mine, err := loadOne(ctx, step)
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

func loadOne(ctx context.Context, step func(context.Context) (int, error)) (m measured, err error) {
	for ctx.Err() == nil {
		began := time.Now()
		n, err := step(ctx)
		if errors.Is(err, errFailed) {
			m.failures++
			continue
		}
		if err != nil {
			return m, err
		}
		m.latency = append(m.latency, time.Since(began))
		m.done += n
	}
	return m, nil
}
