package commands

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testConfig() Config {
	return Config{Shards: 2, PayloadBytesMax: 100, MessageTTL: 7 * 24 * time.Hour}
}

// orders is a topic that takes messages.
func orders(partitions int) Topic {
	return Topic{TenantID: tenantID, Version: 1, Config: events.TopicConfig{TopicID: topicID, Name: "orders", PartitionCount: partitions, Status: StatusActive}}
}

func TestPublishFillsInDefaults(t *testing.T) {
	t.Parallel()
	e, err := decidePublish(orders(1), Publish{ID: messageID, Queue: "orders", Payload: json.RawMessage(" 1")}, testNow, testConfig(), 0)
	require.NoError(t, err)
	require.Equal(t, events.MessagePublished{
		MessageID: messageID, TopicID: topicID, ContentType: "application/json", TTLMs: 604_800_000, Payload: json.RawMessage(" 1"),
	}, e)
}

func TestPublishKeepsWhatIsGiven(t *testing.T) {
	t.Parallel()
	e, err := decidePublish(orders(8), Publish{
		ID: messageID, Queue: "orders", Payload: json.RawMessage(`{}`), Key: "k", Headers: map[string]string{"h": "v"},
		CorrelationID: "c", ContentType: "text/plain", Partition: new(5), TTLMs: new(int64(10)),
	}, testNow, testConfig(), 3)
	require.NoError(t, err)
	require.Equal(t, events.MessagePublished{
		MessageID: messageID, TopicID: topicID, Partition: 5, Key: "k", Headers: map[string]string{"h": "v"},
		CorrelationID: "c", ContentType: "text/plain", TTLMs: 10, Payload: json.RawMessage(`{}`),
	}, e)
}

func TestPublishLimits(t *testing.T) {
	t.Parallel()
	type c = Publish
	headers := func(n int) map[string]string {
		out := map[string]string{}
		for i := range n {
			out[fmt.Sprintf("h%02d", i)] = ""
		}
		return out
	}
	sized := func(bytes int) map[string]string { return map[string]string{"h": strings.Repeat("x", bytes-1)} }
	reserved := "names not starting with tallymq- or _watermill"
	cases := []limitCase[c]{
		{name: "payload missing", when: func(c *c) { c.Payload = nil }, field: "payload", limit: "any JSON value"},
		{name: "payload largest", when: func(c *c) { c.Payload = json.RawMessage(strings.Repeat("1", 100)) }},
		{name: "headers most", when: func(c *c) { c.Headers = headers(64) }},
		{name: "headers too many", when: func(c *c) { c.Headers = headers(65) }, field: "headers", limit: "at most 64"},
		{name: "headers largest", when: func(c *c) { c.Headers = sized(16 << 10) }},
		{name: "headers too large", when: func(c *c) { c.Headers = sized(16<<10 + 1) }, field: "headers", limit: "at most 16384 bytes"},
		{name: "header no name", when: func(c *c) { c.Headers = map[string]string{"": "x"} }, field: "headers.", limit: "a name of 1 character or more"},
		{name: "header reserved", when: func(c *c) { c.Headers = map[string]string{"tallymq-key": "x"} }, field: "headers.tallymq-key", limit: reserved},
		{name: "header watermill's", when: func(c *c) { c.Headers = map[string]string{"_watermill_message_uuid": "x"} }, field: "headers._watermill_message_uuid", limit: reserved},
		{name: "header like ours", when: func(c *c) { c.Headers = map[string]string{"tallymq": "x", "Tallymq-key": "x"} }},
		{name: "expiresAt now", when: func(c *c) { c.ExpiresAt = new(testNow) }, field: "expiresAt", limit: "in the future, within 365 days"},
		{name: "expiresAt soonest", when: func(c *c) { c.ExpiresAt = new(testNow.Add(time.Millisecond)) }},
		{name: "expiresAt last", when: func(c *c) { c.ExpiresAt = new(testNow.Add(365 * 24 * time.Hour)) }},
		{name: "expiresAt later", when: func(c *c) { c.ExpiresAt = new(testNow.Add(365*24*time.Hour + time.Millisecond)) }, field: "expiresAt", limit: "in the future, within 365 days"},
		{name: "expiresAt year 9999", when: func(c *c) { c.ExpiresAt = new(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)) }, field: "expiresAt", limit: "in the future, within 365 days"},
		{name: "expiresAt year 1", when: func(c *c) { c.ExpiresAt = new(time.Time{}) }, field: "expiresAt", limit: "in the future, within 365 days"},
		{name: "ttlMs and expiresAt", when: func(c *c) { c.TTLMs, c.ExpiresAt = new(int64(1)), new(testNow.Add(time.Hour)) }, field: "expiresAt", limit: "ttlMs or expiresAt, not both"},
	}
	cases = append(cases, texts("key", 500, func(c *c, s string) { c.Key = s })...)
	cases = append(cases, texts("correlationId", 200, func(c *c, s string) { c.CorrelationID = s })...)
	cases = append(cases, texts("contentType", 100, func(c *c, s string) { c.ContentType = s })...)
	cases = append(cases, between("partition", 0, 2, func(c *c, n int64) { c.Partition = new(int(n)) })...)
	cases = append(cases, between("ttlMs", 1, 31_536_000_000, func(c *c, n int64) { c.TTLMs = new(n) })...)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := c{ID: messageID, Queue: "orders", Payload: json.RawMessage("1")}
			tc.when(&cmd)
			_, err := decidePublish(orders(3), cmd, testNow, testConfig(), 0)
			requireLimit(t, err, tc.field, tc.limit)
		})
	}
}

