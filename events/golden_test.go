package events

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// update writes the golden files that are missing. It never changes one: history
// holds events in that form, whatever the code says today.
var update = flag.Bool("update", false, "write missing golden files")

const (
	topicID        = "01890a5d-ac96-774b-bcce-b302099a8057"
	subscriptionID = "01890a5d-ac97-7d6b-8f2a-0c6d5f1e2a3b"
	messageID      = "01890a5d-ac98-7e1f-9c4d-1b2a3c4d5e6f"
	scheduleID     = "01890a5d-ac99-7e1f-9c4d-1b2a3c4d5e6f"
	erasedSum      = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
)

func hookConfig() SubscriptionConfig {
	return SubscriptionConfig{
		SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "hooks", ConsumerName: "hooks", SubscriptionType: "webhook",
		OffsetResetPolicy: "earliest", MaxPollRecords: 1, SessionTimeoutMs: 1000, HeartbeatIntervalMs: 100,
		HandlerConfig: json.RawMessage(`{"url":"https://example.com","note":",\"joined\":"}`), SecretGeneration: 2, OldSecretUntilMs: 1767323045006, Status: "active",
	}
}

// redelivered is an attempt after a redrive.
func redelivered() Delivery {
	d := exampleDelivery()
	d.Attempt, d.AttemptsBefore = 6, 4
	return d
}

func exampleDelivery() Delivery {
	return Delivery{
		MessageID: messageID, TopicID: topicID, SubscriptionID: subscriptionID, ConsumerGroup: "billing",
		Consumer: "billing-1", Partition: 3, Offset: 1234567890123, Attempt: 2, LeasedAtMs: 1767323045006,
	}
}

