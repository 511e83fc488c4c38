package auth

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Limits of one fetch.
const (
	// FetchTimeout bounds a fetch, from dialling to the answer's last byte.
	FetchTimeout = 3 * time.Second
	// SetBytesMax bounds an answer's body, after decompression.
	SetBytesMax = 1 << 20
	// headerBytesMax bounds an answer's header, with a client of our own.
	headerBytesMax = 64 << 10
)

// newClient returns a client that goes nowhere but where it is sent.
func newClient(given *http.Client) *http.Client {
	client := &http.Client{}
	if given != nil {
		*client = *given
	} else {
		client.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: headerBytesMax,
			MaxIdleConns: 1, MaxConnsPerHost: 1, IdleConnTimeout: 90 * time.Second,
		}
	}
	client.Jar = nil
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// fetch asks for the set once.
func fetch(ctx context.Context, client *http.Client, url string) (set *keySet, ignored []string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, nil, fmt.Errorf("fetch keys: %w", err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("fetch keys: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("fetch keys: the answer's status is %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, SetBytesMax+1))
	if err != nil {
		return nil, nil, fmt.Errorf("fetch keys: %w", err)
	}
	if len(data) > SetBytesMax {
		return nil, nil, fmt.Errorf("fetch keys: the answer has more than %d bytes", SetBytesMax)
	}
	if set, ignored, err = parseSet(data); err != nil {
		return nil, nil, fmt.Errorf("fetch keys: %w", err)
	}
	return set, ignored, nil
}
