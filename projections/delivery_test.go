package projections

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/redis"
)

// service is a dispatcher on a real Redis whose log a test folds.
type service struct {
	*commands.Dispatcher

	log    *redis.Log
	client *goredis.Client
	prefix string
	caller commands.Caller
}

// oddFilter passes messages whose payload is odd.
type oddFilter struct{}

func (oddFilter) Match(_ string, _ map[string]string, payload []byte) (bool, string) {
	return bytes.ContainsAny(payload[len(payload)-1:], "13579"), "is even"
}

func newService(t testing.TB) *service {
	t.Helper()
	url, prefix := devstack.TestRedis(t)
	client, err := redis.Open(url)
	require.NoError(t, err)
	log := redis.New(redis.Config{
		Client: client, Prefix: prefix, Shards: 1, IdempotencyTTL: time.Minute, Logger: slog.Default(),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	d := commands.NewDispatcher(log, commands.Config{
		Shards: 1, SessionTimeout: time.Second, MessageTTL: time.Hour, PayloadBytesMax: 1000, PullBytesMax: 1 << 20,
		TokenKey: []byte("key"), Logger: slog.New(slog.DiscardHandler), Now: time.Now, NewID: func() string { return newID(t) }, Rand: rand.Float64,
		Filter: func([]byte) (commands.Filter, error) { return oddFilter{}, nil },
	})
	s := &service{Dispatcher: d, log: log, client: client, prefix: prefix, caller: commands.Caller{TenantID: tenant, Async: true}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var background sync.WaitGroup
	background.Go(func() { log.Run(ctx) })
	for range 2 {
		background.Go(func() {
			log.RunDue(ctx, redis.DueWork{Expired: d.ExpireLeases, Tick: d.Tick, Forward: d.ForwardDeadLetter})
		})
	}
	t.Cleanup(func() {
		cancel()
		background.Wait()
		log.Close()
		_ = client.Close()
	})
	return s
}

// records reads the log after a position up to another.
func (s *service) records(t testing.TB, after, upTo events.Position) []events.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	messages, err := s.log.Reader(0, after).Subscribe(ctx, redis.LogStream(s.prefix, 0))
	require.NoError(t, err)
	var records []events.Record
	for after < upTo {
		m, ok := <-messages
		require.True(t, ok, "the log ended at %d of %d", after, upTo)
		r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload)
		require.NoError(t, err)
		records, after = append(records, r), r.Position
	}
	return records
}

// ledger is the unsettled of each group, and what waits to be released, as the tables
// have them.
func (b *testBundle) ledger(t testing.TB, topicID string) (unsettled map[string]int64, published, scheduled int64) {
	t.Helper()
	_ = b.pool.QueryRow(t.Context(), `SELECT published, scheduled FROM topic_counts WHERE topic_id = $1`, topicID).Scan(&published, &scheduled)
	rows, err := b.pool.Query(t.Context(), `SELECT consumer_group, $2 - base + replayed - consumed - dead - filtered - expired - purged
		FROM group_counts WHERE topic_id = $1`, topicID, published)
	require.NoError(t, err)
	unsettled = map[string]int64{}
	for rows.Next() {
		var group string
		var n int64
		require.NoError(t, rows.Scan(&group, &n))
		unsettled[group] = n
	}
	require.NoError(t, rows.Err())
	return unsettled, published, scheduled
}

// chaos does at random all that can be done to a queue.
type chaos struct {
	*service

	t       *testing.T
	rng     *rand.Rand
	topicID string
	subs    []string
	held    map[string][]commands.Pulled
	// seen are messages that were handed out, for redriving.
	seen      []commands.Pulled
	scheduled []string
	jobs      int
	// accepted are messages that the tables have, for erasing.
	accepted map[string]*commands.StoredMessage
	erased   int
	retained int
}

func (c *chaos) begin() {
	topic, _, err := c.CreateQueue(c.t.Context(), c.caller, commands.CreateQueue{ID: newID(c.t), Name: "orders", PartitionCount: new(1 + c.rng.IntN(3))})
	require.NoError(c.t, err)
	c.topicID, c.subs, c.held, c.seen, c.scheduled = topic.Config.TopicID, nil, map[string][]commands.Pulled{}, nil, nil
	for n := range 3 {
		c.subscribe(n)
	}
}

// subscribe makes a member of one of three groups: ordered, filtered and plain.
func (c *chaos) subscribe(group int) {
	cmd := commands.CreateSubscription{
		ID: newID(c.t), Queue: "orders", ConsumerGroup: fmt.Sprint("g", group), OffsetResetPolicy: []string{"earliest", "latest"}[c.rng.IntN(2)],
		ConsumerName: "c" + newID(c.t), SessionTimeoutMs: new(commands.SessionTimeoutMsMin), MaxRetryAttempts: new(1), RetryDelayMs: new(20),
	}
	switch group {
	case 0:
		cmd.HandlerConfig = json.RawMessage(`{"ordered":true}`)
	case 1:
		cmd.MessageFilter = json.RawMessage(`{}`)
	}
	s, _, err := c.CreateSubscription(c.t.Context(), c.caller, cmd)
	require.NoError(c.t, err)
	c.subs = append(c.subs, s.Config.SubscriptionID)
}

func (c *chaos) publish(later *int64) {
	m := commands.Publish{ID: newID(c.t), Queue: "orders", Payload: json.RawMessage(fmt.Sprint(c.rng.IntN(100))), DelayMs: later}
	if c.rng.IntN(3) > 0 {
		m.Key = fmt.Sprint("k", c.rng.IntN(3))
	}
	if c.rng.IntN(6) == 0 {
		m.TTLMs = new(int64(1 + c.rng.IntN(20)))
	}
	out, err := c.Publish(c.t.Context(), c.caller, []commands.Publish{m}, false)
	require.NoError(c.t, err)
	require.NoError(c.t, out[0].Err)
	if out[0].ReleaseAtMs > 0 {
		c.scheduled = append(c.scheduled, out[0].MessageID)
	}
}

func (c *chaos) consume(id string) {
	ctx := c.t.Context()
	if len(c.held[id]) == 0 || c.rng.IntN(3) == 0 {
		pulled, err := c.Pull(ctx, c.caller, commands.Pull{SubscriptionID: id, MessagesMax: new(1 + c.rng.IntN(6))})
		require.NoError(c.t, err)
		c.held[id], c.seen = append(c.held[id], pulled...), append(c.seen, pulled...)
		return
	}
	n := c.rng.IntN(len(c.held[id]))
	token := []string{c.held[id][n].AckToken}
	if c.rng.IntN(5) > 0 { // sometimes it is tried twice
		c.held[id] = append(c.held[id][:n], c.held[id][n+1:]...)
	}
	var err error
	switch c.rng.IntN(6) {
	case 0:
		_, err = c.Nack(ctx, c.caller, commands.Nack{SubscriptionID: id, AckTokens: token})
	case 1:
		_, err = c.Nack(ctx, c.caller, commands.Nack{SubscriptionID: id, AckTokens: token, DelayMs: new(int64(c.rng.IntN(2) * 5))})
	case 2:
		_, err = c.DeadLetter(ctx, c.caller, id, token, "no")
	default:
		_, err = c.Ack(ctx, c.caller, id, token)
	}
	require.NoError(c.t, err)
}

func (c *chaos) redrive(id string) {
	if len(c.seen) == 0 {
		return
	}
	c.jobs++
	attempt, err := c.ReserveAttempt(c.t.Context(), id)
	require.NoError(c.t, err)
	job := commands.Redrive{SubscriptionID: id, JobID: fmt.Sprint("job", c.jobs), Attempt: attempt}
	chosen := map[string]bool{}
	for range 1 + c.rng.IntN(4) {
		m := c.seen[c.rng.IntN(len(c.seen))]
		if chosen[m.MessageID] {
			continue
		}
		chosen[m.MessageID] = true
		job.Messages = append(job.Messages, commands.Redriven{
			MessageID: m.MessageID, Meta: m.Meta, Payload: m.Payload, Partition: m.Partition, Offset: m.Offset, Position: m.Position,
			DeadLetters: int64(c.rng.IntN(2)), // said by who may be wrong
		})
	}
	for range 2 { // and again: nothing more
		_, err = c.Redrive(c.t.Context(), job)
		require.NoError(c.t, err)
	}
}

// resume takes up what is out, and now and then the queue has another partition first.
func (c *chaos) resume(id string) {
	_, _, err := c.UpdateQueue(c.t.Context(), c.caller, commands.UpdateQueue{Queue: "orders", PartitionCount: new(3)})
	require.NoError(c.t, err)
	pulled, err := c.Resume(c.t.Context(), c.caller, id)
	require.NoError(c.t, err)
	c.held[id], c.seen = append(c.held[id], pulled...), append(c.seen, pulled...)
	if len(pulled) > 0 {
		_, err = c.Extend(c.t.Context(), c.caller, id, []string{pulled[0].AckToken}, 5000)
		require.NoError(c.t, err)
	}
}

func (c *chaos) step() {
	ctx := c.t.Context()
	which := c.rng.IntN(len(c.subs))
	id := c.subs[which]
	switch dice := c.rng.IntN(100); {
	case dice < 25:
		c.publish(nil)
	case dice < 30:
		c.publish(new([]int64{1, 10, 1_000_000}[c.rng.IntN(3)]))
	case dice < 31:
		c.resume(id)
	case dice < 33 && len(c.scheduled) > 0:
		if _, err := c.CancelMessage(ctx, c.caller, c.scheduled[c.rng.IntN(len(c.scheduled))]); err != nil {
			require.ErrorContains(c.t, err, string(commands.CodeMessageNotFound))
		}
	case dice < 35:
		c.erase()
	case dice < 36:
		c.retain()
	case dice < 84:
		c.consume(id)
	case dice < 88:
		c.redrive(id)
	case dice < 92:
		to := []string{"earliest", "latest", fmt.Sprint(c.rng.IntN(20)), time.Now().Add(-time.Duration(c.rng.IntN(500)) * time.Millisecond).Format(time.RFC3339Nano)}[c.rng.IntN(4)]
		_, err := c.Seek(ctx, c.caller, commands.Seek{SubscriptionID: id, To: to})
		require.NoError(c.t, err)
	case dice < 94:
		_, err := c.PurgeQueue(ctx, c.caller, "orders", nil)
		require.NoError(c.t, err)
	case dice < 97:
		c.subscribe(c.rng.IntN(3))
	case dice < 99 && len(c.subs) > 1:
		_, err := c.DeleteSubscription(ctx, c.caller, id, nil)
		require.NoError(c.t, err)
		c.subs = append(c.subs[:which], c.subs[which+1:]...)
	case dice == 99 && c.rng.IntN(3) == 0:
		_, err := c.DeleteQueue(ctx, c.caller, "orders", nil)
		require.NoError(c.t, err)
		c.begin()
	}
}

// The account as Redis keeps it and as history tells it are the same, at any moment.
func TestTheLedgerIsWhatRedisSays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			b, s := setup(t), newService(t)
			c := &chaos{service: s, t: t, rng: rand.New(rand.NewPCG(seed, seed))} //nolint:gosec // a test's dice
			c.begin()
			conn := b.conn(t)
			w, at := newWriter(conn.PgConn()), events.Position(0)
			var err error
			at, err = checkpoint(t.Context(), conn, 0)
			require.NoError(t, err)
			for round := range 12 {
				for range 150 {
					c.step()
				}
				state, err := s.log.TopicState(t.Context(), 0, c.topicID, 3)
				require.NoError(t, err)
				for batch := range chunks(s.records(t, at, state.Last), 1+int(seed)*50+round) { //nolint:gosec // small
					changes, err := fold(batch)
					require.NoError(t, err)
					require.NoError(t, w.commit(t.Context(), 0, at, batch, &changes))
					at = batch[len(batch)-1].Position
					c.folded(batch)
				}
				unsettled, published, scheduled := b.ledger(t, c.topicID)
				require.Equal(t, state.Unsettled, unsettled, "round %d", round)
				require.Equal(t, state.Scheduled, scheduled)
				var offsets int64
				for _, p := range state.Partitions {
					offsets += p.NextOffset
				}
				require.Equal(t, offsets, published)
				c.requireHeld(state)
			}
			for _, size := range []uint64{1, 7, 1000} {
				report := b.verify(t, size)
				require.True(t, report.OK(), "%v", report.Tables)
			}
			require.Positive(t, c.erased)
			require.Positive(t, c.retained)
			require.Empty(t, b.rebuild(t, 1))
			require.Eventually(t, c.drained, 20*time.Second, 10*time.Millisecond)
		})
	}
}

