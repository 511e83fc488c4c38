package commands

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// shopOrders is a queue with something in every field.
func shopOrders() Topic {
	return Topic{TenantID: tenantID, Version: 3, Config: events.TopicConfig{
		TopicID: topicID, Name: "orders", DisplayName: "Orders", Description: "what is sold", TopicType: "redis_stream", PartitionCount: 4,
		ReplicationFactor: 1, RetentionMs: 3_600_000, MessageFormat: "json", SchemaDefinition: json.RawMessage(`{"type":"object"}`),
		CompressionType: "none", IsPublic: true, AllowedProducers: []string{"shop"}, AllowedConsumers: []string{"billing"}, Status: StatusActive,
	}}
}

// whole is a subscription with something in every field.
func whole() Subscription {
	s := billing()
	s.Config.SubscriptionType, s.Config.OffsetResetPolicy, s.Config.HeartbeatIntervalMs = TypeConsumer, "earliest", 3000
	s.Config.HandlerConfig, s.Config.MessageFilter = json.RawMessage(`{"a":1}`), json.RawMessage(`{"b":2}`)
	s.Config.DeadLetterQueue = "dead"
	return s
}

func TestUpdateQueueChangesWhatItNames(t *testing.T) {
	t.Parallel()
	type config = events.TopicConfig
	null, schema := json.RawMessage("null"), json.RawMessage(`{"a": 1}`)
	for name, tc := range map[string]struct {
		cmd  UpdateQueue
		want func(*config)
	}{
		"nothing":             {UpdateQueue{}, func(*config) {}},
		"the same":            {UpdateQueue{Name: new("orders"), TopicType: new("redis_stream"), PartitionCount: new(4)}, func(*config) {}},
		"displayName":         {UpdateQueue{DisplayName: new("O")}, func(e *config) { e.DisplayName = "O" }},
		"displayName, empty":  {UpdateQueue{DisplayName: new("")}, func(e *config) { e.DisplayName = "" }},
		"description":         {UpdateQueue{Description: new("d")}, func(e *config) { e.Description = "d" }},
		"partitionCount":      {UpdateQueue{PartitionCount: new(5)}, func(e *config) { e.PartitionCount = 5 }},
		"replicationFactor":   {UpdateQueue{ReplicationFactor: new(1)}, func(*config) {}},
		"retentionMs":         {UpdateQueue{RetentionMs: new(int64(60_000))}, func(e *config) { e.RetentionMs = 60_000 }},
		"messageFormat":       {UpdateQueue{MessageFormat: new("json")}, func(*config) {}},
		"compressionType":     {UpdateQueue{CompressionType: new("none")}, func(*config) {}},
		"schemaDefinition":    {UpdateQueue{SchemaDefinition: schema}, func(e *config) { e.SchemaDefinition = schema }},
		"no schemaDefinition": {UpdateQueue{SchemaDefinition: null}, func(e *config) { e.SchemaDefinition = nil }},
		"isPublic":            {UpdateQueue{IsPublic: new(false)}, func(e *config) { e.IsPublic = false }},
		"allowedProducers":    {UpdateQueue{AllowedProducers: &[]string{"a", "b"}}, func(e *config) { e.AllowedProducers = []string{"a", "b"} }},
		"all producers":       {UpdateQueue{AllowedProducers: new([]string)}, func(e *config) { e.AllowedProducers = []string{} }},
		"allowedConsumers":    {UpdateQueue{AllowedConsumers: &[]string{}}, func(e *config) { e.AllowedConsumers = []string{} }},
		"status":              {UpdateQueue{Status: new(StatusPaused)}, func(e *config) { e.Status = StatusPaused }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := shopOrders()
			want := shopOrders().Config
			tc.want(&want)
			got, err := decideUpdateQueue(before, tc.cmd)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Equal(t, shopOrders(), before, "the state is others' too")
		})
	}
}