// examples are events of every kind: with everything set under the kind's name, and
// with as little as possible under .minimal. To add a field to an event, add an
// example that has it under a new name; the ones here stay as they are.
func examples() map[string]Event {
	bare := Delivery{MessageID: messageID, TopicID: topicID, SubscriptionID: subscriptionID, ConsumerGroup: "g", Consumer: "c", Attempt: 1}
	return map[string]Event{
		"topic.created": TopicCreated{TopicConfig: TopicConfig{
			TopicID: topicID, Name: "orders", DisplayName: "Orders <&> é", Description: "all \"orders\"\n", TopicType: "redis_stream",
			PartitionCount: 3, ReplicationFactor: 1, RetentionMs: 604800000, MessageFormat: "json",
			SchemaDefinition: json.RawMessage(`{"type":"object"}`), CompressionType: "none", IsPublic: true,
			AllowedProducers: []string{"order-service"}, AllowedConsumers: []string{"billing", "mail"}, Status: "active",
		}},
		"topic.created.minimal": TopicCreated{TopicConfig: TopicConfig{
			TopicID: topicID, Name: "orders", TopicType: "redis_stream", PartitionCount: 1, ReplicationFactor: 1, RetentionMs: 60000,
			MessageFormat: "json", CompressionType: "none", AllowedProducers: []string{}, AllowedConsumers: []string{}, Status: "paused",
		}},
		"subscription.created": SubscriptionCreated{SubscriptionConfig: SubscriptionConfig{
			SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "billing", ConsumerName: "billing-1",
			SubscriptionType: "redis_consumer", OffsetResetPolicy: "earliest", MaxPollRecords: 500, SessionTimeoutMs: 30000,
			HeartbeatIntervalMs: 3000, HandlerConfig: json.RawMessage(`{"a":[1,2]}`), DeadLetterQueue: "orders.dead",
			MaxRetryAttempts: 3, RetryDelayMs: 1000, MessageFilter: json.RawMessage(`{"headers.region":"eu"}`), Status: "active",
		}},
		"subscription.created.minimal": SubscriptionCreated{SubscriptionConfig: SubscriptionConfig{
			SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "g", ConsumerName: "c", SubscriptionType: "redis_consumer",
			OffsetResetPolicy: "latest", MaxPollRecords: 1, SessionTimeoutMs: 1000, HeartbeatIntervalMs: 100,
			HandlerConfig: json.RawMessage(`{}`), Status: "paused",
		}},
		"topic.updated": TopicUpdated{TopicConfig{
			TopicID: topicID, Name: "orders", DisplayName: "Orders", Description: "d", TopicType: "redis_stream",
			PartitionCount: 6, ReplicationFactor: 1, RetentionMs: 60000, MessageFormat: "json",
			SchemaDefinition: json.RawMessage(`{}`), CompressionType: "none", IsPublic: true,
			AllowedProducers: []string{"a"}, AllowedConsumers: []string{"b"}, Status: "paused",
		}},
		"topic.purged": TopicPurged{TopicID: topicID, Discarded: Discarded{
			Groups: map[string]int64{"billing": 3, "mail": 0}, From: "1767323045006-3",
		}},
		"topic.purged.minimal": TopicPurged{TopicID: topicID},
		"topic.deleted":        TopicDeleted{TopicID: topicID, Name: "orders", Discarded: Discarded{Groups: map[string]int64{"billing": 3}, From: "1767323045006-0"}},
		"subscription.updated": SubscriptionUpdated{SubscriptionConfig{
			SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "billing", ConsumerName: "billing-1",
			SubscriptionType: "webhook", OffsetResetPolicy: "latest", MaxPollRecords: 5, SessionTimeoutMs: 1000,
			HeartbeatIntervalMs: 100, HandlerConfig: json.RawMessage(`{"url":"https://example.com"}`), DeadLetterQueue: "dead",
			MaxRetryAttempts: 1, RetryDelayMs: 10, MessageFilter: json.RawMessage(`{"key":"k"}`), Status: "active",
		}},
		"subscription.paused":  SubscriptionPaused{SubscriptionID: subscriptionID, TopicID: topicID},
		"subscription.resumed": SubscriptionResumed{SubscriptionID: subscriptionID, TopicID: topicID},
		"subscription.deleted": SubscriptionDeleted{
			SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "billing", ConsumerName: "billing-1",
			Discarded: Discarded{Groups: map[string]int64{"billing": 2}, From: "1767323045007-0"},
		},
		"message.published.sealed": MessagePublished{
			MessageID: messageID, TopicID: topicID, ContentType: "application/json", Sealed: true, PlainBytes: 12,
			Payload: json.RawMessage(`"mqenc1:k:abc"`), Offset: 1,
		},
		"message.published": MessagePublished{
			MessageID: messageID, TopicID: topicID, Partition: 2, Key: "customer-7", Headers: map[string]string{"b": "2", "a": "<1>"},
			ContentType: "application/json", CorrelationID: "c-1", ProducerID: "order-service",
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", TTLMs: 604800000,
			Payload: json.RawMessage("{\"id\" : 1.0,\n\t\"text\":\"<&> \\u00e9 é\",\"n\":12345678901234567890}"), Offset: 42,
		},
		"message.published.minimal": MessagePublished{
			MessageID: messageID, TopicID: topicID, ContentType: "text/plain", Payload: json.RawMessage(`null`),
		},
		"message.consumed":         MessageConsumed{Delivery: exampleDelivery()},
		"message.consumed.minimal": MessageConsumed{Delivery: bare},
		"message.failed": MessageFailed{
			Delivery: exampleDelivery(), Reason: ReasonNack, Error: "card declined: <timeout>", RetryDelayMs: 1500,
		},
		"message.failed.minimal":        MessageFailed{Delivery: bare, Reason: ReasonReleased},
		"message.dead_lettered":         MessageDeadLettered{Delivery: exampleDelivery(), Reason: ReasonNack, Error: "no such card"},
		"message.dead_lettered.minimal": MessageDeadLettered{Delivery: bare, Reason: ReasonLeaseExpired},

		"topic.purged.scheduled":  TopicPurged{TopicID: topicID, Discarded: Discarded{Scheduled: 2}},
		"topic.deleted.scheduled": TopicDeleted{TopicID: topicID, Name: "orders", Discarded: Discarded{Scheduled: 2}},
		"subscription.created.joined": SubscriptionCreated{
			SubscriptionConfig: hookConfig(), Joined: Joined{Group: "hooks", Began: true, Backlog: 7},
		},
		"subscription.created.offsets": SubscriptionCreated{
			SubscriptionConfig: hookConfig(), Joined: Joined{Group: "hooks", Began: true, Backlog: 7, Offsets: []int64{3, 4}},
		},
		"subscription.updated.secret": SubscriptionUpdated{SubscriptionConfig: hookConfig()},
		"subscription.deleted.scheduled": SubscriptionDeleted{
			SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "g", ConsumerName: "c", Discarded: Discarded{Scheduled: 1},
		},
		"subscription.paused.reason": SubscriptionPaused{SubscriptionID: subscriptionID, TopicID: topicID, Reason: "its webhook has failed for 1h0m0s"},
		"subscription.stopped":       SubscriptionStopped{SubscriptionID: subscriptionID, TopicID: topicID, Reason: "its webhook answered 410"},
		"subscription.sought": SubscriptionSought{
			SubscriptionID: subscriptionID, TopicID: topicID, To: "earliest", Moved: Moved{Group: "billing", Before: 3, After: 12, Older: true},
		},
		"subscription.sought.offsets": SubscriptionSought{
			SubscriptionID: subscriptionID, TopicID: topicID, To: "42", Moved: Moved{Group: "billing", After: 12, Offsets: []int64{42, 2}, AttemptsBefore: 3},
		},
		"schedule.created": ScheduleCreated{ScheduleConfig{
			ScheduleID: scheduleID, TopicID: topicID, Name: "nightly", Cron: "0 3 * * *", TimeZone: "Europe/Berlin", Key: "k",
			Headers: map[string]string{"a": "1"}, ContentType: "application/json", CorrelationID: "c", TTLMs: new(int64(1000)),
			Sealed: true, Payload: json.RawMessage(`"sealed"`), Status: "active",
		}},
		"schedule.paused":  SchedulePaused{ScheduleID: scheduleID, TopicID: topicID},
		"schedule.resumed": ScheduleResumed{ScheduleID: scheduleID, TopicID: topicID},
		"schedule.deleted": ScheduleDeleted{ScheduleID: scheduleID, TopicID: topicID},
		"message.published.overrides": MessagePublished{
			MessageID: messageID, TopicID: topicID, ContentType: "application/json", MaxRetryAttempts: new(0), RetryDelayMs: new(250),
			ScheduleID: scheduleID, Payload: json.RawMessage(`1`), Offset: 3,
		},
		"message.scheduled": MessageScheduled{ReleaseAtMs: 1767323045006, MessagePublished: MessagePublished{
			MessageID: messageID, TopicID: topicID, Partition: 2, Key: "customer-7", Headers: map[string]string{"a": "1"},
			ContentType: "application/json", CorrelationID: "c-1", ProducerID: "order-service",
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", TTLMs: 604800000, Sealed: true, PlainBytes: 2,
			MaxRetryAttempts: new(1), RetryDelayMs: new(2), ScheduleID: scheduleID, Payload: json.RawMessage("{ }"),
		}},
		"message.released":              MessageReleased{MessageID: messageID, TopicID: topicID, Partition: 2, Offset: 42},
		"message.cancelled":             MessageCancelled{MessageID: messageID, TopicID: topicID},
		"message.consumed.webhook":      MessageConsumed{Delivery: redelivered(), StatusCode: 204},
		"message.failed.webhook":        MessageFailed{Delivery: redelivered(), Reason: ReasonWebhook, Error: "answered 503", StatusCode: 503, RetryDelayMs: 10},
		"message.dead_lettered.webhook": MessageDeadLettered{Delivery: redelivered(), Reason: ReasonWebhook, Error: "answered 500", StatusCode: 500},
		"message.filtered":              MessageFiltered{Delivery: redelivered(), Why: `headers.type is "x", wanted "order"`, Version: 3},
		"message.expired":               MessageExpired{Delivery: redelivered(), ExpiredAtMs: 1767323045006},
		"message.redriven": MessageRedriven{
			MessageID: messageID, TopicID: topicID, SubscriptionID: subscriptionID, ConsumerGroup: "billing", Partition: 1, Offset: 9,
			Attempt: 5, DeadLetters: 1, JobID: scheduleID,
		},
		"message.published.erased": MessagePublished{
			MessageID: messageID, TopicID: topicID, Partition: 2, Headers: map[string]string{"a": `"payload":1`}, ContentType: "application/json",
			Payload: json.RawMessage(`null`), ErasedSHA256: erasedSum, Offset: 42,
		},
		"message.scheduled.erased": MessageScheduled{ReleaseAtMs: 1767323045006, MessagePublished: MessagePublished{
			MessageID: messageID, TopicID: topicID, ContentType: "application/json", Payload: json.RawMessage(`null`), ErasedSHA256: erasedSum,
		}},
		"message.erased": MessageErased{
			MessageID: messageID, TopicID: topicID, Entry: "1767323045006-3", PayloadBytes: 17, Reason: `asked for: ","discarded":`,
			Discarded: Discarded{Groups: map[string]int64{"billing": 1}, Scheduled: 1, From: "1767323045006-3"},
		},
		"message.erased.minimal": MessageErased{MessageID: messageID, TopicID: topicID, Entry: "1767323045006-0"},
		"topic.retained":         TopicRetained{TopicID: topicID, BeforeMs: 1767323045006, From: scheduleID, UpTo: messageID},
	}
}