// drained acks all that comes and reports whether nothing is left: nothing is held for
// ever.
func (c *chaos) drained() bool {
	for _, id := range c.subs {
		pulled, err := c.Pull(c.t.Context(), c.caller, commands.Pull{SubscriptionID: id, MessagesMax: new(500)})
		if err != nil {
			c.t.Error(err)
			return false
		}
		for _, m := range pulled {
			if _, err := c.Ack(c.t.Context(), c.caller, id, []string{m.AckToken}); err != nil {
				c.t.Error(err)
			}
		}
	}
	state, err := c.log.TopicState(c.t.Context(), 0, c.topicID, 3)
	for _, n := range state.Unsettled {
		if n != 0 {
			return false
		}
	}
	return err == nil
}

// requireHeld says that what a group has not settled is somewhere: in a partition, to be
// tried again, parked or held.
func (c *chaos) requireHeld(state redis.TopicState) {
	c.t.Helper()
	for _, r := range state.Retries {
		n := r.Ready + r.Waiting + r.Held
		for _, p := range state.Partitions {
			for _, g := range p.Groups {
				if g.Group == r.Group {
					n += min(p.NextOffset-g.Delivered-g.Missing, p.Held) + g.Pending // a group may begin before what is kept
				}
			}
		}
		require.Equal(c.t, state.Unsettled[r.Group], n, "group %s: %+v", r.Group, r)
	}
}

