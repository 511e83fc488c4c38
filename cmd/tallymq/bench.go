package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const (
	benchRounds    = 3
	benchStartWait = time.Minute
	// benchConsumers pull and acknowledge, benchPull messages at a time.
	benchConsumers  = 8
	benchPull       = 50
	benchBatch      = 100
	benchBatchConns = 8
)

// bench is one run of the bench command.
type bench struct {
	connections int
	seconds     time.Duration
	payload     int
	loader      *loader
	out         io.Writer
	sub         string
}

func benchCommand() *cobra.Command {
	b := &bench{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a private instance against a route that does nothing, as ratios",
		Long: `Starts a private instance with servers of its own, puts load on it from this process,
and prints rates, latencies and their ratio to a route of the same server that does
nothing. What is compared is measured in turns, in one run. Use an idle machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.out = cmd.OutOrStdout()
			return b.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&b.connections, "connections", 64, "connections that publish single messages")
	cmd.Flags().DurationVar(&b.seconds, "duration", 4*time.Second, "how long each measurement takes")
	cmd.Flags().IntVar(&b.payload, "payload", 200, "bytes of a payload")
	return cmd
}

func (b *bench) run(ctx context.Context) (err error) {
	stop, err := b.startInstance(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := b.given(ctx); err != nil {
		return err
	}
	if err := b.single(ctx); err != nil {
		return err
	}
	if err := b.batch(ctx); err != nil {
		return err
	}
	if err := b.consume(ctx); err != nil {
		return err
	}
	return b.push(ctx)
}

var readyAddr = regexp.MustCompile(`http://(127\.0\.0\.1:\d+)`)

// startInstance runs `tallymq dev` as a process of its own.
func (b *bench) startInstance(ctx context.Context) (stop func() error, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	dir, err := os.MkdirTemp("", "tallymq-bench-")
	if err == nil {
		err = os.Chmod(dir, 0o755) //nolint:gosec // the servers' user must reach what is inside
	}
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, "dev", "--bench", "--data", dir) //nolint:gosec // ourselves
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "DATABASE_URL") || strings.HasPrefix(v, "REDIS_URL")
	}), "PORT=0")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = benchStartWait
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		// Held open and never written to: see dev's --bench.
		_, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("bench: start an instance: %w", err)
	}
	stop = func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if ctx.Err() != nil {
			err = nil
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	found := readyAddr.FindStringSubmatch(line)
	if err != nil || found == nil {
		return nil, errors.Join(fmt.Errorf("bench: the instance did not become ready: %q %w", line, err), stop())
	}
	b.loader = newLoader(found[1], b.connections+1)
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	return stop, nil
}

func (b *bench) create(ctx context.Context, path, body string) (id string, err error) {
	status, text, err := b.loader.post(ctx, apiPrefix+path, []byte(body))
	if err != nil {
		return "", err
	}
	if status != http.StatusCreated {
		return "", fmt.Errorf("bench: %s: %d %s", path, status, text)
	}
	var made struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(text, &made); err != nil {
		return "", fmt.Errorf("bench: %s: %w", path, err)
	}
	return made.ID, nil
}

// given a queue with one subscription that reads everything.
func (b *bench) given(ctx context.Context) (err error) {
	if _, err = b.create(ctx, "/queues", `{"name":"bench"}`); err != nil {
		return err
	}
	b.sub, err = b.create(ctx, "/subscriptions", `{"queue":"bench","consumerGroup":"bench","offsetResetPolicy":"earliest","sessionTimeoutMs":600000}`)
	return err
}

func (b *bench) message() string {
	return fmt.Sprintf(`{"queue":"bench","payload":{"data":"%s"}}`, strings.Repeat("x", max(b.payload-11, 1)))
}

// step returns a step that sends one request, wants a status and counts as n.
func (b *bench) step(path, body string, status, n int, headers ...string) func(context.Context) (int, error) {
	text := []byte(body)
	return func(ctx context.Context) (int, error) {
		got, _, err := b.loader.post(ctx, path, text, headers...)
		if err == nil && got != status {
			err = errFailed
		}
		return n, err
	}
}

