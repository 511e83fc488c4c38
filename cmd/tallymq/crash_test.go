package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
)

const (
	crashToken     = "crash-test-token-0123456789"
	crashProducers = 6
	crashConsumers = 2
	crashBatch     = 20
)

// program is the real binary as a process that can be killed and started again.
type program struct {
	path string
	args []string
	env  []string
	url  string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *program) start() error {
	started := make(chan error, 1)
	cmd := exec.Command(p.path, append([]string{"serve"}, p.args...)...) //nolint:gosec // built by the test
	cmd.Env, cmd.Stderr = p.env, os.Stderr
	cmd.SysProcAttr = dieWithParent()
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // the parent-death signal is this thread's
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.path, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.done = cmd, done
	return nil
}

func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

func (p *program) ready() bool {
	resp, err := http.Get(p.url + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func buildProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tallymq")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput() //nolint:gosec // a path of ours
	require.NoError(t, err, "%s", out)
	return path
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	require.True(t, ok)
	return addr.Port
}

// ledger is what the clients know, whatever the service and its stores say.
type ledger struct {
	mu sync.Mutex
	// acknowledged is every 201: the message's own name to its id.
	acknowledged map[string]string
	// delivered and acked are by subscription: what came, and what we said ack to.
	delivered, acked map[string]map[string]bool
	progress         atomic.Int64
}

// crashRun is the test's state.
type crashRun struct {
	t         *testing.T
	stores    stores
	instances []*program
	ledger    ledger
	client    *http.Client
	subs      []string
	path      string
}

// call sends a request to any instance that takes it. An error or a 503 means: unknown.
func (r *crashRun) call(path, key string, body, into any) (status int, ok bool) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, false
	}
	for _, n := range rand.Perm(len(r.instances)) { //nolint:gosec // a test's dice
		status, ok, err = r.send(r.instances[n].url+apiPrefix+path, key, text, into)
		if dial, refused := errors.AsType[*net.OpError](err); !refused || dial.Op != "dial" {
			break
		}
	}
	return status, ok && err == nil
}

func (r *crashRun) send(url, key string, body []byte, into any) (status int, ok bool, err error) {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(headerToken, crashToken)
	req.Header.Set(headerTenant, devTenant)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= http.StatusInternalServerError {
		return resp.StatusCode, false, err
	}
	return resp.StatusCode, json.Unmarshal(answer, into) == nil, nil
}

// until repeats a request under its key until it is answered with 201.
func (r *crashRun) until(path, key string, body, into any) bool {
	for range 600 {
		status, ok := r.call(path, key, body, into)
		if ok && status == http.StatusCreated {
			return true
		}
		if ok && status != http.StatusMultiStatus {
			r.t.Errorf("%s: answered %d", path, status)
			return false
		}
		pause(50 * time.Millisecond)
	}
	r.t.Errorf("%s: no answer in time", path)
	return false
}

func pause(d time.Duration) { <-time.After(d) }

// produce publishes until stop, single messages or batches; what was begun is
// seen through.
func (r *crashRun) produce(producer int, stop <-chan struct{}) {
	type published struct{ MessageID string }
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		name := fmt.Sprintf("p%d-%d", producer, n)
		message := func(name string) map[string]any {
			return map[string]any{"queue": "orders", "key": fmt.Sprint("k", producer), "payload": map[string]string{"name": name}}
		}
		if producer%3 != 0 {
			var one published
			if !r.until("/publish", name, message(name), &one) {
				return
			}
			r.acknowledge(map[string]string{name: one.MessageID})
			continue
		}
		batch := make([]map[string]any, crashBatch)
		for i := range batch {
			batch[i] = message(fmt.Sprint(name, ".", i))
		}
		var answer struct{ Results []published }
		if !r.until("/publish/batch", name, map[string]any{"messages": batch}, &answer) {
			return
		}
		names := map[string]string{}
		for i, p := range answer.Results {
			names[fmt.Sprint(name, ".", i)] = p.MessageID
		}
		r.acknowledge(names)
	}
}

func (r *crashRun) acknowledge(names map[string]string) {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	maps.Copy(r.ledger.acknowledged, names)
	r.ledger.progress.Add(int64(len(names)))
}

