package feed

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// shardLog is a shard's log in memory.
type shardLog struct {
	t         testing.TB
	shard     int
	mu        sync.Mutex
	records   []events.Record
	more      chan struct{}
	committed events.Position
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

// add appends an event, at a position of now.
func (l *shardLog) add(tenantID, id string, version int64, e events.Event) events.Record {
	frame, err := events.Encode(e)
	require.NoError(l.t, err)
	value := "0"
	if kind := e.Kind(); kind == events.KindTopicDeleted || kind == events.KindSubscriptionDeleted {
		value = "{}"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := events.MakePosition(time.Now().UnixMilli(), 0)
	if n := len(l.records); n > 0 {
		at = max(at, l.records[n-1].Position+1)
	}
	r := events.Record{
		Shard: l.shard, Position: at, ID: id, TenantID: tenantID, Version: version, Event: e, Data: frame.Join(value),
		Meta: events.Meta{Actor: "tester", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", IdempotencyKey: "secret"},
	}
	l.records = append(l.records, r)
	close(l.more)
	l.more = make(chan struct{})
	return r
}

func (l *shardLog) topic(tenantID, name string) (id string) {
	id = newID(l.t)
	l.add(tenantID, id, 1, events.TopicCreated{TopicConfig: events.TopicConfig{
		TopicID: id, Name: name, TopicType: "redis_stream", PartitionCount: 1, ReplicationFactor: 1, RetentionMs: 60_000,
		MessageFormat: "json", CompressionType: "none", AllowedProducers: []string{}, AllowedConsumers: []string{}, Status: "active",
	}})
	return id
}

func (l *shardLog) publish(tenantID, topicID, payload string) (messageID string) {
	id := newID(l.t)
	l.add(tenantID, id, 0, events.MessagePublished{MessageID: id, TopicID: topicID, ContentType: "application/json", Payload: json.RawMessage(payload)})
	return id
}

func (l *shardLog) failed(tenantID, topicID, messageID string) {
	l.add(tenantID, newID(l.t), 0, events.MessageFailed{Reason: events.ReasonNack, Error: "no", Delivery: events.Delivery{
		MessageID: messageID, TopicID: topicID, SubscriptionID: newID(l.t), ConsumerGroup: "g", Consumer: "c", Attempt: 1,
	}})
}

func (l *shardLog) committedUpTo(at events.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = max(l.committed, at)
}

// fold waits until everything added is in Postgres.
func (l *shardLog) fold() {
	require.Eventually(l.t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.records) == 0 || l.committed >= l.records[len(l.records)-1].Position
	}, time.Minute, time.Millisecond, "shard %d is not folded", l.shard)
}

// replay is a subscription to a log.
type replay struct {
	log   *shardLog
	after events.Position
}

func (r replay) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for at := 0; ; {
			r.log.mu.Lock()
			records, more := r.log.records[at:], r.log.more
			r.log.mu.Unlock()
			for _, record := range records {
				if at++; record.Position <= r.after {
					continue
				}
				select {
				case out <- toMessage(record):
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (replay) Close() error { return nil }

func toMessage(r events.Record) *message.Message {
	m := message.NewMessage(r.ID, r.Data)
	m.Metadata = r.Meta.Metadata(r.Event.Kind(), r.TenantID, r.Version)
	m.Metadata[events.MetaShard] = strconv.Itoa(r.Shard)
	m.Metadata[events.MetaPosition] = strconv.FormatInt(int64(r.Position), 10)
	return m
}
