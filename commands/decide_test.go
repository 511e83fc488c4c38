package commands

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

const (
	tenantID       = "00000000-0000-0000-0000-000000000001"
	topicID        = "01890a5d-ac96-774b-bcce-b302099a8057"
	subscriptionID = "01890a5d-ac97-7d6b-8f2a-0c6d5f1e2a3b"
	messageID      = "01890a5d-ac98-7e1f-9c4d-1b2a3c4d5e6f"
)

// limitCase is a command with one field at, below or above a limit.
type limitCase[C any] struct {
	name string
	when func(*C)
	// field and limit are the problem's; no field is no problem.
	field, limit string
}

// between makes the cases of a number with limits at both ends.
func between[C any](field string, least, most int64, set func(*C, int64)) []limitCase[C] {
	limit := fmt.Sprintf("%d to %d", least, most)
	at := func(name string, n int64, refused bool) limitCase[C] {
		c := limitCase[C]{name: field + " " + name, when: func(c *C) { set(c, n) }}
		if refused {
			c.field, c.limit = field, limit
		}
		return c
	}
	return []limitCase[C]{at("below", least-1, true), at("least", least, false), at("most", most, false), at("above", most+1, true)}
}

// texts makes the cases of a text that is at most some characters long.
func texts[C any](field string, most int, set func(*C, string)) []limitCase[C] {
	return []limitCase[C]{
		{name: field + " empty", when: func(c *C) { set(c, "") }},
		{name: field + " longest, in characters", when: func(c *C) { set(c, strings.Repeat("é", most)) }},
		{name: field + " too long", when: func(c *C) { set(c, strings.Repeat("é", most+1)) }, field: field, limit: fmt.Sprintf("at most %d characters", most)},
	}
}

// oneOf makes the cases of a text out of a list.
func oneOf[C any](field string, set func(*C, string), allowed ...string) []limitCase[C] {
	cases := make([]limitCase[C], 0, len(allowed)+2)
	for _, a := range append(allowed, "") {
		cases = append(cases, limitCase[C]{name: field + " " + a, when: func(c *C) { set(c, a) }})
	}
	for _, bad := range []string{"other", strings.ToUpper(allowed[0]), allowed[0] + " "} {
		cases = append(cases, limitCase[C]{name: field + " " + bad, when: func(c *C) { set(c, bad) }, field: field, limit: "one of " + strings.Join(allowed, ", ")})
	}
	return cases
}

// requireLimit says that err is the one problem a case expects, or nothing.
func requireLimit(t *testing.T, err error, field, limit string) {
	t.Helper()
	if field == "" {
		require.NoError(t, err)
		return
	}
	r := requireRefusal(t, err, CodeValidationFailed)
	require.Len(t, r.Problems, 1, r)
	require.Equal(t, field, r.Problems[0].Field)
	require.Equal(t, limit, r.Problems[0].Limit)
	require.NotEmpty(t, r.Problems[0].Text)
	require.Contains(t, r.Reason, field)
	require.Contains(t, r.Reason, limit)
}

func requireRefusal(t *testing.T, err error, code Code) *Refusal {
	t.Helper()
	var r *Refusal
	require.ErrorAs(t, err, &r)
	require.Equal(t, code, r.Code, r)
	return r
}

func TestCreateQueueTakesDefaults(t *testing.T) {
	t.Parallel()
	// when only a name is given
	e, err := decideCreateQueue(CreateQueue{ID: topicID, Name: "orders"})
	// then all else is as the contract says
	require.NoError(t, err)
	require.Equal(t, events.TopicConfig{
		TopicID: topicID, Name: "orders", TopicType: "redis_stream", PartitionCount: 1, ReplicationFactor: 1, RetentionMs: 604_800_000,
		MessageFormat: "json", CompressionType: "none", AllowedProducers: []string{}, AllowedConsumers: []string{}, Status: "active",
	}, e)
}