// consume pulls and acknowledges until stop; now and then it says no, or nothing.
func (r *crashRun) consume(sub string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		var pulled struct {
			Messages []struct{ MessageID, AckToken string }
		}
		if _, ok := r.call("/subscriptions/"+sub+"/pull", "", map[string]int{"waitMs": 200, "maxMessages": 50}, &pulled); !ok {
			pause(20 * time.Millisecond)
			continue
		}
		var acks, nacks []string
		r.ledger.mu.Lock()
		for _, m := range pulled.Messages {
			r.ledger.delivered[sub][m.MessageID] = true
			switch dice := rand.IntN(100); { //nolint:gosec // a test's dice
			case dice < 3:
				nacks = append(nacks, m.AckToken)
			case dice < 5: // forgotten: the lease runs out
			default:
				r.ledger.acked[sub][m.MessageID] = true
				acks = append(acks, m.AckToken)
			}
		}
		r.ledger.mu.Unlock()
		var ignored any
		if len(acks) > 0 {
			r.call("/subscriptions/"+sub+"/ack", "", map[string]any{"ackTokens": acks}, &ignored)
		}
		if len(nacks) > 0 {
			r.call("/subscriptions/"+sub+"/nack", "", map[string]any{"ackTokens": nacks, "error": "not now"}, &ignored)
		}
	}
}

// crashes is what dies in each round: instances, Redis, Postgres.
var crashes = strings.Fields("a b a+b redis a postgres b a+redis b+postgres a+b redis postgres a b a+b+redis a+b+postgres redis+postgres a b a+b redis postgres a b")

// strike kills by SIGKILL whatever the round names, at once, and starts it again.
func (r *crashRun) strike(round string) {
	var wg sync.WaitGroup
	for victim := range strings.SplitSeq(round, "+") {
		wg.Go(func() {
			var err error
			switch victim {
			case "a", "b":
				i := r.instances[victim[0]-'a']
				i.kill()
				err = i.start()
			case "redis":
				r.stores.redis.Kill()
				err = r.stores.redis.Restart(context.Background())
			case "postgres":
				r.stores.postgres.Kill()
				err = r.stores.postgres.Restart(context.Background())
			}
			if err != nil {
				r.t.Errorf("restart %s: %v", victim, err)
			}
		})
	}
	wg.Wait()
}

func newCrashRun(t *testing.T) *crashRun {
	t.Helper()
	r := &crashRun{t: t, stores: ownStores(t), client: &http.Client{Timeout: 10 * time.Second}, path: buildProgram(t)}
	r.ledger.acknowledged, r.ledger.delivered, r.ledger.acked = map[string]string{}, map[string]map[string]bool{}, map[string]map[string]bool{}
	return r
}

// launch starts a process of the service, until the test ends.
func (r *crashRun) launch(args ...string) *program {
	port := freePort(r.t)
	p := &program{path: r.path, args: args, url: fmt.Sprintf("http://127.0.0.1:%d", port), env: append(os.Environ(),
		"PORT="+strconv.Itoa(port), "DATABASE_URL="+r.stores.postgres.URL(), "REDIS_URL="+r.stores.redis.URL(),
		"INTERNAL_SERVICE_TOKEN="+crashToken, "ACK_TIMEOUT_MS=2000", "LOG_LEVEL=error")}
	require.NoError(r.t, p.start())
	r.t.Cleanup(p.kill)
	return p
}

// subscribe makes the queue and a subscription of each of two groups.
func (r *crashRun) subscribe() {
	var made struct{ ID string }
	require.True(r.t, r.until("/queues", "queue", map[string]any{"name": "orders", "partitionCount": 3}, &made))
	for _, group := range []string{"billing", "shipping"} {
		require.True(r.t, r.until("/subscriptions", group, map[string]any{
			"queue": "orders", "consumerGroup": group, "offsetResetPolicy": "earliest",
			"sessionTimeoutMs": 2000, "maxRetryAttempts": 1000, "retryDelayMs": 10,
		}, &made))
		r.subs = append(r.subs, made.ID)
		r.ledger.delivered[made.ID], r.ledger.acked[made.ID] = map[string]bool{}, map[string]bool{}
	}
}

// load publishes and consumes while strikes goes on, and then until everything is
// consumed.
func (r *crashRun) load(strikes func()) {
	stopProducers, stopConsumers := make(chan struct{}), make(chan struct{})
	var producers, consumers sync.WaitGroup
	for n := range crashProducers {
		producers.Go(func() { r.produce(n, stopProducers) })
	}
	for _, sub := range r.subs {
		for range crashConsumers {
			consumers.Go(func() { r.consume(sub, stopConsumers) })
		}
	}
	strikes()
	close(stopProducers)
	producers.Wait()
	r.settled()
	close(stopConsumers)
	consumers.Wait()
}