func chunks(records []events.Record, size int) func(func([]events.Record) bool) {
	return func(yield func([]events.Record) bool) {
		for len(records) > 0 {
			n := min(size, len(records))
			if !yield(records[:n]) {
				return
			}
			records = records[n:]
		}
	}
}

// put adds an event as the log completes it, whatever its kind.
func (h *history) put(e events.Event) {
	h.t.Helper()
	id, value := newID(h.t), completion(e)
	if e, ok := e.(events.MessagePublished); ok {
		id = e.MessageID
	}
	if e, ok := e.(events.MessageScheduled); ok {
		id, value = e.MessageID, e.ReleaseAtMs
	}
	if e, ok := e.(events.MessageReleased); ok {
		value = e.Offset
	}
	if e, ok := e.(events.SubscriptionCreated); ok {
		value = e.Joined
	}
	if e, ok := e.(events.SubscriptionSought); ok {
		value = e.Moved
	}
	h.add(e, id, 1)
	frame, err := events.Encode(e)
	require.NoError(h.t, err)
	completed, err := json.Marshal(value)
	require.NoError(h.t, err)
	h.records[len(h.records)-1].Data = frame.Join(string(completed))
}

// newGroups is a history of a topic with groups that are yet to begin.
func newGroups(t testing.TB, groups int) *history {
	t.Helper()
	h := newHistory(t, 0)
	for n := range groups {
		h.subs = append(h.subs, events.SubscriptionCreated{SubscriptionConfig: events.SubscriptionConfig{
			TopicID: h.topicID, ConsumerGroup: fmt.Sprint("g", n), ConsumerName: "c", SubscriptionType: "webhook", OffsetResetPolicy: "earliest",
			HandlerConfig: json.RawMessage("{}"), Status: "active",
		}})
	}
	return h
}

