package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/commands"
)

// consumer is the consume command.
type consumer struct {
	client

	subscription string
	count        int
	drain        bool
	envelope     bool
	out          io.Writer
	consumed     int
}

func consumeCommand() *cobra.Command {
	c := &consumer{}
	cmd := &cobra.Command{
		Use:   "consume --subscription <id>",
		Short: "Pull messages, print their payloads one a line, and acknowledge them",
		Long: `Pulls messages, prints each payload on a line of its own and acknowledges a message
once it is printed. Goes on until Ctrl-C, or as --count and --drain say. A message
that is printed and could not be acknowledged will be delivered again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.out = cmd.OutOrStdout()
			began := time.Now()
			err := c.run(cmd.Context())
			if isStopped(cmd.Context(), err) {
				err = nil
			}
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), rate(c.consumed, "consumed", time.Since(began)))
			return err
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&c.subscription, "subscription", "", "the subscription's id")
	cmd.Flags().IntVar(&c.count, "count", 0, "stop after this many messages; 0 goes on")
	cmd.Flags().BoolVar(&c.drain, "drain", false, "stop when no message is left")
	cmd.Flags().BoolVar(&c.envelope, "envelope", false, "print the whole message with its metadata, not just the payload")
	_ = cmd.MarkFlagRequired("subscription")
	return cmd
}

// rate is a summary's line.
func rate(n int, what string, took time.Duration) string {
	return fmt.Sprintf("%d %s in %s (%.0f messages/s)", n, what, took.Round(time.Millisecond), float64(n)/max(took.Seconds(), 1e-9))
}

func (c *consumer) run(ctx context.Context) error {
	wait := clientWaitMin
	for c.count == 0 || c.consumed < c.count {
		n, err := c.step(ctx)
		refused, answered := errors.AsType[*answerError](err)
		switch {
		case err == nil && n == 0 && c.drain:
			return nil
		case err == nil:
			wait = clientWaitMin
			continue
		case ctx.Err() != nil || (answered && !refused.passes()) || errors.Is(err, errPrint):
			return err
		}
		// Nothing is lost: what was leased and not acknowledged comes back.
		select {
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // asked to stop
		case <-time.After(wait):
		}
		if wait = min(2*wait, clientWaitMax); wait == clientWaitMax {
			return err
		}
	}
	return nil
}

// errPrint says that messages cannot be printed: pulling more would only spend their
// attempts.
var errPrint = errors.New("cannot print")

// step pulls, prints and acknowledges once and returns how many messages came.
func (c *consumer) step(ctx context.Context) (int, error) {
	path := "/subscriptions/" + url.PathEscape(c.subscription)
	request := map[string]int{"waitMs": commands.PullWaitMsMax}
	if c.drain {
		request["waitMs"] = 0
	}
	if c.count > 0 {
		request["maxMessages"] = min(c.count-c.consumed, 50)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return 0, fmt.Errorf("pull: %w", err)
	}
	var pulled struct {
		Messages []json.RawMessage `json:"messages"`
	}
	if err := c.post(ctx, path+"/pull", "", body, &pulled); err != nil || len(pulled.Messages) == 0 {
		return 0, err
	}
	tokens := make([]string, len(pulled.Messages))
	for i, m := range pulled.Messages {
		if tokens[i], err = c.print(m); err != nil {
			return 0, fmt.Errorf("%w (%d messages go back when their leases run out): %w", errPrint, len(tokens)-i, err)
		}
	}
	// What is printed is acknowledged, even where Ctrl-C came meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clientTimeout)
	defer cancel()
	return len(tokens), c.ack(ctx, path, tokens)
}

// print writes a message on one line and returns its ack token.
func (c *consumer) print(raw json.RawMessage) (string, error) {
	var m struct {
		AckToken string          `json:"ackToken"`
		Payload  json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", fmt.Errorf("read a message: %w", err)
	}
	text := []byte(m.Payload)
	if c.envelope {
		text = raw
	}
	if bytes.ContainsAny(text, "\r\n") {
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			return "", fmt.Errorf("print a message: %w", err)
		}
		text = compact.Bytes()
	}
	if _, err := c.out.Write(append(text, '\n')); err != nil {
		return "", fmt.Errorf("print a message: %w", err)
	}
	return m.AckToken, nil
}

func (c *consumer) ack(ctx context.Context, path string, tokens []string) error {
	body, err := json.Marshal(map[string][]string{"ackTokens": tokens})
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	var answer struct {
		Results []struct {
			Error *struct{ Message string } `json:"error"`
		} `json:"results"`
	}
	if err := c.post(ctx, path+"/ack", "", body, &answer); err != nil {
		return fmt.Errorf("acknowledge %d messages (they will be delivered again): %w", len(tokens), err)
	}
	for _, r := range answer.Results {
		if r.Error == nil {
			c.consumed++
		}
	}
	return nil
}