// single measures what one request for one message costs, in turns.
func (b *bench) single(ctx context.Context) error {
	names := []string{"no-op", "publish 201", "publish 202"}
	steps := []func(context.Context) (int, error){
		b.step(noopPath, b.message(), http.StatusOK, 1),
		b.step(apiPrefix+"/publish", b.message(), http.StatusCreated, 1),
		b.step(apiPrefix+"/publish", b.message(), http.StatusAccepted, 1, "Prefer", "respond-async"),
	}
	runs := make([][]measured, len(steps))
	var lag measured
	for range benchRounds {
		for i, s := range steps {
			probed := make(chan measured, 1)
			if i == len(steps)-1 {
				go func() { probed <- b.probeLag(ctx, steps[1]) }()
			} else {
				probed <- measured{}
			}
			m, err := load(ctx, b.connections, b.seconds, s)
			lag.latency = append(lag.latency, (<-probed).latency...)
			if err != nil {
				return err
			}
			runs[i] = append(runs[i], m)
		}
	}
	noop := median(runs[0])
	for i, name := range names {
		b.print(name, fmt.Sprintf("%d connections", b.connections), median(runs[i]), noop)
	}
	slices.Sort(lag.latency)
	_, _ = fmt.Fprintf(b.out, "projector lag while 202s saturate the machine (a 201's time beside them): p50 %s  p99 %s\n",
		round(lag.quantile(0.5)), round(lag.quantile(0.99)))
	return nil
}

// probeLag publishes one message after the other and waits for each fold, while
// others publish and do not wait.
func (b *bench) probeLag(ctx context.Context, publish func(context.Context) (int, error)) measured {
	m, _ := load(ctx, 1, b.seconds, publish)
	return m
}

func (b *bench) batch(ctx context.Context) error {
	one := b.message()
	body := `{"messages":[` + strings.TrimSuffix(strings.Repeat(one+",", benchBatch), ",") + `]}`
	m, err := load(ctx, benchBatchConns, b.seconds, b.step(apiPrefix+"/publish/batch", body, http.StatusCreated, benchBatch))
	if err == nil {
		b.print("batch publish 201", fmt.Sprintf("%d connections, batches of %d", benchBatchConns, benchBatch), m, measured{})
	}
	return err
}

// consume measures pull and acknowledge together.
func (b *bench) consume(ctx context.Context) error {
	path := apiPrefix + "/subscriptions/" + b.sub
	pull := fmt.Appendf(nil, `{"maxMessages":%d,"waitMs":0}`, benchPull)
	m, err := load(ctx, benchConsumers, b.seconds, func(ctx context.Context) (int, error) {
		status, text, err := b.loader.post(ctx, path+"/pull", pull)
		if err == nil && status != http.StatusOK {
			err = errFailed
		}
		if err != nil {
			return 0, err
		}
		tokens := ackTokens.FindAllSubmatch(text, -1)
		if len(tokens) == 0 {
			return 0, errors.New("bench: the queue ran empty; publish for longer (--duration)")
		}
		quoted := make([]string, len(tokens))
		for i, t := range tokens {
			quoted[i] = `"` + string(t[1]) + `"`
		}
		status, _, err = b.loader.post(ctx, path+"/ack", []byte(`{"ackTokens":[`+strings.Join(quoted, ",")+`]}`))
		if err == nil && status != http.StatusOK {
			err = errFailed
		}
		return len(tokens), err
	})
	if err == nil {
		b.print("pull and ack", fmt.Sprintf("%d consumers, %d at a time", benchConsumers, benchPull), m, measured{})
	}
	return err
}

var ackTokens = regexp.MustCompile(`"ackToken":"([^"]+)"`)

// median is the run with the middle rate.
func median(runs []measured) measured {
	slices.SortFunc(runs, func(a, b measured) int {
		if a.perSecond() < b.perSecond() {
			return -1
		}
		return 1
	})
	return runs[len(runs)/2]
}

func (b *bench) print(name, how string, m, noop measured) {
	ratio := ""
	if noop.done > 0 {
		ratio = fmt.Sprintf("  %.2f of no-op", m.perSecond()/noop.perSecond())
	}
	_, _ = fmt.Fprintf(b.out, "%-18s %8.0f messages/s%s  p50 %s  p99 %s  failed %d  (%s)\n", name, m.perSecond(), ratio,
		round(m.quantile(0.5)), round(m.quantile(0.99)), m.failures, how)
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
