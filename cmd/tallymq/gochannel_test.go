package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
	"github.com/tallymq/tallymq/queries"
)

// memoryStore is a log of one shard in memory that publishes its events on a
// gochannel. It has the semantics of infra/redis that the scenario below asks of
// both.
type memoryStore struct {
	mu     sync.Mutex
	pubsub *gochannel.GoChannel
	at     events.Position

	// foldMu guards how far the log is folded: Append holds mu until then.
	foldMu sync.Mutex
	folded events.Position
	moved  chan struct{}

	byName map[string]*events.Aggregate
	byID   map[string]*events.Aggregate
	keys   map[string]events.Outcome
	prints map[string]string
	// waiting is by topic, group and partition; leased by entry.
	waiting map[string][]events.Leased
	leased  map[string]bool
	groups  map[string][]string
	offsets map[string]int64
}

func newMemoryStore() *memoryStore {
	return &memoryStore{
		pubsub: gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true, Persistent: true}, watermill.NopLogger{}),
		at:     events.MakePosition(time.Now().UnixMilli(), 0), moved: make(chan struct{}),
		byName: map[string]*events.Aggregate{}, byID: map[string]*events.Aggregate{}, keys: map[string]events.Outcome{}, prints: map[string]string{},
		waiting: map[string][]events.Leased{}, leased: map[string]bool{}, groups: map[string][]string{}, offsets: map[string]int64{},
	}
}

const memoryLog = "log"

func (s *memoryStore) Append(_ context.Context, _ int, batch []events.Append) ([]events.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	outs := make([]events.Outcome, len(batch))
	for i, a := range batch {
		key := string(a.Event.Kind()) + a.Meta.IdempotencyKey
		if before, used := s.keys[key]; used && a.Meta.IdempotencyKey != "" {
			outs[i] = before
			outs[i].Status = events.StatusDuplicate
			if s.prints[key] != a.Meta.Fingerprint {
				outs[i].Status = events.StatusKeyReused
			}
			continue
		}
		offset, status := s.effect(a)
		outs[i] = events.Outcome{Status: status, ID: a.ID, Offset: offset}
		if status != events.StatusAppended {
			continue
		}
		s.at++
		outs[i].Position = s.at
		s.keys[key], s.prints[key] = outs[i], a.Meta.Fingerprint
		frame, err := events.Encode(a.Event)
		if err != nil {
			return nil, err
		}
		given := strconv.FormatInt(offset, 10)
		if _, created := a.Event.(events.SubscriptionCreated); created {
			given = fmt.Sprintf(`{"group":%q,"began":true}`, a.Group)
		}
		m := message.NewMessage(a.ID, frame.Join(given))
		m.Metadata = a.Meta.Metadata(a.Event.Kind(), a.TenantID, a.Version)
		m.Metadata[events.MetaShard], m.Metadata[events.MetaPosition] = "0", strconv.FormatInt(int64(s.at), 10)
		// Publishing waits for the projector's ack, which comes after its commit.
		if err := s.pubsub.Publish(memoryLog, m); err != nil {
			return nil, err
		}
	}
	return outs, nil
}

// effect folds an event's effect on delivery.
func (s *memoryStore) effect(a events.Append) (offset int64, status events.Status) {
	switch e := a.Event.(type) {
	case events.TopicCreated:
		if s.byName[a.TenantID+e.Name] != nil {
			return 0, events.StatusExists
		}
		v, _ := commands.DecodeTopic(a.State)
		s.byName[a.TenantID+e.Name] = &events.Aggregate{ID: e.TopicID, Version: a.Version, Value: v}
	case events.SubscriptionCreated:
		v, _ := commands.DecodeSubscription(a.State)
		s.byID[e.SubscriptionID] = &events.Aggregate{ID: e.SubscriptionID, Version: a.Version, Value: v}
		s.groups[e.TopicID] = append(s.groups[e.TopicID], e.ConsumerGroup)
	case events.MessagePublished:
		offset = s.offsets[e.TopicID]
		s.offsets[e.TopicID]++
		for _, group := range s.groups[e.TopicID] {
			s.enqueue(e.TopicID, group, events.Leased{MessageID: e.MessageID, Offset: offset, Attempt: 1, Payload: e.Payload, Meta: events.DeliveryMeta{Key: e.Key}})
		}
	case events.MessageConsumed:
		return 0, s.settle(a)
	case events.MessageDeadLettered:
		return 0, s.settle(a)
	case events.MessageFailed:
		if status := s.settle(a); status != events.StatusAppended {
			return 0, status
		}
		s.enqueue(e.TopicID, e.ConsumerGroup, events.Leased{MessageID: e.MessageID, Offset: e.Offset, Attempt: e.Attempt + 1})
	case events.TopicUpdated, events.TopicPurged, events.TopicDeleted,
		events.SubscriptionUpdated, events.SubscriptionPaused, events.SubscriptionResumed, events.SubscriptionStopped, events.SubscriptionSought,
		events.SubscriptionDeleted, events.ScheduleCreated, events.SchedulePaused, events.ScheduleResumed, events.ScheduleDeleted,
		events.MessageScheduled, events.MessageReleased, events.MessageCancelled, events.MessageFiltered, events.MessageExpired, events.MessageRedriven,
		events.MessageErased, events.TopicRetained:
		panic("not part of the scenario")
	}
	return offset, events.StatusAppended
}