// begun has a group begin, with what it finds.
func (h *history) begun(n int, backlog int64) {
	s := h.subs[n]
	s.SubscriptionID, s.Joined = newID(h.t), events.Joined{Group: s.ConsumerGroup, Began: true, Backlog: backlog}
	h.subs[n] = s
	h.put(s)
}

// model is the account of one group, kept simply.
type model struct {
	out map[string]events.Delivery // what is not settled
	// counts of what is, and dead letters by message
	consumed, filtered, expired, purged, replayed, base int64
	dead                                                map[string]int64
}

// account is a random history of a topic's groups with everything in it that is counted,
// and what it must come to.
type account struct {
	*history

	rng       *rand.Rand
	published []events.MessagePublished
	scheduled []events.MessagePublished
	groups    []*model
	attempt   int
}

func newAccount(t testing.TB, seed uint64) *account {
	a := &account{history: newGroups(t, 2), rng: rand.New(rand.NewPCG(seed, seed))} //nolint:gosec // a test's dice
	for n := range a.subs {
		a.groups = append(a.groups, nil)
		a.begin(n)
	}
	return a
}

func (a *account) begin(n int) {
	g := &model{out: map[string]events.Delivery{}, dead: map[string]int64{}, base: int64(len(a.published))}
	backlog := a.rng.IntN(len(a.published) + 1)
	for _, m := range a.published[len(a.published)-backlog:] {
		g.out[m.MessageID] = a.delivery(m, n, 1)
	}
	g.base -= int64(backlog)
	a.begun(n, int64(backlog))
	a.groups[n] = g
}

