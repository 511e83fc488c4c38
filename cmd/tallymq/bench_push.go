package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// benchPushed is how many messages are pushed in one measurement.
	benchPushed = 10_000
	// benchPushRate is how many messages a second are published where the time to their
	// delivery is measured.
	benchPushRate = 1000
	// benchIdle is how many webhook subscriptions idle.
	benchIdle = 1000
	// benchIdleFor is for how long they are looked at.
	benchIdleFor = 10 * time.Second
	benchPushMax = 2 * time.Minute
	// benchDue is how many messages are scheduled for one moment.
	benchDue = 10_000
)

// receiver is a webhook's other end, which answers at once.
type receiver struct {
	server *http.Server
	url    string

	mu            sync.Mutex
	count, wanted int
	// at is when the last request came, and reached is told of the one that is wanted.
	at      time.Time
	reached chan struct{}
	// latency is since messages say that they were sent.
	latency []time.Duration
}

var sentAt = regexp.MustCompile(`"sentAt":(\d+)`)

func newReceiver(ctx context.Context) (*receiver, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	r := &receiver{url: "http://" + listener.Addr().String(), reached: make(chan struct{}, 1)}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Second}
	go func() { _ = r.server.Serve(listener) }()
	return r, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	now := time.Now()
	r.mu.Lock()
	if found := sentAt.FindSubmatch(body); found != nil {
		ns, _ := strconv.ParseInt(string(found[1]), 10, 64)
		r.latency = append(r.latency, now.Sub(time.Unix(0, ns)))
	}
	r.at = now
	if r.count++; r.count == r.wanted {
		r.reached <- struct{}{}
	}
	r.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// await begins to count, and returns a wait for the last of n requests.
func (r *receiver) await(n int) func(context.Context) (measured, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count, r.wanted, r.latency = 0, n, nil
	began := time.Now()
	return func(ctx context.Context) (measured, error) {
		ctx, cancel := context.WithTimeout(ctx, benchPushMax)
		defer cancel()
		select {
		case <-r.reached:
		case <-ctx.Done():
			r.mu.Lock()
			defer r.mu.Unlock()
			return measured{}, fmt.Errorf("bench: %d of %d were pushed: %w", r.count, n, ctx.Err())
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		m := measured{done: r.count, took: r.at.Sub(began), latency: slices.Clone(r.latency)}
		slices.Sort(m.latency)
		return m, nil
	}
}

// push measures webhooks: how many are delivered a second, how long after they were
// published, and what those cost that idle.
func (b *bench) push(ctx context.Context) error {
	r, err := newReceiver(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = r.server.Close() }()
	for _, concurrency := range []int{5, 64} {
		if err := b.pushRate(ctx, r, concurrency); err != nil {
			return err
		}
	}
	if err := b.pushLatency(ctx, r); err != nil {
		return err
	}
	if err := b.punctuality(ctx, r); err != nil {
		return err
	}
	return b.idle(ctx, r)
}

// punctuality measures how late scheduled messages come: some on an idle machine, and many
// that are due at once.
func (b *bench) punctuality(ctx context.Context, r *receiver) error {
	for _, n := range []int{20, benchDue} {
		dueAt := time.Now().Add(time.Duration(n/20+500) * time.Millisecond * 4)
		wait := r.await(n)
		m, err := load(ctx, min(n, b.connections), time.Until(dueAt), b.upTo(n, func(ctx context.Context) (int, error) {
			body := fmt.Appendf(nil, `{"queue":"paced","payload":{"sentAt":%d},"scheduledAt":%q}`, dueAt.UnixNano(), dueAt.UTC().Format(time.RFC3339Nano))
			status, text, err := b.loader.post(ctx, apiPrefix+"/publish/scheduled", body, "Prefer", "respond-async")
			if err == nil && status != http.StatusAccepted {
				err = fmt.Errorf("bench: schedule: %d %s", status, text)
			}
			return 1, err
		}))
		if err != nil {
			return err
		}
		if m.done != n {
			return fmt.Errorf("bench: %d of %d were scheduled in time", m.done, n)
		}
		if m, err = wait(ctx); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(b.out, "%-18s %d due at once: first %s  p50 %s  last %s after it  (at the webhook)\n", "scheduled", n,
			round(m.quantile(0)), round(m.quantile(0.5)), round(m.quantile(1)))
	}
	return nil
}

// upTo is a step that is taken so many times; workers then wait for the end.
func (b *bench) upTo(n int, step func(context.Context) (int, error)) func(context.Context) (int, error) {
	var taken atomic.Int64
	return func(ctx context.Context) (int, error) {
		if taken.Add(1) > int64(n) {
			<-ctx.Done()
			return 0, nil
		}
		return step(ctx)
	}
}

func (b *bench) hook(ctx context.Context, queue, url string, concurrency int, more string) (string, error) {
	return b.create(ctx, "/subscriptions", fmt.Sprintf(`{"queue":%q,"consumerGroup":"push","subscriptionType":"webhook","handlerConfig":{"url":%q,"concurrency":%d}%s}`,
		queue, url, concurrency, more))
}

// pushRate has a subscription deliver what has gathered, and the same requests made by
// hand to compare with.
func (b *bench) pushRate(ctx context.Context, r *receiver, concurrency int) error {
	queue := fmt.Sprint("push", concurrency)
	if _, err := b.create(ctx, "/queues", fmt.Sprintf(`{"name":%q}`, queue)); err != nil {
		return err
	}
	sub, err := b.hook(ctx, queue, r.url, concurrency, `,"status":"paused"`)
	if err != nil {
		return err
	}
	one := strings.Replace(b.message(), `"bench"`, strconv.Quote(queue), 1)
	batch := `{"messages":[` + strings.TrimSuffix(strings.Repeat(one+",", benchBatch), ",") + `]}`
	for range benchPushed / benchBatch {
		status, text, err := b.loader.post(ctx, apiPrefix+"/publish/batch", []byte(batch))
		if err != nil || status != http.StatusCreated {
			return fmt.Errorf("bench: publish: %d %s %w", status, text, err)
		}
	}
	direct, err := b.direct(ctx, r, concurrency)
	if err != nil {
		return err
	}
	wait := r.await(benchPushed)
	if status, text, err := b.loader.post(ctx, apiPrefix+"/subscriptions/"+sub+"/resume", nil); err != nil || status != http.StatusOK {
		return fmt.Errorf("bench: resume: %d %s %w", status, text, err)
	}
	m, err := wait(ctx)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.out, "%-18s %8.0f deliveries/s  %.2f of the same requests made by hand (%.0f/s)  (concurrency %d)\n", "webhook push",
		m.perSecond(), m.perSecond()/direct.perSecond(), direct.perSecond(), concurrency)
	return nil
}