func TestPublishRefusesALargePayload(t *testing.T) {
	t.Parallel()
	_, err := decidePublish(orders(1), Publish{Queue: "orders", Payload: json.RawMessage(strings.Repeat("1", 101))}, testNow, testConfig(), 0)
	r := requireRefusal(t, err, CodePayloadTooLarge)
	require.Equal(t, []Problem{{Field: "payload", Limit: "at most 100 bytes", Text: "has 101 bytes"}}, r.Problems)
}

func TestPublishRefusesAQueueThatTakesNothing(t *testing.T) {
	t.Parallel()
	topic := orders(1)
	topic.Config.Status = StatusPaused
	_, err := decidePublish(topic, Publish{Queue: "orders", Payload: json.RawMessage("1")}, testNow, testConfig(), 0)
	require.Contains(t, requireRefusal(t, err, CodePublishFailed).Reason, "paused")
}

func TestMessageLifetime(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cmd     Publish
		config  time.Duration
		expects int64
	}{
		"the service's":     {Publish{}, time.Hour, 3_600_000},
		"for ever":          {Publish{}, 0, 0},
		"its own":           {Publish{TTLMs: new(int64(5))}, time.Hour, 5},
		"a moment":          {Publish{ExpiresAt: new(testNow.Add(90 * time.Second))}, time.Hour, 90_000},
		"in another zone":   {Publish{ExpiresAt: new(testNow.Add(time.Minute).In(time.FixedZone("", 3600)))}, time.Hour, 60_000},
		"cut to whole ms":   {Publish{ExpiresAt: new(testNow.Add(1999 * time.Microsecond))}, time.Hour, 1},
		"longer than usual": {Publish{TTLMs: new(int64(7_200_000))}, time.Hour, 7_200_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig()
			cfg.MessageTTL = tc.config
			tc.cmd.Payload = json.RawMessage("1")
			e, err := decidePublish(orders(1), tc.cmd, testNow, cfg, 0)
			require.NoError(t, err)
			require.Equal(t, tc.expects, e.TTLMs)
		})
	}
}

func TestPartitions(t *testing.T) {
	t.Parallel()
	decide := func(c Publish, partitions int, turn uint32) int {
		c.Payload = json.RawMessage("1")
		e, err := decidePublish(orders(partitions), c, testNow, testConfig(), turn)
		require.NoError(t, err)
		return e.Partition
	}
	// the one asked for goes before the key's, the key's before the turn's
	require.Equal(t, 2, decide(Publish{Partition: new(2), Key: "a"}, 3, 1))
	require.Equal(t, 0, decide(Publish{Partition: new(0), Key: "a"}, 3, 1))
	require.Equal(t, 1, decide(Publish{Key: "a"}, 3, 2))
	for turn, want := range map[uint32]int{0: 0, 1: 1, 2: 2, 3: 0, 1<<32 - 1: 0} {
		require.Equal(t, want, decide(Publish{}, 3, turn), turn)
	}
	require.Equal(t, 0, decide(Publish{Key: "a"}, 1, 9))
}

