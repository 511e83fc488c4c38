package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

const (
	// faultRoundsVariable says how many rounds there are, faultRounds unless it is set.
	faultRoundsVariable = "TALLYMQ_FAULT_ROUNDS"
	faultRounds         = 2
	faultKeys           = 8
	// faultMessages is how many of each key a round publishes: some of them delayed, by
	// less than faultDelayMsMax.
	faultMessages   = 15
	faultDelayMsMax = 500
	// faultSessionMs is how long a lease is: what a killed instance had comes again then.
	faultSessionMs = 2500
	// doomedAttempts is how often a message is tried again that no endpoint takes.
	doomedAttempts = 2
	// settleLimit is how long a round may take to settle: only a failure reaches it.
	settleLimit = time.Minute
)

// faultStrikes are what is killed in each round, one strike after the other.
var faultStrikes = [...]string{
	"a redis", "postgres b", "redis b", "a+b", "redis redis", "a postgres", "b+redis", "postgres redis", "a b", "a+postgres redis",
	"redis a", "b postgres", "a+b+redis", "postgres+redis", "b a", "redis postgres", "a redis", "a+b b", "postgres a+redis", "redis b",
}

// hook is a webhook subscription.
type hook struct {
	id, name string
	ordered  bool
	endpoint *endpoint
}

// sent is a message that was acknowledged.
type sent struct {
	name, id, key string
	doomed        bool
	// notBefore is when it is published at the earliest.
	notBefore time.Time
	// next is the one of the same key after it that its producer published at once, too.
	next string
}

// faultRun is the test's state.
type faultRun struct {
	*crashRun

	hooks []hook
	// pulled is the id of the subscription that is consumed by pulling.
	pulled string
	// ledgers is how many ledgers were seen while messages were on their way.
	ledgers    atomic.Int64
	complaints int

	mu sync.Mutex
	// messages are all, by id.
	messages map[string]sent
}

func faultRoundsWanted(t *testing.T) int {
	t.Helper()
	text := os.Getenv(faultRoundsVariable)
	if text == "" {
		return faultRounds
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, faultRoundsVariable)
	return n
}

// newFaultRun starts two instances and subscribes each fault's endpoints, an ordered and
// an unordered one, and a consumer of the old kind.
func newFaultRun(t *testing.T) *faultRun {
	t.Helper()
	t.Setenv("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")
	r := &faultRun{crashRun: newCrashRun(t), messages: map[string]sent{}}
	r.instances = []*program{r.launch(), r.launch()}
	for _, i := range r.instances {
		eventually(t, "an instance is ready", i.ready)
	}
	var made struct{ ID string }
	require.True(t, r.until("/queues", "queue", map[string]any{"name": "orders", "partitionCount": 3}, &made))
	for _, f := range faults {
		for _, kind := range []string{"ordered", "unordered"} {
			r.hooks = append(r.hooks, r.hook(f, kind))
		}
	}
	r.pulled = r.create("pulled", "", nil)
	r.ledger.delivered[r.pulled], r.ledger.acked[r.pulled] = map[string]bool{}, map[string]bool{}
	return r
}

// hook makes a fault's endpoint of a kind and subscribes it.
func (r *faultRun) hook(f fault, kind string) hook {
	name := f.name + "-" + kind
	e := newEndpoint(r.t, name, f)
	isOrdered := kind == "ordered"
	id := r.create(name, "webhook", map[string]any{
		"url": e.server.URL, "timeoutMs": faultTimeout.Milliseconds(), "concurrency": 16, "ordered": isOrdered,
		"retryScheduleMs": []int{10, 50, 200}, "breakerFailures": 100,
	})
	return hook{id: id, name: name, ordered: isOrdered, endpoint: e}
}

func (r *faultRun) create(group, kind string, handler map[string]any) (id string) {
	body := map[string]any{
		"queue": "orders", "consumerGroup": group, "offsetResetPolicy": "earliest",
		"sessionTimeoutMs": faultSessionMs, "maxRetryAttempts": 1000, "retryDelayMs": 10,
	}
	if kind != "" {
		body["subscriptionType"], body["handlerConfig"] = kind, handler
	}
	var made struct{ ID string }
	require.True(r.t, r.until("/subscriptions", group, body, &made))
	return made.ID
}