// kinds reads the catalogue's kinds from its source, so that none can be forgotten.
func kinds(t testing.TB) []Kind {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "catalogue.go", nil, 0)
	require.NoError(t, err)
	var found []Kind
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); !ok || name.Name != "Kind" {
			return true
		}
		for _, value := range spec.Values {
			text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
			require.NoError(t, err)
			found = append(found, Kind(text))
		}
		return true
	})
	require.GreaterOrEqual(t, len(found), 6)
	return found
}

// stored is the event's JSON as the log stores it.
func stored(t testing.TB, e Event) []byte {
	t.Helper()
	frame, err := Encode(e)
	require.NoError(t, err)
	given := map[Kind]func() any{
		KindMessagePublished:    func() any { return e.(MessagePublished).Offset },
		KindMessageScheduled:    func() any { return e.(MessageScheduled).ReleaseAtMs },
		KindMessageReleased:     func() any { return e.(MessageReleased).Offset },
		KindTopicPurged:         func() any { return e.(TopicPurged).Discarded },
		KindTopicDeleted:        func() any { return e.(TopicDeleted).Discarded },
		KindSubscriptionDeleted: func() any { return e.(SubscriptionDeleted).Discarded },
		KindSubscriptionSought:  func() any { return e.(SubscriptionSought).Moved },
		KindSubscriptionCreated: func() any { return e.(SubscriptionCreated).Joined },
		KindMessageErased:       func() any { return e.(MessageErased).Discarded },
	}[e.Kind()]
	if created, ok := e.(SubscriptionCreated); ok && reflect.DeepEqual(created.Joined, Joined{}) {
		return append(frame.Head, '}') // as it was before the log completed it
	}
	if given == nil {
		return frame.Join("")
	}
	value, err := json.Marshal(given())
	require.NoError(t, err)
	return frame.Join(string(value))
}