func TestUpdateQueueLimits(t *testing.T) {
	t.Parallel()
	type c = UpdateQueue
	cases := texts("displayName", 200, func(c *c, s string) { c.DisplayName = &s })
	cases = append(cases, texts("description", 4000, func(c *c, s string) { c.Description = &s })...)
	cases = append(cases, between("replicationFactor", 1, 1, func(c *c, n int64) { c.ReplicationFactor = new(int(n)) })...)
	cases = append(cases, between("retentionMs", 60_000, 315_360_000_000, func(c *c, n int64) { c.RetentionMs = &n })...)
	cases = append(cases, notEmpty(oneOf("messageFormat", func(c *c, s string) { c.MessageFormat = &s }, "json"))...)
	cases = append(cases, notEmpty(oneOf("compressionType", func(c *c, s string) { c.CompressionType = &s }, "none"))...)
	cases = append(cases, notEmpty(oneOf("status", func(c *c, s string) { c.Status = &s }, "active", "paused"))...)
	fewer, same := "4 or more: partitions cannot be taken away", `"orders": it cannot be changed`
	cases = append(cases,
		limitCase[c]{name: "partitions fewer", when: func(c *c) { c.PartitionCount = new(3) }, field: "partitionCount", limit: fewer},
		limitCase[c]{name: "partitions as many", when: func(c *c) { c.PartitionCount = new(4) }},
		limitCase[c]{name: "partitions most", when: func(c *c) { c.PartitionCount = new(64) }},
		limitCase[c]{name: "partitions too many", when: func(c *c) { c.PartitionCount = new(65) }, field: "partitionCount", limit: "1 to 64"},
		limitCase[c]{name: "another name", when: func(c *c) { c.Name = new("orders2") }, field: "name", limit: same},
		limitCase[c]{name: "no name", when: func(c *c) { c.Name = new("") }, field: "name", limit: same},
		limitCase[c]{name: "another type", when: func(c *c) { c.TopicType = new("kafka") }, field: "topicType", limit: `"redis_stream": it cannot be changed`},
		limitCase[c]{name: "archived", when: func(c *c) { c.Status = new(StatusArchived) }, field: "status", limit: "one of active, paused"},
		limitCase[c]{name: "schema that is a list", when: func(c *c) { c.SchemaDefinition = json.RawMessage("[]") }, field: "schemaDefinition", limit: "a JSON object"},
	)
	for field, set := range map[string]func(*c, []string){
		"allowedProducers": func(c *c, l []string) { c.AllowedProducers = &l },
		"allowedConsumers": func(c *c, l []string) { c.AllowedConsumers = &l },
	} {
		many := strings.Split(strings.Repeat("a,", 101), ",")[:101]
		cases = append(cases,
			limitCase[c]{name: field + " most", when: func(c *c) { set(c, many[:100]) }},
			limitCase[c]{name: field + " too many", when: func(c *c) { set(c, many) }, field: field, limit: "at most 100"},
			limitCase[c]{name: field + " empty", when: func(c *c) { set(c, []string{"a", ""}) }, field: field + "[1]", limit: "1 character or more"},
			limitCase[c]{name: field + " too long", when: func(c *c) { set(c, []string{strings.Repeat("é", 201)}) }, field: field + "[0]", limit: "at most 200 characters"},
		)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := c{Queue: "orders"}
			tc.when(&cmd)
			_, err := decideUpdateQueue(shopOrders(), cmd)
			requireLimit(t, err, tc.field, tc.limit)
		})
	}
}

// notEmpty leaves out the case of an empty text: in a change that is a value.
func notEmpty[C any](cases []limitCase[C]) []limitCase[C] {
	out := cases[:0]
	for _, c := range cases {
		if !strings.HasSuffix(c.name, " ") || c.field != "" {
			out = append(out, c)
		}
	}
	return out
}