// The order of a key's messages depends on these: they are permanent.
func TestKeysStayInTheirPartition(t *testing.T) {
	t.Parallel()
	for key, want := range map[string][3]int{
		"":             {2, 5, 37},
		"a":            {1, 12, 12},
		"customer-7":   {0, 1, 49},
		"octocat/repo": {1, 3, 19},
		"ключ":         {0, 1, 1},
	} {
		require.Equal(t, want, [3]int{partitionOf(key, 3), partitionOf(key, 16), partitionOf(key, 64)}, key)
	}
}

func TestTurnsGoRoundQueueByQueue(t *testing.T) {
	t.Parallel()
	var r rounds
	require.Equal(t, []uint32{0, 1, 2}, []uint32{r.turn("a"), r.turn("a"), r.turn("a")})
	require.Equal(t, uint32(0), r.turn("b"))
	require.Equal(t, uint32(3), r.turn("a"))
}

func TestCheckBatch(t *testing.T) {
	t.Parallel()
	batch := func(n int) []Publish { return make([]Publish, n) }
	two := []Publish{{Queue: "a"}, {Queue: "b"}}
	for name, tc := range map[string]struct {
		batch        []Publish
		atomic       bool
		field, limit string
	}{
		"none":           {nil, false, "messages", "1 to 1000 messages"},
		"one":            {batch(1), true, "", ""},
		"most":           {batch(1000), true, "", ""},
		"too many":       {batch(1001), false, "messages", "1 to 1000 messages"},
		"queues":         {two, false, "", ""},
		"atomic, queues": {two, true, "messages[1].queue", "the first message's queue, for atomic batches"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireLimit(t, checkBatch(tc.batch, tc.atomic), tc.field, tc.limit)
		})
	}
}

func TestFingerprintsTellRequestsApart(t *testing.T) {
	t.Parallel()
	d, caller := &Dispatcher{cfg: Config{TokenKey: []byte("a")}}, Caller{IdempotencyKey: "k"}
	base := Publish{ID: "1", Queue: "q", Payload: json.RawMessage(`{"a":1}`), Headers: map[string]string{"a": "1", "b": "2"}}
	of := func(change func(*Publish)) string {
		c := base
		change(&c)
		return d.fingerprint(caller, c)
	}
	same := of(func(*Publish) {})
	// the same request: ids we mint, white space and the order of headers are no part of it
	require.Equal(t, same, of(func(c *Publish) { c.ID = "2" }))
	require.Equal(t, same, of(func(c *Publish) { c.Payload = json.RawMessage(`{ "a" : 1 }`) }))
	require.Equal(t, same, of(func(c *Publish) { c.Headers = map[string]string{"b": "2", "a": "1"} }))
	// another one
	seen := map[string]bool{same: true}
	for i, change := range []func(*Publish){
		func(c *Publish) { c.Queue = "r" },
		func(c *Publish) { c.Payload = json.RawMessage(`{"a":2}`) },
		func(c *Publish) { c.Key = "k" },
		func(c *Publish) { c.Headers = map[string]string{"a": "1"} },
		func(c *Publish) { c.CorrelationID = "k" },
		func(c *Publish) { c.ContentType = "k" },
		func(c *Publish) { c.Partition = new(0) },
		func(c *Publish) { c.TTLMs = new(int64(1)) },
		func(c *Publish) { c.ExpiresAt = new(testNow) },
	} {
		f := of(change)
		require.False(t, seen[f], i)
		seen[f] = true
	}
	// other commands' ids are no part of theirs either
	require.Equal(t, d.fingerprint(caller, CreateQueue{ID: "1"}), d.fingerprint(caller, CreateQueue{ID: "2"}))
	require.NotEqual(t, d.fingerprint(caller, CreateQueue{Name: "a"}), d.fingerprint(caller, CreateQueue{Name: "b"}))
	require.Equal(t, d.fingerprint(caller, CreateSubscription{ID: "1"}), d.fingerprint(caller, CreateSubscription{ID: "2"}))
	// and it cannot be computed without the service's key
	require.NotEqual(t, same, (&Dispatcher{cfg: Config{TokenKey: []byte("b")}}).fingerprint(caller, base))
	// without a key there is nothing to tell apart
	require.Empty(t, d.fingerprint(Caller{}, base))
}