// goesOn waits until so many more messages are acknowledged.
func (r *crashRun) goesOn(after string, before int64) {
	eventually(r.t, "messages are acknowledged again after "+after, func() bool { return r.ledger.progress.Load() > before+50 })
}

// The real binary under load, two instances, with SIGKILL at random moments to
// them and to their stores: every acknowledged message is accounted for.
func TestNothingIsLostWhateverIsKilled(t *testing.T) { //nolint:paralleltest // it needs the machine's two cores
	r := newCrashRun(t)
	r.instances = []*program{r.launch(), r.launch()}
	for _, i := range r.instances {
		eventually(t, "an instance is ready", i.ready)
	}
	r.subscribe()
	r.load(func() {
		for _, round := range crashes {
			before := r.ledger.progress.Load()
			pause(time.Duration(rand.IntN(400)) * time.Millisecond) //nolint:gosec // a test's dice
			r.strike(round)
			r.goesOn(round, before)
		}
	})
	r.account()
}

// Each part of the service in two processes of its own: one of each is killed under
// load, the other goes on, and nothing is lost.
func TestEachPartRunsAlone(t *testing.T) { //nolint:paralleltest // it needs the machine's two cores
	r := newCrashRun(t)
	parts := map[string][]*program{}
	for _, role := range allRoles() {
		parts[role] = []*program{r.launch("--role", role), r.launch("--role=" + role)}
	}
	for role, pair := range parts {
		for _, p := range pair {
			eventually(t, role+" is ready", p.ready)
		}
	}
	r.instances = parts[roleCommand]
	r.subscribe()
	read := func(p *program) int {
		resp, err := r.get(p.url + apiPrefix + "/queues/orders")
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	// a part does its own work and no other
	require.Equal(t, http.StatusOK, read(parts[roleQuery][0]))
	require.Equal(t, http.StatusMethodNotAllowed, read(parts[roleCommand][0]))
	require.Equal(t, http.StatusNotFound, read(parts[roleProjector][0]))
	r.load(func() {
		r.goesOn("the start", r.ledger.progress.Load())
		for _, role := range allRoles() {
			before := r.ledger.progress.Load()
			pause(time.Duration(rand.IntN(400)) * time.Millisecond) //nolint:gosec // a test's dice
			parts[role][0].kill()
			r.goesOn(role+" was killed", before)
			require.Equal(t, http.StatusOK, read(parts[roleQuery][1]))
		}
	})
	r.account()
}

func (r *crashRun) get(url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, url, nil)
	require.NoError(r.t, err)
	req.Header.Set(headerToken, crashToken)
	req.Header.Set(headerTenant, devTenant)
	return r.client.Do(req)
}

func (r *crashRun) database() *pgx.Conn {
	conn, err := postgres.Connect(r.t.Context(), r.stores.postgres.URL())
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// settled waits until every message is consumed by both groups.
func (r *crashRun) settled() {
	conn := r.database()
	var open, messages int
	deadline := time.Now().Add(time.Minute)
	for {
		err := conn.QueryRow(r.t.Context(), `SELECT (SELECT count(*) FROM message_records),
			2 * (SELECT count(*) FROM message_records) - (SELECT count(*) FROM consumption_records WHERE status = 'success')`).Scan(&messages, &open)
		require.NoError(r.t, err)
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			require.FailNow(r.t, "deliveries do not end", "%d of %d are still open\n%s", open, 2*messages, r.whereTheyAre())
		}
		pause(50 * time.Millisecond)
	}
}

