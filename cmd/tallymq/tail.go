package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const (
	// tailSilence is how long a connection may be silent: three of the feed's
	// heartbeats.
	tailSilence = 45 * time.Second
	// tailRetry is how long to wait before connecting again, where the service has
	// not said.
	tailRetry = time.Second
	// tailWaitMax bounds that wait, whatever the service says and how often it fails.
	tailWaitMax = 30 * time.Second
)

// tailer is the tail command.
type tailer struct {
	client

	bearer, types, queue, message, from string
	raw, colour                         bool
	out, log                            io.Writer
	silence                             time.Duration
	// last is the cursor to go on from, and retry how long to wait before that.
	last  string
	retry time.Duration
	// connected is set once there was a stream: from then on a connection that
	// breaks, or cannot be made, is made again.
	connected bool
}

func tailCommand() *cobra.Command {
	t := &tailer{silence: tailSilence, retry: tailRetry}
	var token string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow the lifecycle feed: every event, one a line, as it happens",
		Long: `Follows the lifecycle feed and prints an event a line: time, type, queue, message and
what there is to say about it. A connection that breaks is made again and goes on
behind the last event, without a gap. Ends with Ctrl-C.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.out, t.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			t.colour = isTerminal(t.out) && os.Getenv("NO_COLOR") == ""
			// Not defaults of the flags: help would show them.
			if token != "" {
				t.token = token
			}
			if t.bearer == "" {
				t.bearer = os.Getenv("MQ_BEARER")
			}
			if err := t.run(cmd.Context()); cmd.Context().Err() == nil {
				return err
			}
			return nil
		},
	}
	t.flags(cmd)
	// A stream has no end: only the wait for its beginning is bounded.
	t.http = &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: clientTimeout}}
	cmd.Flags().StringVar(&token, "token", "", "the service's token (INTERNAL_SERVICE_TOKEN, which other users of this machine cannot see)")
	cmd.Flags().StringVar(&t.bearer, "bearer", "", "a caller's own token (MQ_BEARER, which other users of this machine cannot see)")
	cmd.Flags().StringVar(&t.types, "type", "", "only these types, such as message.failed,topic.*")
	cmd.Flags().StringVar(&t.queue, "queue", "", "only this queue's events")
	cmd.Flags().StringVar(&t.message, "message", "", "only the events of the message with this id")
	cmd.Flags().StringVar(&t.from, "from", "now", "where to begin: now, earliest or a time as in RFC 3339")
	cmd.Flags().BoolVar(&t.raw, "json", false, "print each event as it comes, a CloudEvent in JSON")
	return cmd
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// run follows the feed until ctx ends or no trying again helps.
func (t *tailer) run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		begun := t.last
		err := t.follow(ctx)
		refused, answered := errors.AsType[*answerError](err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err() //nolint:wrapcheck // asked to stop
		case errors.Is(err, errPrint):
			return err
		case answered && refused.status < http.StatusInternalServerError && !refused.passes():
			return err
		case !answered && !t.connected:
			return err
		}
		wait = min(max(t.retry, 2*wait), tailWaitMax)
		if t.last != begun {
			wait = t.retry
		}
		if answered {
			wait = min(max(wait, time.Duration(refused.body.RetryAfterS)*time.Second), tailWaitMax)
		}
		_, _ = fmt.Fprintf(t.log, "tallymq: %v; connecting again in %s\n", err, wait)
		select {
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // asked to stop
		case <-time.After(wait):
		}
	}
}

// errStreamEnded says that the service ended the stream in order, as it does when it
// stops.
var errStreamEnded = errors.New("the stream ended")

// follow prints one connection's events until it breaks.
func (t *tailer) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := t.request(ctx)
	if err != nil {
		return err
	}
	resp, err := t.http.Do(req)
	if err != nil {
		return fmt.Errorf("call the service (is it running? make run): %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= http.StatusBadRequest {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
		refused := &answerError{status: resp.StatusCode}
		_ = json.Unmarshal(text, &refused.body)
		return refused
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return errors.New("the answer is no stream of events (is --url a TallyMQ service?)")
	}
	t.connected = true
	silence := time.AfterFunc(t.silence, cancel)
	defer silence.Stop()
	return t.read(resp.Body, func() { silence.Reset(t.silence) })
}

func (t *tailer) request(ctx context.Context) (*http.Request, error) {
	query := url.Values{}
	for name, value := range map[string]string{"type": t.types, "queue": t.queue, "messageId": t.message, "from": t.from} {
		if value != "" {
			query.Set(name, value)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(t.url, "/")+apiPrefix+"/events?"+query.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	bearer := ""
	if t.bearer != "" {
		bearer = "Bearer " + t.bearer
	}
	for name, value := range map[string]string{
		"Accept": "text/event-stream", "Authorization": bearer, headerToken: t.token, headerTenant: t.tenant, "Last-Event-ID": t.last,
	} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	return req, nil
}

// read prints the events of a stream (HTML standard, section 9.2.6): a block that did
// not come to its end counts for nothing. alive is told of every line.
func (t *tailer) read(body io.Reader, alive func()) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, answerBytesMax)
	id, data := t.last, ""
	for lines.Scan() {
		alive()
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if data != "" {
				if err := t.print([]byte(data)); err != nil {
					return err
				}
			}
			t.last, data = id, ""
		case name == "id":
			id = value
		case name == "data":
			data = value
		case name == "retry":
			if ms, err := strconv.Atoi(value); err == nil && ms > 0 {
				t.retry = time.Duration(min(ms, int(tailWaitMax.Milliseconds()))) * time.Millisecond
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the stream broke: %w", err)
	}
	return errStreamEnded
}
