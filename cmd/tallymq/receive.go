package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// receiveBodyMax bounds a body that receive prints.
const receiveBodyMax = 16 << 20

// receiveCommand is a webhook's other end, to try things out with.
func receiveCommand() *cobra.Command {
	var addr, secret string
	var status int
	cmd := &cobra.Command{
		Use:   "receive",
		Short: "Receive webhooks on this machine and print them, to try things out",
		Long: `Listens on loopback, prints each delivery as a line and answers it. With --secret (see
GET /subscriptions/{id}/secret) it answers 401 to what is not signed with it, by the
verification of Standard Webhooks.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := &printing{out: cmd.OutOrStdout(), status: status}
			if secret != "" {
				var err error
				if h.verifier, err = standardwebhooks.NewWebhook(secret); err != nil {
					return fmt.Errorf("--secret: %w", err)
				}
			}
			return receive(cmd.Context(), addr, h)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:4000", "where to listen")
	cmd.Flags().StringVar(&secret, "secret", "", "a webhook's secret, whsec_…")
	cmd.Flags().IntVar(&status, "status", http.StatusNoContent, "what to answer; try 500")
	return cmd
}

func receive(ctx context.Context, addr string, h http.Handler) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: readHeaderTimeout}
	stop := context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = server.Shutdown(ending)
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("receive: %w", err)
	}
	return nil
}

// printing prints what it is sent.
type printing struct {
	verifier *standardwebhooks.Webhook
	status   int

	mu  sync.Mutex
	out io.Writer
}

func (p *printing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, receiveBodyMax))
	status, verdict := p.status, "unchecked"
	switch {
	case err != nil:
		return
	case p.verifier == nil:
	case p.verifier.Verify(body, r.Header) == nil:
		verdict = "verified"
	default:
		status, verdict = http.StatusUnauthorized, "not verified"
	}
	p.mu.Lock()
	_, _ = fmt.Fprintf(p.out, "%s attempt %s of %s (%s): %s\n", time.Now().UTC().Format(time.RFC3339), r.Header.Get("X-Tallymq-Attempt"),
		r.Header.Get("Webhook-Id"), verdict, body)
	p.mu.Unlock()
	w.WriteHeader(status)
}