func (s *memoryStore) enqueue(topicID, group string, m events.Leased) {
	m.EntryID = fmt.Sprintf("0-%d", len(s.leased)+len(s.waiting)+int(m.Offset)*100+m.Attempt)
	s.waiting[topicID+group] = append(s.waiting[topicID+group], m)
}

func (s *memoryStore) settle(a events.Append) events.Status {
	if !s.leased[a.Guard.Lease.EntryID] {
		return events.StatusLeaseLost
	}
	delete(s.leased, a.Guard.Lease.EntryID)
	return events.StatusAppended
}

func (s *memoryStore) Topic(_ context.Context, tenantID, name string) (*events.Aggregate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.byName[tenantID+name]; a != nil {
		return a, nil
	}
	return nil, events.ErrNoAggregate
}

func (s *memoryStore) Subscription(_ context.Context, id string) (*events.Aggregate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.byID[id]; a != nil {
		return a, nil
	}
	return nil, events.ErrNoAggregate
}

func (s *memoryStore) Forget(string) {}

func (s *memoryStore) committed(upTo events.Position) {
	s.foldMu.Lock()
	defer s.foldMu.Unlock()
	s.folded = max(s.folded, upTo)
	close(s.moved)
	s.moved = make(chan struct{})
}

func (s *memoryStore) WaitFolded(ctx context.Context, _ int, _ uint64, position events.Position) error {
	for {
		s.foldMu.Lock()
		folded, moved := s.folded, s.moved
		s.foldMu.Unlock()
		if folded >= position {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memoryStore) Lease(_ context.Context, req events.LeaseRequest, _ time.Duration) ([]events.Leased, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.waiting[req.TopicID+req.Group]
	n := min(len(queue), req.MessagesMax)
	s.waiting[req.TopicID+req.Group] = queue[n:]
	for i := range queue[:n] {
		queue[i].LeasedAtMs = s.at.Ms()
		s.leased[queue[i].EntryID] = true
	}
	return queue[:n], nil
}

func (s *memoryStore) Extend(context.Context, int, string, string, string, []events.Lease, time.Duration) (int64, []bool, error) {
	return 0, nil, errors.New("not part of the scenario")
}

func (s *memoryStore) TopicByID(context.Context, string) (*events.Aggregate, error) {
	return nil, events.ErrNoAggregate
}

// What these tests do not ask for.

func (s *memoryStore) Subscriptions(context.Context, int, string) ([]*events.Aggregate, error) {
	return nil, errors.ErrUnsupported
}

func (s *memoryStore) Schedule(context.Context, string) (*events.Aggregate, error) {
	return nil, errors.ErrUnsupported
}

func (s *memoryStore) ScheduledTopic(context.Context, string) (topicID string, shard int, err error) {
	return "", 0, errors.ErrUnsupported
}

func (s *memoryStore) ReserveAttempt(context.Context, int, string, string) (int64, error) {
	return 0, errors.ErrUnsupported
}

func (s *memoryStore) Resume(context.Context, events.LeaseRequest) ([]events.Leased, error) {
	return nil, errors.New("not part of the scenario")
}

// project runs a projector on a subscriber until the test ends.
func project(t *testing.T, databaseURL string, source func(events.Position) (message.Subscriber, string), committed func(events.Position)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		projections.New(projections.Config{
			Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, databaseURL) },
			Source:  source, Committed: committed, Logger: slog.New(slog.DiscardHandler),
		}).Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// Commands, events and projections are the same whether the log is Redis or a
// gochannel: one scenario, both logs.
func TestCommandsEventsAndProjectionsOnGochannelAndOnRedis(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	dispatcher := func(store commands.Store) *commands.Dispatcher {
		return commands.NewDispatcher(store, commands.Config{
			Shards: 1, AckTimeout: 10 * time.Second, SessionTimeout: time.Minute, PayloadBytesMax: 1000, PullBytesMax: 1 << 20,
			TokenKey: []byte("key"), Logger: logger, Now: time.Now, NewID: newID, Rand: func() float64 { return 0 },
		})
	}
	t.Run("gochannel", func(t *testing.T) {
		t.Parallel()
		databaseURL := devDatabase(t)
		store := newMemoryStore()
		project(t, databaseURL, func(events.Position) (message.Subscriber, string) { return store.pubsub, memoryLog }, store.committed)
		scenario(t, dispatcher(store), databaseURL)
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		databaseURL := devDatabase(t)
		cfg := testConfig(t)
		client, err := redis.Open(cfg.RedisURL)
		require.NoError(t, err)
		log := redis.New(redis.Config{
			Client: client, Prefix: cfg.RedisKeyPrefix, Shards: 1, IdempotencyTTL: time.Minute,
			DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule, Logger: logger,
		})
		t.Cleanup(func() {
			log.Close()
			_ = client.Close()
		})
		project(t, databaseURL, func(after events.Position) (message.Subscriber, string) {
			return log.Reader(0, after), redis.LogStream(cfg.RedisKeyPrefix, 0)
		}, func(upTo events.Position) { log.Announce(0, upTo) })
		scenario(t, dispatcher(log), databaseURL)
	})
}

// devDatabase is a migrated schema of the test's own.
func devDatabase(t *testing.T) string {
	t.Helper()
	databaseURL := testConfig(t).DatabaseURL
	pool, err := postgres.Open(t.Context(), databaseURL)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	return databaseURL
}

func scenario(t *testing.T, d *commands.Dispatcher, databaseURL string) {
	t.Helper()
	ctx := t.Context()
	caller := commands.Caller{TenantID: devTenant}
	// given a queue with a subscription
	_, receipt, err := d.CreateQueue(ctx, caller, commands.CreateQueue{ID: newID(), Name: "orders"})
	require.NoError(t, err)
	require.True(t, receipt.Folded)
	_, _, err = d.CreateQueue(ctx, caller, commands.CreateQueue{ID: newID(), Name: "orders"})
	var refusal *commands.Refusal
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, commands.CodeConflict, refusal.Code)
	sub, _, err := d.CreateSubscription(ctx, caller, commands.CreateSubscription{
		ID: newID(), Queue: "orders", ConsumerGroup: "billing", OffsetResetPolicy: "earliest",
	})
	require.NoError(t, err)
	// when messages are published, one of them twice under one key
	keyed := caller
	keyed.IdempotencyKey = "once"
	publish := func(c commands.Caller, payload string) commands.Published {
		out, err := d.Publish(ctx, c, []commands.Publish{{ID: newID(), Queue: "orders", Key: "k", Payload: []byte(payload)}}, false)
		require.NoError(t, err)
		require.NoError(t, out[0].Err)
		return out[0]
	}
	first, second := publish(keyed, `{"n":1}`), publish(caller, `{"n":2}`)
	again := publish(keyed, `{"n":1}`)
	require.Equal(t, []any{true, first.MessageID}, []any{again.Duplicate, again.MessageID})
	require.Equal(t, []int64{0, 1}, []int64{first.Offset, second.Offset})
	// and the first is consumed, the second fails once and then is consumed
	id := sub.Config.SubscriptionID
	pulled, err := d.Pull(ctx, caller, commands.Pull{SubscriptionID: id})
	require.NoError(t, err)
	require.Len(t, pulled, 2)
	acked, err := d.Ack(ctx, caller, id, []string{pulled[0].AckToken})
	require.NoError(t, err)
	require.NoError(t, acked[0].Err)
	lost, err := d.Ack(ctx, caller, id, []string{pulled[0].AckToken})
	require.NoError(t, err)
	require.ErrorAs(t, lost[0].Err, &refusal)
	require.Equal(t, commands.CodeLeaseLost, refusal.Code)
	nacked, err := d.Nack(ctx, caller, commands.Nack{SubscriptionID: id, AckTokens: []string{pulled[1].AckToken}, Error: "busy"})
	require.NoError(t, err)
	require.Equal(t, "retrying", nacked[0].Status)
	retried, err := d.Pull(ctx, caller, commands.Pull{SubscriptionID: id})
	require.NoError(t, err)
	require.Len(t, retried, 1)
	require.Equal(t, 2, retried[0].Attempt)
	_, err = d.Ack(ctx, caller, id, []string{retried[0].AckToken})
	require.NoError(t, err)
	// then the read tables say so, and equal the fold of the history
	pool, err := postgres.Open(ctx, databaseURL)
	require.NoError(t, err)
	defer pool.Close()
	for messageID, retries := range map[string]int{first.MessageID: 0, second.MessageID: 1} {
		eventually(t, "consumed", func() bool {
			m, err := queries.MessageByID(ctx, pool, devTenant, messageID)
			return err == nil && m.Status == "consumed" && m.RetryCount == retries
		})
		attempts, err := queries.Attempts(ctx, pool, devTenant, messageID)
		require.NoError(t, err)
		require.Len(t, attempts, retries+1)
	}
	conn, err := postgres.Connect(ctx, databaseURL)
	require.NoError(t, err)
	report, err := projections.Verify(ctx, conn, projections.VerifyOptions{Shards: 1, Batch: 3})
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	require.Equal(t, int64(7), report.Events)
}