func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	for name, want := range examples() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.True(t, name == string(want.Kind()) || strings.HasPrefix(name, string(want.Kind())+"."), name)
			path := filepath.Join("testdata", name+".json")
			if _, err := os.Stat(path); *update && os.IsNotExist(err) {
				require.NoError(t, os.WriteFile(path, append(stored(t, want), '\n'), 0o600))
			}
			golden, err := os.ReadFile(path)
			require.NoError(t, err, "no golden file; -update writes missing ones")
			golden = golden[:len(golden)-1]
			// history is read as it was meant
			got, err := Decode(want.Kind(), golden)
			require.NoError(t, err)
			require.Equal(t, want, got, "history would be read differently: fields are added, never changed")
			// and is written as it stands: a new field leaves old events alone
			require.Equal(t, string(golden), string(stored(t, want)), "new fields are omitempty; old ones keep name, place and form")
		})
	}
}

func TestEveryKindHasAGoldenFile(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds(t) {
		full, ok := examples()[string(kind)]
		require.True(t, ok, "kind %s has no example", kind)
		require.Equal(t, kind, full.Kind())
		require.FileExists(t, filepath.Join("testdata", string(kind)+".json"))
	}
}

func TestEveryGoldenFileHasAnExample(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("testdata")
	require.NoError(t, err)
	for _, f := range files {
		if f.IsDir() {
			continue // a fuzz corpus
		}
		require.Contains(t, examples(), strings.TrimSuffix(f.Name(), ".json"), "history with %s is not tested any more", f.Name())
	}
}

// A field that no example sets would have no golden form.
func TestExamplesSetEveryField(t *testing.T) {
	t.Parallel()
	set := map[string]bool{}
	for _, e := range examples() {
		var walk func(path string, v reflect.Value)
		walk = func(path string, v reflect.Value) {
			if v.Kind() != reflect.Struct {
				set[path] = set[path] || !v.IsZero()
				return
			}
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		}
		walk(string(e.Kind()), reflect.ValueOf(e))
	}
	delete(set, "message.scheduled.MessagePublished.Offset") // none is given before the message is released
	for path, ok := range set {
		require.True(t, ok, "no example sets %s", path)
	}
}
