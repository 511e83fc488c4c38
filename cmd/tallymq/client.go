package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tallymq/tallymq/handlers/web"
)

// Limits of the command-line client.
const (
	// clientTriesMax is how often a request is made before its failure is final.
	clientTriesMax = 8
	clientWaitMin  = 200 * time.Millisecond
	clientWaitMax  = 5 * time.Second
	clientTimeout  = 60 * time.Second
	answerBytesMax = 64 << 20
)

// client calls a TallyMQ service.
type client struct {
	url, token, tenant string
	http               *http.Client
}

// flags adds what every client command takes.
func (c *client) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.url, "url", envOr("TALLYMQ_URL", "http://127.0.0.1:"+envOr("PORT", "3010")), "the service (TALLYMQ_URL)")
	cmd.Flags().StringVar(&c.tenant, "tenant", os.Getenv("TALLYMQ_TENANT"), "the tenant's id (TALLYMQ_TENANT); dev needs none")
	// Not a flag: command lines are there for every user of the machine to see.
	c.token = os.Getenv("INTERNAL_SERVICE_TOKEN")
	c.http = &http.Client{Timeout: clientTimeout}
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

// answerError is an answer that is no success.
type answerError struct {
	status int
	body   web.Error
}

func (e *answerError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.status, e.body.Code, e.body.Message)
}

// passes reports whether the same request may succeed a little later.
func (e *answerError) passes() bool {
	return e.status == http.StatusServiceUnavailable || e.status == http.StatusTooManyRequests
}

// post sends body to a path of the API and decodes the answer. With an idempotency
// key it tries again, for a while, where the service was not there or said that it
// may be later: the key makes that safe.
func (c *client) post(ctx context.Context, path, idempotencyKey string, body []byte, into any) error {
	wait := clientWaitMin
	for try := 1; ; try++ {
		err := c.once(ctx, path, idempotencyKey, body, into)
		refused, answered := err.(*answerError) //nolint:errorlint // once returns it bare
		if err == nil || (answered && !refused.passes()) || idempotencyKey == "" || try == clientTriesMax {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait = min(2*wait, clientWaitMax)
	}
}

func (c *client) once(ctx context.Context, path, idempotencyKey string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.url, "/")+apiPrefix+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range map[string]string{headerToken: c.token, headerTenant: c.tenant, "Idempotency-Key": idempotencyKey} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("call the service (is it running? make run): %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		refused := &answerError{status: resp.StatusCode}
		_ = json.Unmarshal(text, &refused.body)
		return refused
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("the answer is not JSON (is --url a TallyMQ service?): %w", err)
	}
	return nil
}

// progress is a bar on a terminal, and silent elsewhere. A total of -1 is unknown.
func progress(w io.Writer, total int64, what, unit string) *progressbar.ProgressBar {
	f, ok := w.(*os.File)
	return progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
		progressbar.OptionSetVisibility(ok && term.IsTerminal(int(f.Fd()))),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(unit), progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetRenderBlankState(true))
}