// whereTheyAre says what Redis and Postgres hold of deliveries that do not end.
func (r *crashRun) whereTheyAre() string {
	var b strings.Builder
	ctx := context.Background()
	client, err := redis.Open(r.stores.redis.URL())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = client.Close() }()
	keys, _ := client.Keys(ctx, "mq:*").Result()
	for _, key := range keys {
		switch kind, _ := client.Type(ctx, key).Result(); kind {
		case "stream":
			groups, _ := client.XInfoGroups(ctx, key).Result()
			fmt.Fprintf(&b, "%s length %d\n", key, client.XLen(ctx, key).Val())
			for _, g := range groups {
				pending, _ := client.XPendingExt(ctx, &goredis.XPendingExtArgs{Stream: key, Group: g.Name, Start: "-", End: "+", Count: 5}).Result()
				fmt.Fprintf(&b, "  %s last %s pending %d lag %d %v\n", g.Name, g.LastDeliveredID, g.Pending, g.Lag, pending)
			}
		case "zset":
			members, _ := client.ZRangeWithScores(ctx, key, 0, 9).Result()
			fmt.Fprintf(&b, "%s (now %d) %v\n", key, time.Now().UnixMilli(), members)
		case "string":
			if !strings.Contains(key, ":idem:") {
				fmt.Fprintf(&b, "%s %s\n", key, client.Get(ctx, key).Val())
			}
		}
	}
	for _, shard := range []int{0, 1, 2, 3} {
		last, _ := client.XRevRangeN(ctx, redis.LogStream("mq:", shard), "+", "-", 1).Result()
		fmt.Fprintf(&b, "log %d ends %v\n", shard, last)
	}
	rows, err := r.database().Query(ctx, `SELECT shard || ' checkpoint ' || (position >> 20) || '-' || (position & 1048575) FROM projection_checkpoints
		UNION ALL SELECT pid || ' ' || state || ' ' || application_name || ' ' || coalesce(wait_event, '') || ' ' || left(query, 60) FROM pg_stat_activity WHERE application_name LIKE 'tallymq%'`)
	if err == nil {
		lines, _ := pgx.CollectRows(rows, pgx.RowTo[string])
		b.WriteString(strings.Join(lines, "\n"))
	}
	for _, i := range r.instances {
		fmt.Fprintf(&b, "\n%s ready %t", i.url, i.ready())
	}
	return b.String()
}

// account compares what the clients know with the read tables, row by row.
func (r *crashRun) account() {
	t, conn := r.t, r.database()
	// every 201 is in the read tables exactly once, and nothing else is
	rows, err := conn.Query(t.Context(), `SELECT payload->>'name', message_id, status FROM message_records`)
	require.NoError(t, err)
	stored := map[string]string{}
	var name, id, status string
	_, err = pgx.ForEachRow(rows, []any{&name, &id, &status}, func() error {
		if stored[name] != "" {
			return fmt.Errorf("%s is stored twice: %s and %s", name, stored[name], id)
		}
		if status != "consumed" {
			return fmt.Errorf("%s is %s", name, status)
		}
		stored[name] = id
		return nil
	})
	require.NoError(t, err)
	require.True(t, maps.Equal(r.ledger.acknowledged, stored), "acknowledged %d, stored %d", len(r.ledger.acknowledged), len(stored))
	// offsets are dense in every partition
	var gaps int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM (SELECT 1 FROM message_records GROUP BY partition_id
		HAVING count(*) <> max(offset_value) + 1 OR count(DISTINCT offset_value) <> count(*)) g`).Scan(&gaps))
	require.Zero(t, gaps)
	// everything was delivered to both groups
	for _, sub := range r.subs {
		for name, id := range stored {
			require.True(t, r.ledger.delivered[sub][id], "%s was not delivered to %s", name, sub)
		}
	}
	// what counts as consumed was acknowledged by the consumer, and once
	rows, err = conn.Query(t.Context(), `SELECT subscription_id::text, message_id FROM consumption_records WHERE status = 'success'`)
	require.NoError(t, err)
	var sub string
	consumed := map[string]bool{}
	_, err = pgx.ForEachRow(rows, []any{&sub, &id}, func() error {
		if !r.ledger.acked[sub][id] || consumed[sub+id] {
			return fmt.Errorf("message %s of %s: acknowledged %t, counted before %t", id, sub, r.ledger.acked[sub][id], consumed[sub+id])
		}
		consumed[sub+id] = true
		return nil
	})
	require.NoError(t, err)
	require.Len(t, consumed, 2*len(stored))
	// what Redis counts is what there was: no queue is full that is empty
	client, err := redis.Open(r.stores.redis.URL())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	counts, err := client.Keys(t.Context(), "mq:{*}:groups:*").Result()
	require.NoError(t, err)
	require.Len(t, counts, 1)
	published, err := client.HGet(t.Context(), strings.Replace(counts[0], ":groups:", ":topic:", 1), "n").Result()
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(len(stored)), published)
	settled, err := client.HGetAll(t.Context(), counts[0]).Result()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"billing": published, "shipping": published}, settled)
	// and the read tables are the fold of the history
	report, err := projections.Verify(t.Context(), r.database(), projections.VerifyOptions{Shards: 4, Batch: 999})
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	// and all of it is sealed, whoever wrote it and was killed
	sealed, err := projections.VerifySeals(t.Context(), r.database(), projections.VerifyOptions{Shards: 4})
	require.NoError(t, err)
	require.True(t, sealed.OK(), sealed.Findings)
	require.Equal(t, []int64{report.Events, 0}, []int64{sealed.Events, sealed.Unsealed})
	t.Logf("%d messages acknowledged, %d events", len(stored), report.Events)
}