func (a *account) publishes(m events.MessagePublished) {
	a.published = append(a.published, m)
	for n, g := range a.groups {
		g.out[m.MessageID] = a.delivery(m, n, 1)
	}
}

func (a *account) message() events.MessagePublished {
	return events.MessagePublished{
		MessageID: newID(a.t), TopicID: a.topicID, ContentType: "application/json", TTLMs: 1000, Payload: json.RawMessage(`1`), Offset: int64(len(a.published)),
	}
}

// one returns any message that a group has not settled.
func (g *model) one() (events.Delivery, bool) {
	for _, d := range g.out {
		return d, true
	}
	return events.Delivery{}, false
}

func (a *account) settle(n int) {
	g := a.groups[n]
	d, ok := g.one()
	if !ok {
		return
	}
	a.attempt++
	d.Attempt, d.SubscriptionID = a.attempt, a.subs[n].SubscriptionID
	dice := a.rng.IntN(6)
	if dice > 0 {
		delete(g.out, d.MessageID)
	}
	switch dice {
	case 0:
		a.put(events.MessageFailed{Delivery: d, Reason: events.ReasonWebhook, StatusCode: 503, RetryDelayMs: 5})
	case 1:
		g.dead[d.MessageID]++
		a.put(events.MessageDeadLettered{Delivery: d, Reason: events.ReasonWebhook, StatusCode: 410})
	case 2:
		g.filtered++
		a.put(events.MessageFiltered{Delivery: d, Why: "no", Version: 1})
	case 3:
		g.expired++
		a.put(events.MessageExpired{Delivery: d, ExpiredAtMs: 1})
	default:
		g.consumed++
		a.put(events.MessageConsumed{Delivery: d, StatusCode: 204})
	}
}

func (a *account) redrive(n int) {
	g := a.groups[n]
	m := a.published[a.rng.IntN(len(a.published))]
	if _, isOut := g.out[m.MessageID]; isOut {
		return
	}
	g.out[m.MessageID] = a.delivery(m, n, 1)
	g.replayed += 1 - g.dead[m.MessageID]
	a.attempt++
	a.put(events.MessageRedriven{
		MessageID: m.MessageID, TopicID: a.topicID, SubscriptionID: a.subs[n].SubscriptionID, ConsumerGroup: a.subs[n].ConsumerGroup,
		Offset: m.Offset, Attempt: a.attempt, DeadLetters: g.dead[m.MessageID],
	})
	delete(g.dead, m.MessageID)
}