// round publishes while the round's victims are killed, waits until everything is
// settled, and holds it against what the endpoints saw.
func (r *faultRun) round(n int) {
	began := time.Now()
	stop := make(chan struct{})
	var producers, others sync.WaitGroup
	batches := make([][]sent, faultKeys)
	for k := range batches {
		producers.Go(func() { batches[k] = r.publish(n, k) })
	}
	others.Go(func() { r.consume(r.pulled, stop) })
	others.Go(func() { r.watchLedgers(stop) })
	strikes := faultStrikes[n%len(faultStrikes)]
	for strike := range strings.FieldsSeq(strikes) {
		pause(time.Duration(rand.IntN(400)) * time.Millisecond) //nolint:gosec // a test's dice
		r.strike(strike)
	}
	producers.Wait()
	struck := time.Since(began)
	var round []sent
	for _, batch := range batches {
		round = append(round, batch...)
	}
	r.awaitSettled()
	close(stop)
	others.Wait()
	settled := time.Since(began)
	require.Len(r.t, round, faultKeys*faultMessages)
	r.check(round)
	require.False(r.t, r.t.Failed(), "round %d (%s)", n, strikes)
	r.t.Logf("round %d (%s): published after %s, settled after %s, checked after %s", n, strikes,
		struck.Round(time.Millisecond), settled.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// publish publishes a key's messages one after the other, each until it is acknowledged.
func (r *faultRun) publish(round, key int) []sent {
	var all []sent
	before := -1
	for n := range faultMessages {
		m := sent{name: fmt.Sprintf("r%d.k%d.%d", round, key, n), key: fmt.Sprint("k", key), doomed: n == (round+key)%(4*faultMessages)}
		body := map[string]any{"queue": "orders", "key": m.key, "payload": map[string]any{"name": m.name, "doomed": m.doomed}}
		if m.doomed {
			body["maxRetryAttempts"] = doomedAttempts
		}
		path := "/publish"
		m.notBefore = time.Now().Truncate(time.Millisecond)
		isDelayed := n%5 == 2
		if isDelayed {
			delayMs := rand.IntN(faultDelayMsMax) //nolint:gosec // a test's dice
			path, body["delayMs"] = "/publish/delayed", delayMs
			m.notBefore = m.notBefore.Add(time.Duration(delayMs) * time.Millisecond)
		}
		var answer struct{ MessageID string }
		if !r.until(path, m.name, body, &answer) {
			return nil
		}
		m.id = answer.MessageID
		if !isDelayed {
			if before >= 0 {
				all[before].next = m.id
			}
			before = n
		}
		all = append(all, m)
		r.acknowledge(map[string]string{m.name: m.id})
		pause(time.Duration(rand.IntN(80)) * time.Millisecond) //nolint:gosec // a test's dice
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range all {
		r.messages[m.id] = m
	}
	return all
}

// awaitSettled waits until every group is through with every message.
func (r *faultRun) awaitSettled() {
	conn := r.database()
	ctx := r.t.Context()
	want := int64(len(r.ledger.acknowledged))
	deadline := time.Now().Add(settleLimit)
	for {
		var groups, open int64
		require.NoError(r.t, conn.QueryRow(ctx, `SELECT count(*), sum($1 - consumed - dead) FROM group_counts`, want).Scan(&groups, &open))
		if groups == int64(len(r.hooks)+1) && open == 0 {
			return
		}
		if open < 0 || time.Now().After(deadline) {
			require.FailNow(r.t, "deliveries do not end", "%d of %d are still open\n%s\n%s", open, want*groups, r.unsettled(conn), r.whereTheyAre())
		}
		pause(20 * time.Millisecond)
	}
}

// unsettled tells of some messages that a group is not through with.
func (r *faultRun) unsettled(conn *pgx.Conn) string {
	rows, err := conn.Query(r.t.Context(), `SELECT s.id::text, m.message_id FROM message_subscriptions s, message_records m
		WHERE NOT EXISTS (SELECT FROM consumption_records c WHERE c.subscription_id = s.id AND c.message_id = m.message_id AND c.status IN ('success', 'failed'))
		ORDER BY 2, 1 LIMIT 5`)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	var sub, message string
	_, err = pgx.ForEachRow(rows, []any{&sub, &message}, func() error {
		b.WriteString("not settled by " + sub + ": " + r.describe(message))
		return nil
	})
	fmt.Fprintln(&b, err)
	return b.String()
}

// describe tells what the log and the endpoints know of a message.
func (r *faultRun) describe(id string) string {
	var b strings.Builder
	r.mu.Lock()
	fmt.Fprintf(&b, "message %s %+v\n", id, r.messages[id])
	r.mu.Unlock()
	for _, h := range r.hooks {
		fmt.Fprintf(&b, "  subscription %s is %s\n", h.id, h.name)
		for _, s := range h.endpoint.sightings() {
			if s.message == id {
				fmt.Fprintf(&b, "    saw %s\n", s)
			}
		}
	}
	var events struct{ Data []json.RawMessage }
	if _, err := r.read("/messages/"+id+"/events?limit=200", &events); err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, e := range events.Data {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	return b.String()
}

// read gets a document from the first instance.
func (r *faultRun) read(path string, into any) (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.instances[0].url+apiPrefix+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set(headerToken, crashToken)
	req.Header.Set(headerTenant, devTenant)
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp.StatusCode, err
	}
	return resp.StatusCode, json.Unmarshal(text, into)
}