func TestUpdateSubscriptionChangesWhatItNames(t *testing.T) {
	t.Parallel()
	type config = events.SubscriptionConfig
	null, object := json.RawMessage("null"), json.RawMessage(`{"x": 1}`)
	for name, tc := range map[string]struct {
		cmd  UpdateSubscription
		want func(*config)
	}{
		"nothing": {UpdateSubscription{}, func(*config) {}},
		"the same": {UpdateSubscription{
			Queue: new("orders"), ConsumerGroup: new("billing"), ConsumerName: new("billing-1"), SubscriptionType: new(TypeConsumer), OffsetResetPolicy: new("earliest"),
		}, func(*config) {}},
		"maxPollRecords":      {UpdateSubscription{MaxPollRecords: new(7)}, func(e *config) { e.MaxPollRecords = 7 }},
		"sessionTimeoutMs":    {UpdateSubscription{SessionTimeoutMs: new(5000)}, func(e *config) { e.SessionTimeoutMs = 5000 }},
		"heartbeatIntervalMs": {UpdateSubscription{HeartbeatIntervalMs: new(100)}, func(e *config) { e.HeartbeatIntervalMs = 100 }},
		"handlerConfig":       {UpdateSubscription{HandlerConfig: object}, func(e *config) { e.HandlerConfig = object }},
		"no handlerConfig":    {UpdateSubscription{HandlerConfig: null}, func(e *config) { e.HandlerConfig = json.RawMessage("{}") }},
		"messageFilter":       {UpdateSubscription{MessageFilter: object}, func(e *config) { e.MessageFilter = object }},
		"no messageFilter":    {UpdateSubscription{MessageFilter: null}, func(e *config) { e.MessageFilter = nil }},
		"deadLetterQueue":     {UpdateSubscription{DeadLetterQueue: new("d")}, func(e *config) { e.DeadLetterQueue = "d" }},
		"no deadLetterQueue":  {UpdateSubscription{DeadLetterQueue: new("")}, func(e *config) { e.DeadLetterQueue = "" }},
		"maxRetryAttempts":    {UpdateSubscription{MaxRetryAttempts: new(0)}, func(e *config) { e.MaxRetryAttempts = 0 }},
		"retryDelayMs":        {UpdateSubscription{RetryDelayMs: new(0)}, func(e *config) { e.RetryDelayMs = 0 }},
		"status":              {UpdateSubscription{Status: new(StatusPaused)}, func(e *config) { e.Status = StatusPaused }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := whole().Config
			tc.want(&want)
			got, err := decideUpdateSubscription(whole(), tc.cmd)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestUpdateSubscriptionLimits(t *testing.T) {
	t.Parallel()
	type c = UpdateSubscription
	cases := between("maxPollRecords", 1, 1000, func(c *c, n int64) { c.MaxPollRecords = new(int(n)) })
	cases = append(cases, between("heartbeatIntervalMs", 100, 29_999, func(c *c, n int64) { c.HeartbeatIntervalMs = new(int(n)) })...)
	cases = append(cases, between("maxRetryAttempts", 0, 1000, func(c *c, n int64) { c.MaxRetryAttempts = new(int(n)) })...)
	cases = append(cases, between("retryDelayMs", 0, 86_400_000, func(c *c, n int64) { c.RetryDelayMs = new(int(n)) })...)
	cases = append(cases, between("sessionTimeoutMs", 1000, 43_200_000, func(c *c, n int64) {
		c.SessionTimeoutMs, c.HeartbeatIntervalMs = new(int(n)), new(100)
	})...)
	cases = append(cases, notEmpty(oneOf("status", func(c *c, s string) { c.Status = &s }, "active", "paused"))...)
	large := func(bytes int) json.RawMessage {
		return json.RawMessage(`{"a":"` + strings.Repeat("x", bytes-8) + `"}`)
	}
	cases = append(cases,
		limitCase[c]{name: "a heartbeat that the new session is too short for", when: func(c *c) { c.SessionTimeoutMs, c.HeartbeatIntervalMs = new(2000), new(2000) }, field: "heartbeatIntervalMs", limit: "100 to 1999"},
		limitCase[c]{name: "stopped", when: func(c *c) { c.Status = new(StatusStopped) }, field: "status", limit: "one of active, paused"},
		limitCase[c]{name: "handlerConfig largest", when: func(c *c) { c.HandlerConfig = large(16 << 10) }},
		limitCase[c]{name: "handlerConfig too large", when: func(c *c) { c.HandlerConfig = large(16<<10 + 1) }, field: "handlerConfig", limit: "at most 16384 bytes"},
		limitCase[c]{name: "handlerConfig list", when: func(c *c) { c.HandlerConfig = json.RawMessage("[]") }, field: "handlerConfig", limit: "a JSON object"},
		limitCase[c]{name: "messageFilter largest", when: func(c *c) { c.MessageFilter = large(4 << 10) }},
		limitCase[c]{name: "messageFilter too large", when: func(c *c) { c.MessageFilter = large(4<<10 + 1) }, field: "messageFilter", limit: "at most 4096 bytes"},
		limitCase[c]{name: "messageFilter list", when: func(c *c) { c.MessageFilter = json.RawMessage("1") }, field: "messageFilter", limit: "a JSON object"},
		limitCase[c]{name: "deadLetterQueue", when: func(c *c) { c.DeadLetterQueue = new("D") }, field: "deadLetterQueue", limit: QueueNameLimit},
	)
	for field, fixed := range map[string]struct {
		is  string
		set func(*c, *string)
	}{
		"queue":             {"orders", func(c *c, s *string) { c.Queue = s }},
		"consumerGroup":     {"billing", func(c *c, s *string) { c.ConsumerGroup = s }},
		"consumerName":      {"billing-1", func(c *c, s *string) { c.ConsumerName = s }},
		"subscriptionType":  {TypeConsumer, func(c *c, s *string) { c.SubscriptionType = s }},
		"offsetResetPolicy": {"earliest", func(c *c, s *string) { c.OffsetResetPolicy = s }},
	} {
		for _, other := range []string{"", "other", "latest", TypeWebhook} {
			cases = append(cases, limitCase[c]{
				name: fmt.Sprintf("%s %q", field, other), when: func(c *c) { fixed.set(c, &other) },
				field: field, limit: fmt.Sprintf("%q: it cannot be changed", fixed.is),
			})
		}
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := c{SubscriptionID: subscriptionID}
			tc.when(&cmd)
			_, err := decideUpdateSubscription(whole(), cmd)
			requireLimit(t, err, tc.field, tc.limit)
		})
	}
}

// As where it is created: a heartbeat that nobody asked for gives way to the session.
func TestAShorterSessionShortensTheHeartbeat(t *testing.T) {
	t.Parallel()
	e, err := decideUpdateSubscription(whole(), UpdateSubscription{SubscriptionID: subscriptionID, SessionTimeoutMs: new(2000)})
	require.NoError(t, err)
	require.Equal(t, 1999, e.HeartbeatIntervalMs)
}

func TestAWebhookKeepsItsURL(t *testing.T) {
	t.Parallel()
	s := whole()
	s.Config.SubscriptionType, s.Config.HandlerConfig = TypeWebhook, json.RawMessage(`{"url":"https://example.com/hook"}`)
	for config, ok := range map[string]bool{`{"url":"http://other.example"}`: true, `{}`: false, `null`: false, `{"url":"file:///etc"}`: false} {
		_, err := decideUpdateSubscription(s, UpdateSubscription{HandlerConfig: json.RawMessage(config)})
		require.Equal(t, ok, err == nil, config)
	}
}

// What the log keeps of a configuration has no whitespace, what callers send may.
func TestTheSameConfigurationIsTheSameHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	a, b := shopOrders().Config, shopOrders().Config
	a.SchemaDefinition, b.SchemaDefinition = json.RawMessage(`{"a":"<","b":[1,2]}`), json.RawMessage("{ \"a\": \"<\",\n\"b\": [1, 2] }")
	require.True(t, isSame(a, b))
	b.SchemaDefinition = json.RawMessage(`{"a":"<","b":[1,3]}`)
	require.False(t, isSame(a, b))
	b.SchemaDefinition = nil
	require.False(t, isSame(a, b))
}

func TestAVersionIsAnyOrTheOneThatIsThere(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkVersion(nil, 3))
	require.NoError(t, checkVersion(new(int64(3)), 3))
	for _, wrong := range []int64{0, 2, 4} {
		r := requireRefusal(t, checkVersion(&wrong, 3), CodeVersionMismatch)
		require.Equal(t, []Problem{{Field: "If-Match", Limit: `"3"`, Text: fmt.Sprintf(`is "%d"`, wrong)}}, r.Problems)
	}
}

func TestAnotherTenantsGroupsAreItsOwn(t *testing.T) {
	t.Parallel()
	s := whole()
	require.Equal(t, []string{"billing", "orders"}, []string{s.group(), s.QueueName()})
	s.QueueTenantID = "00000000-0000-0000-0000-000000000002"
	require.Equal(t, []string{tenantID + ":billing", s.QueueTenantID + ":orders"}, []string{s.group(), s.QueueName()})
}