func (a *account) seek(n int) {
	g, before := a.groups[n], int64(len(a.groups[n].out))
	g.out = map[string]events.Delivery{}
	for _, m := range a.published[a.rng.IntN(len(a.published)+1):] {
		g.out[m.MessageID] = a.delivery(m, n, 1)
	}
	after := int64(len(g.out))
	g.replayed, g.purged = g.replayed+max(after-before, 0), g.purged+max(before-after, 0)
	a.put(events.SubscriptionSought{
		SubscriptionID: a.subs[n].SubscriptionID, TopicID: a.topicID, To: "latest", Moved: events.Moved{Group: a.subs[n].ConsumerGroup, Before: before, After: after},
	})
}

func (a *account) purge() {
	d := events.Discarded{Groups: map[string]int64{}, Scheduled: int64(len(a.scheduled)), From: "0-0"}
	for n, g := range a.groups {
		d.Groups[a.subs[n].ConsumerGroup] = int64(len(g.out))
		g.purged, g.out = g.purged+int64(len(g.out)), map[string]events.Delivery{}
	}
	a.scheduled = nil
	a.put(events.TopicPurged{TopicID: a.topicID, Discarded: d})
}

// deleteQueue ends the queue and begins another one.
func (a *account) deleteQueue() {
	d := events.Discarded{Groups: map[string]int64{}, From: "0-0"}
	for n, g := range a.groups {
		d.Groups[a.subs[n].ConsumerGroup] = int64(len(g.out))
	}
	a.put(events.TopicDeleted{TopicID: a.topicID, Name: "orders", Discarded: d})
	topic := a.topic("orders")
	a.topicID, a.published, a.scheduled = topic.TopicID, nil, nil
	a.put(events.TopicCreated{TopicConfig: topic})
	for n := range a.groups {
		a.subs[n].TopicID = a.topicID
		a.begin(n)
	}
}

func (a *account) step() {
	n := a.rng.IntN(len(a.groups))
	switch dice := a.rng.IntN(40); {
	case dice < 10:
		m := a.message()
		a.put(m)
		a.publishes(m)
	case dice < 13:
		m := a.message()
		m.Offset = 0
		a.put(events.MessageScheduled{MessagePublished: m, ReleaseAtMs: a.at.Ms() + 5})
		a.scheduled = append(a.scheduled, m)
	case dice < 16 && len(a.scheduled) > 0:
		m := a.scheduled[0]
		a.scheduled = a.scheduled[1:]
		if dice == 15 {
			a.put(events.MessageCancelled{MessageID: m.MessageID, TopicID: a.topicID})
			return
		}
		m.Offset = int64(len(a.published))
		a.put(events.MessageReleased{MessageID: m.MessageID, TopicID: a.topicID, Offset: m.Offset})
		a.publishes(m)
	case dice < 32:
		a.settle(n)
	case dice < 35 && len(a.published) > 0:
		a.redrive(n)
	case dice == 35:
		a.seek(n)
	case dice == 36:
		a.purge()
	case dice == 37:
		g := a.groups[n]
		a.put(events.SubscriptionDeleted{
			SubscriptionID: a.subs[n].SubscriptionID, TopicID: a.topicID, ConsumerGroup: a.subs[n].ConsumerGroup, ConsumerName: "c",
			Discarded: events.Discarded{Groups: map[string]int64{a.subs[n].ConsumerGroup: int64(len(g.out))}},
		})
		a.begin(n)
	case dice == 38 && a.rng.IntN(3) == 0:
		a.deleteQueue()
	}
}