func TestCreateQueueKeepsWhatIsGiven(t *testing.T) {
	t.Parallel()
	e, err := decideCreateQueue(CreateQueue{
		ID: topicID, Name: "orders", DisplayName: "d", Description: "x", TopicType: "redis_stream", PartitionCount: new(7),
		ReplicationFactor: new(1), RetentionMs: new(int64(60_000)), MessageFormat: "json", SchemaDefinition: json.RawMessage(`{"a":1}`),
		CompressionType: "none", IsPublic: true, AllowedProducers: []string{"p"}, AllowedConsumers: []string{"c"}, Status: "paused",
	})
	require.NoError(t, err)
	require.Equal(t, events.TopicConfig{
		TopicID: topicID, Name: "orders", DisplayName: "d", Description: "x", TopicType: "redis_stream", PartitionCount: 7,
		ReplicationFactor: 1, RetentionMs: 60_000, MessageFormat: "json", SchemaDefinition: json.RawMessage(`{"a":1}`),
		CompressionType: "none", IsPublic: true, AllowedProducers: []string{"p"}, AllowedConsumers: []string{"c"}, Status: "paused",
	}, e)
}

func TestCreateQueueLimits(t *testing.T) {
	t.Parallel()
	type c = CreateQueue
	var cases []limitCase[c]
	for _, good := range []string{"a", "0", "a.b_c-d", strings.Repeat("a", 200)} {
		cases = append(cases, limitCase[c]{name: "name " + brief(good), when: func(c *c) { c.Name = good }})
	}
	for _, bad := range []string{"", "A", "-a", ".a", "_a", "a b", "a/b", "a|b", "a\n", "\na", "é", "a\x00", "\xff", strings.Repeat("a", 201)} {
		cases = append(cases, limitCase[c]{name: fmt.Sprintf("name %.20q", bad), when: func(c *c) { c.Name = bad }, field: "name", limit: QueueNameLimit})
	}
	cases = append(cases, texts("displayName", 200, func(c *c, s string) { c.DisplayName = s })...)
	cases = append(cases, texts("description", 4000, func(c *c, s string) { c.Description = s })...)
	cases = append(cases, oneOf("topicType", func(c *c, s string) { c.TopicType = s }, "redis_stream")...)
	cases = append(cases, between("partitionCount", 1, 64, func(c *c, n int64) { c.PartitionCount = new(int(n)) })...)
	cases = append(cases, between("replicationFactor", 1, 1, func(c *c, n int64) { c.ReplicationFactor = new(int(n)) })...)
	cases = append(cases, between("retentionMs", 60_000, 315_360_000_000, func(c *c, n int64) { c.RetentionMs = new(n) })...)
	cases = append(cases, oneOf("messageFormat", func(c *c, s string) { c.MessageFormat = s }, "json")...)
	cases = append(cases, oneOf("compressionType", func(c *c, s string) { c.CompressionType = s }, "none")...)
	cases = append(cases, oneOf("status", func(c *c, s string) { c.Status = s }, "active", "paused")...)
	for text, field := range map[string]string{"": "", "{}": "", "{ }\n": "", "[]": "schemaDefinition", `"{}"`: "schemaDefinition", "null": "schemaDefinition", "1": "schemaDefinition"} {
		cases = append(cases, limitCase[c]{name: "schemaDefinition " + text, when: func(c *c) { c.SchemaDefinition = json.RawMessage(text) }, field: field, limit: "a JSON object"})
	}
	for field, set := range map[string]func(*c, []string){
		"allowedProducers": func(c *c, names []string) { c.AllowedProducers = names },
		"allowedConsumers": func(c *c, names []string) { c.AllowedConsumers = names },
	} {
		many := func(n int) []string { return strings.Split(strings.Repeat("a,", n-1)+"a", ",") }
		cases = append(cases,
			limitCase[c]{name: field + " most", when: func(c *c) { set(c, many(100)) }},
			limitCase[c]{name: field + " too many", when: func(c *c) { set(c, many(101)) }, field: field, limit: "at most 100"},
			limitCase[c]{name: field + " longest", when: func(c *c) { set(c, []string{strings.Repeat("é", 200)}) }},
			limitCase[c]{name: field + " too long", when: func(c *c) { set(c, []string{"a", strings.Repeat("é", 201)}) }, field: field + "[1]", limit: "at most 200 characters"},
			limitCase[c]{name: field + " empty", when: func(c *c) { set(c, []string{"a", "", "b"}) }, field: field + "[1]", limit: "1 character or more"},
		)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := c{ID: topicID, Name: "orders"}
			tc.when(&cmd)
			_, err := decideCreateQueue(cmd)
			requireLimit(t, err, tc.field, tc.limit)
		})
	}
}

func TestCreateQueueNamesEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := decideCreateQueue(CreateQueue{Name: "A", PartitionCount: new(0), Status: "gone"})
	r := requireRefusal(t, err, CodeValidationFailed)
	fields := make([]string, len(r.Problems))
	for i, p := range r.Problems {
		fields[i] = p.Field
	}
	require.Equal(t, []string{"name", "partitionCount", "status"}, fields)
}

func TestCreateSubscriptionTakesDefaults(t *testing.T) {
	t.Parallel()
	e, err := decideCreateSubscription(CreateSubscription{ID: subscriptionID, ConsumerGroup: "billing"}, topicID, 30_000)
	require.NoError(t, err)
	require.Equal(t, events.SubscriptionConfig{
		SubscriptionID: subscriptionID, TopicID: topicID, ConsumerGroup: "billing", ConsumerName: "billing", SubscriptionType: "redis_consumer",
		OffsetResetPolicy: "latest", MaxPollRecords: 500, SessionTimeoutMs: 30_000, HeartbeatIntervalMs: 3000, HandlerConfig: json.RawMessage("{}"),
		MaxRetryAttempts: 3, RetryDelayMs: 1000, Status: "active",
	}, e)
	// the default heartbeat gives way to a short session; one that was asked for is refused
	for timeoutMs, heartbeatMs := range map[int]int{1000: 999, 3000: 2999, 3001: 3000} {
		e, err := decideCreateSubscription(CreateSubscription{ConsumerGroup: "g", SessionTimeoutMs: new(timeoutMs)}, topicID, 30_000)
		require.NoError(t, err)
		require.Equal(t, heartbeatMs, e.HeartbeatIntervalMs)
	}
}

func TestCreateSubscriptionLimits(t *testing.T) {
	t.Parallel()
	type c = CreateSubscription
	var cases []limitCase[c]
	for field, set := range map[string]func(*c, string){
		"consumerGroup": func(c *c, s string) { c.ConsumerGroup = s },
		"consumerName":  func(c *c, s string) { c.ConsumerName = s },
	} {
		for _, good := range []string{"a", "Z", "0", "a.B_c-d", strings.Repeat("a", 200)} {
			cases = append(cases, limitCase[c]{name: field + " " + brief(good), when: func(c *c) { set(c, good) }})
		}
		// | and space part the fields of keys and wake-ups, / the names of a group
		for _, bad := range []string{"-a", "a|b", "a b", "a/b", "a:b", "a\n", "é", "{0}", "a\x00", strings.Repeat("a", 201)} {
			cases = append(cases, limitCase[c]{name: fmt.Sprintf("%s %.20q", field, bad), when: func(c *c) { set(c, bad) }, field: field, limit: groupNameLimit})
		}
	}
	cases = append(cases, oneOf("subscriptionType", func(c *c, s string) {
		c.SubscriptionType, c.HandlerConfig = s, json.RawMessage(`{"url":"https://example.com/hook"}`)
	}, "redis_consumer", "webhook")...)
	cases = append(cases, oneOf("offsetResetPolicy", func(c *c, s string) { c.OffsetResetPolicy = s }, "earliest", "latest")...)
	cases = append(cases, oneOf("status", func(c *c, s string) { c.Status = s }, "active", "paused")...)
	cases = append(cases, between("maxPollRecords", 1, 1000, func(c *c, n int64) { c.MaxPollRecords = new(int(n)) })...)
	cases = append(cases, between("sessionTimeoutMs", 1000, 43_200_000, func(c *c, n int64) { c.SessionTimeoutMs = new(int(n)) })...)
	cases = append(cases, between("heartbeatIntervalMs", 100, 29_999, func(c *c, n int64) { c.HeartbeatIntervalMs = new(int(n)) })...)
	cases = append(cases, between("maxRetryAttempts", 0, 1000, func(c *c, n int64) { c.MaxRetryAttempts = new(int(n)) })...)
	cases = append(cases, between("retryDelayMs", 0, 86_400_000, func(c *c, n int64) { c.RetryDelayMs = new(int(n)) })...)
	object := func(bytes int) json.RawMessage {
		return json.RawMessage(`{"a":"` + strings.Repeat("x", bytes-8) + `"}`)
	}
	cases = append(cases,
		limitCase[c]{name: "handlerConfig largest", when: func(c *c) { c.HandlerConfig = object(16 << 10) }},
		limitCase[c]{name: "handlerConfig too large", when: func(c *c) { c.HandlerConfig = object(16<<10 + 1) }, field: "handlerConfig", limit: "at most 16384 bytes"},
		limitCase[c]{name: "handlerConfig no object", when: func(c *c) { c.HandlerConfig = json.RawMessage("[]") }, field: "handlerConfig", limit: "a JSON object"},
		limitCase[c]{name: "deadLetterQueue", when: func(c *c) { c.DeadLetterQueue = "d" }},
		limitCase[c]{name: "deadLetterQueue bad name", when: func(c *c) { c.DeadLetterQueue = "D" }, field: "deadLetterQueue", limit: QueueNameLimit},
		limitCase[c]{name: "messageFilter largest", when: func(c *c) { c.MessageFilter = object(4 << 10) }},
		limitCase[c]{name: "messageFilter too large", when: func(c *c) { c.MessageFilter = object(4<<10 + 1) }, field: "messageFilter", limit: "at most 4096 bytes"},
		limitCase[c]{name: "messageFilter no object", when: func(c *c) { c.MessageFilter = json.RawMessage(`"a"`) }, field: "messageFilter", limit: "a JSON object"},
	)
	for _, bad := range []string{``, `ftp://example.com`, `https://`, `https://u:p@example.com`, `/hook`, `https://example.com/` + strings.Repeat("a", WebhookURLMax)} {
		cases = append(cases, limitCase[c]{name: "webhook " + brief(bad), when: func(c *c) {
			c.SubscriptionType, c.HandlerConfig = TypeWebhook, json.RawMessage(`{"url":"`+bad+`"}`)
		}, field: "handlerConfig.url", limit: "an http or https URL of at most 2000 characters, without user and password"})
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := c{ID: subscriptionID, ConsumerGroup: "billing"}
			tc.when(&cmd)
			_, err := decideCreateSubscription(cmd, topicID, 30_000)
			requireLimit(t, err, tc.field, tc.limit)
		})
	}
}