// direct is the receiver's own rate.
func (b *bench) direct(ctx context.Context, r *receiver, concurrency int) (measured, error) {
	l := newLoader(strings.TrimPrefix(r.url, "http://"), concurrency)
	body := []byte(`{"data":"` + strings.Repeat("x", max(b.payload-11, 1)) + `"}`)
	return load(ctx, concurrency, b.seconds, func(ctx context.Context) (int, error) {
		status, _, err := l.post(ctx, "/", body)
		if err == nil && status != http.StatusNoContent {
			err = errFailed
		}
		return 1, err
	})
}

// pushLatency publishes at an even pace.
func (b *bench) pushLatency(ctx context.Context, r *receiver) error {
	if _, err := b.create(ctx, "/queues", `{"name":"paced"}`); err != nil {
		return err
	}
	if _, err := b.hook(ctx, "paced", r.url, 64, ""); err != nil {
		return err
	}
	n := int(b.seconds.Seconds() * benchPushRate)
	wait := r.await(n)
	began := time.Now()
	var sending sync.WaitGroup
	failed := make(chan error, n)
	for k := range n {
		time.Sleep(time.Until(began.Add(time.Duration(k) * time.Second / benchPushRate)))
		sending.Go(func() {
			body := fmt.Appendf(nil, `{"queue":"paced","payload":{"sentAt":%d}}`, time.Now().UnixNano())
			status, text, err := b.loader.post(ctx, apiPrefix+"/publish", body, "Prefer", "respond-async")
			if err != nil || status != http.StatusAccepted {
				failed <- fmt.Errorf("bench: publish: %d %s %w", status, text, err)
			}
		})
	}
	sending.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	m, err := wait(ctx)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.out, "%-18s at %d messages/s: p50 %s  p95 %s  p99 %s  (from the request to the webhook's)\n", "publish to webhook", benchPushRate,
		round(m.quantile(0.5)), round(m.quantile(0.95)), round(m.quantile(0.99)))
	return nil
}

// usage is what an instance has used.
type usage struct{ cpuSeconds, residentBytes float64 }

// idle measures an instance with and without subscriptions that idle.
func (b *bench) idle(ctx context.Context, r *receiver) error {
	without, rate, err := b.watch(ctx)
	if err != nil {
		return err
	}
	if _, err := b.create(ctx, "/queues", `{"name":"idle"}`); err != nil {
		return err
	}
	for n := range benchIdle {
		_, err := b.create(ctx, "/subscriptions", fmt.Sprintf(`{"queue":"idle","consumerGroup":"idle-%d","subscriptionType":"webhook","handlerConfig":{"url":%q}}`, n, r.url))
		if err != nil {
			return err
		}
	}
	with, idle, err := b.watch(ctx)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.out, "%-18s %d webhook subscriptions: %.1f %% of a core (%.1f %% without), %.0f MiB more resident\n", "idle", benchIdle,
		100*idle, 100*rate, (with.residentBytes-without.residentBytes)/(1<<20))
	return nil
}

// watch returns what the instance uses, and how much of a core over a while.
func (b *bench) watch(ctx context.Context) (last usage, cores float64, err error) {
	// What came before settles first.
	for _, d := range []time.Duration{benchIdleFor / 2, benchIdleFor} {
		first, err := b.usage(ctx)
		if err != nil {
			return first, 0, err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return first, 0, fmt.Errorf("bench: %w", ctx.Err())
		}
		if last, err = b.usage(ctx); err != nil {
			return last, 0, err
		}
		cores = (last.cpuSeconds - first.cpuSeconds) / d.Seconds()
	}
	return last, cores, nil
}

// usage reads the instance's own metrics.
func (b *bench) usage(ctx context.Context) (usage, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.loader.base+"/metrics", nil)
	if err != nil {
		return usage{}, fmt.Errorf("bench: %w", err)
	}
	resp, err := b.loader.client.Do(req)
	if err != nil {
		return usage{}, fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return usage{}, fmt.Errorf("bench: %w", err)
	}
	value := func(name string) float64 {
		found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
		if found == nil {
			return 0
		}
		var v float64
		_ = json.Unmarshal(found[1], &v)
		return v
	}
	return usage{cpuSeconds: value("process_cpu_seconds_total"), residentBytes: value("process_resident_memory_bytes")}, nil
}