// Whatever happens, of each group every message is somewhere, once, and the rows are the
// same in batches of any size.
func TestTheLedgerBalances(t *testing.T) {
	t.Parallel()
	for seed, size := range []int{1, 7, 1000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, 20+uint64(seed)) //nolint:gosec // small
			for range 600 {
				a.step()
			}
			b := setup(t)
			b.foldSame(t, a.history, size)
			unsettled, published, scheduled := b.ledger(t, a.topicID)
			require.Equal(t, []int64{int64(len(a.published)), int64(len(a.scheduled))}, []int64{published, scheduled})
			for n, g := range a.groups {
				group := a.subs[n].ConsumerGroup
				require.Equal(t, int64(len(g.out)), unsettled[group])
				var dead int64
				for _, k := range g.dead {
					dead += k
				}
				require.Equal(t, []string{fmt.Sprint(g.base, g.replayed, g.consumed, dead, g.filtered, g.expired, g.purged)},
					b.strings(t, `SELECT concat_ws(' ', base, replayed, consumed, dead, filtered, expired, purged) FROM group_counts WHERE consumer_group = $1`, group))
				require.Equal(t, []string{fmt.Sprint(dead)}, b.strings(t, `SELECT count(*)::text FROM dead_letters WHERE consumer_group = $1`, group))
			}
		})
	}
}

func TestAMessageThatIsRedrivenHasAnotherLife(t *testing.T) {
	t.Parallel()
	h := newGroups(t, 1)
	h.begun(0, 0)
	dead, purged, consumed := h.publish(), h.publish(), h.publish()
	names := map[string]string{dead.MessageID: "dead", purged.MessageID: "purged", consumed.MessageID: "consumed"}
	redrive := func(m events.MessagePublished, attempt int, letters int64) {
		h.put(events.MessageRedriven{MessageID: m.MessageID, TopicID: h.topicID, SubscriptionID: h.subs[0].SubscriptionID, ConsumerGroup: "g0", Attempt: attempt, DeadLetters: letters})
	}
	h.put(events.MessageDeadLettered{Delivery: h.delivery(dead, 0, 1), Reason: events.ReasonWebhook, Error: "gone", StatusCode: 410})
	h.put(events.MessageConsumed{Delivery: h.delivery(consumed, 0, 1), StatusCode: 204})
	b := setup(t)
	b.foldSame(t, h, 7)
	require.Equal(t, []string{"webhook gone 410 1"}, b.strings(t, `SELECT concat_ws(' ', reason, error_message, status_code, attempt) FROM dead_letters`))
	require.ElementsMatch(t, []string{"410", "204"}, b.strings(t, `SELECT status_code::text FROM consumption_records`))
	folded := len(h.records)
	// when, in one batch, all is purged, and what was dead comes back, before and after
	redrive(consumed, 2, 0)
	h.put(events.TopicPurged{TopicID: h.topicID, Discarded: events.Discarded{Groups: map[string]int64{"g0": 2}, From: "0-0"}})
	redrive(dead, 3, 1)
	redrive(purged, 3, 0)
	b.foldSame(t, &history{t: t, records: h.records[folded:]}, 1000)
	require.Equal(t, map[string]string{"dead": "failed", "purged": "failed", "consumed": "purged"}, b.statuses(t, names))
	require.Empty(t, b.strings(t, `SELECT message_id FROM dead_letters`))
	// and dies again, in two lives at the same attempt
	folded = len(h.records)
	for _, before := range []int{0, 2} {
		d := h.delivery(dead, 0, 3)
		d.AttemptsBefore = before
		h.put(events.MessageDeadLettered{Delivery: d, Reason: events.ReasonNack})
	}
	h.put(events.MessageConsumed{Delivery: h.delivery(purged, 0, 3)})
	b.foldSame(t, &history{t: t, records: h.records[folded:]}, 1000)
	require.Equal(t, map[string]string{"dead": "dead_letter", "purged": "consumed", "consumed": "purged"}, b.statuses(t, names))
	require.Equal(t, []string{"2"}, b.strings(t, `SELECT dead::text FROM group_counts`))
	// and a job that knows of letters which another one took back takes none
	folded = len(h.records)
	redrive(purged, 5, 1)
	b.foldSame(t, &history{t: t, records: h.records[folded:]}, 1)
	require.Equal(t, []string{"2"}, b.strings(t, `SELECT dead::text FROM group_counts`))
}