func TestCreateSubscriptionNeedsAGroup(t *testing.T) {
	t.Parallel()
	_, err := decideCreateSubscription(CreateSubscription{ID: subscriptionID, ConsumerName: "c"}, topicID, 30_000)
	requireLimit(t, err, "consumerGroup", groupNameLimit)
}

func TestAggregatesFoldAndDecode(t *testing.T) {
	t.Parallel()
	topic := Topic{TenantID: tenantID, Version: 2, Config: events.TopicConfig{TopicID: topicID, Name: "orders", AllowedProducers: []string{"p"}}}
	state, err := json.Marshal(topic)
	require.NoError(t, err)
	got, err := DecodeTopic(state)
	require.NoError(t, err)
	require.Equal(t, topic, got)
	s := Subscription{
		TenantID: tenantID, Version: 3, Queue: "orders", QueueTenantID: tenantID,
		Config: events.SubscriptionConfig{SubscriptionID: subscriptionID, ConsumerGroup: "g", HandlerConfig: json.RawMessage("{}")},
	}
	state, err = json.Marshal(s)
	require.NoError(t, err)
	got, err = DecodeSubscription(state)
	require.NoError(t, err)
	require.Equal(t, s, got)
	_, err = DecodeTopic([]byte("{"))
	require.Error(t, err)
	_, err = DecodeSubscription([]byte("{"))
	require.Error(t, err)
}

func TestWhoMayProduceAndConsume(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		allowed []string
		caller  Caller
		may     bool
	}{
		"nobody is named":         {nil, Caller{Subject: "a"}, true},
		"named":                   {[]string{"b", "a"}, Caller{Subject: "a"}, true},
		"not named":               {[]string{"b"}, Caller{Subject: "a"}, false},
		"part of a name":          {[]string{"ab"}, Caller{Subject: "a"}, false},
		"other case":              {[]string{"A"}, Caller{Subject: "a"}, false},
		"nobody":                  {[]string{"b"}, Caller{}, false},
		"another tenant":          {nil, Caller{Subject: "a", TenantID: "other"}, false},
		"another tenant's a":      {[]string{"a"}, Caller{Subject: "a", TenantID: "other"}, false},
		"the platform's own call": {[]string{"b"}, Caller{Platform: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.may, Topic{Config: events.TopicConfig{AllowedProducers: tc.allowed}}.mayProduce(tc.caller))
			require.Equal(t, tc.may, Topic{Config: events.TopicConfig{AllowedConsumers: tc.allowed}}.mayConsume(tc.caller))
		})
	}
}
