package command_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// problem is an error answer, as far as these tests look at it.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Field   string `json:"field"`
		Limit   string `json:"limit"`
		Problem string `json:"problem"`
	} `json:"details"`
	RetryAfter int    `json:"retryAfter"`
	RequestID  string `json:"requestId"`
}

const (
	invalid      = "MQ_VALIDATION_FAILED"
	tooLarge     = "MQ_PAYLOAD_TOO_LARGE"
	wrongMedia   = "MQ_UNSUPPORTED_MEDIA_TYPE"
	noQueue      = "MQ_QUEUE_NOT_FOUND"
	noSub        = "MQ_SUBSCRIPTION_NOT_FOUND"
	queueName    = "[a-z0-9][a-z0-9._-]{0,199}"
	groupName    = "[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
	keyLimit     = "1 to 255 printable ASCII characters without spaces"
	fieldsLimit  = "the fields of this request"
	onceLimit    = "each name once"
	utf8Limit    = "valid UTF-8 (RFC 8259, section 8.1)"
	nulLimit     = `text without the NUL character (\u0000)`
	depthLimit   = "at most 32 levels"
	tokenLimit   = "a token from a pull of this subscription"
	nothingAfter = "one JSON object and nothing behind it"
)

// hostileCase is a request that must be refused.
type hostileCase struct {
	name, path, body string
	header           []string
	status           int
	// code, field and limit are the answer's; no field means that none is at fault.
	code, field, limit string
}

func nested(open, shut string, levels int) string {
	return strings.Repeat(open, levels) + strings.Repeat(shut, levels)
}

// hostileToAll is what no path takes, whatever else it asks for.
func hostileToAll(path string) []hostileCase {
	return []hostileCase{
		{"unknown field", path, `{"nonsense":1}`, nil, 400, invalid, "nonsense", fieldsLimit},
		{"unknown field, other case", path, `{"Payload":1}`, nil, 400, invalid, "Payload", fieldsLimit},
		{"trailing object", path, `{} {}`, nil, 400, invalid, "body", nothingAfter},
		{"trailing NUL", path, "{}\x00", nil, 400, invalid, "body", nothingAfter},
		{"invalid UTF-8", path, "{\"nonsense\xff\":1}", nil, 400, invalid, "body", utf8Limit},
		{"UTF-16", path, "\xff\xfe{\x00}\x00", nil, 400, invalid, "body", utf8Limit},
		{"byte order mark", path, "\ufeff{}", nil, 400, invalid, "body", "JSON (RFC 8259)"},
		{"empty", path, "", nil, 400, invalid, "body", "a JSON object"},
		{"white space", path, " \r\n\t", nil, 400, invalid, "body", "a JSON object"},
		{"array", path, `[]`, nil, 400, invalid, "body", "an object"},
		{"text", path, `"{}"`, nil, 400, invalid, "body", "an object"},
		{"cut off", path, `{`, nil, 400, invalid, "body", "complete JSON"},
		{"form", path, "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, wrongMedia, "Content-Type", "application/json"},
		{"text/plain", path, "{}", []string{"Content-Type", "text/plain"}, 415, wrongMedia, "Content-Type", "application/json"},
		{"latin1", path, "{}", []string{"Content-Type", "application/json; charset=latin1"}, 415, wrongMedia, "Content-Type", "application/json"},
		{"broken content type", path, "{}", []string{"Content-Type", "application/json; ="}, 415, wrongMedia, "Content-Type", "application/json"},
		{"huge", path, `{"x":"` + strings.Repeat("x", 17<<20) + `"}`, nil, 413, tooLarge, "body", "at most "},
		{"endless depth", path, nested(`{"a":`, "}", 8000), nil, 400, invalid, "", ""},
		{"empty Idempotency-Key", path, "{}", []string{"Idempotency-Key", ""}, 400, invalid, "Idempotency-Key", keyLimit},
		{"spaces in Idempotency-Key", path, "{}", []string{"Idempotency-Key", "a b"}, 400, invalid, "Idempotency-Key", keyLimit},
		{"control in Idempotency-Key", path, "{}", []string{"Idempotency-Key", "a\x01"}, 400, invalid, "Idempotency-Key", keyLimit},
		{"non-ASCII Idempotency-Key", path, "{}", []string{"Idempotency-Key", "é"}, 400, invalid, "Idempotency-Key", keyLimit},
		{"long Idempotency-Key", path, "{}", []string{"Idempotency-Key", strings.Repeat("k", 256)}, 400, invalid, "Idempotency-Key", keyLimit},
	}
}

// hostileMessages is what neither of the paths takes that publish one message.
func hostileMessages(path, queue string) []hostileCase {
	with := func(fields string) string { return `{` + queue + `"payload":1,` + fields + `}` }
	paying := func(payload string) string { return `{` + queue + `"payload":` + payload + `}` }
	return []hostileCase{
		{"no payload", path, `{` + queue + `"key":"k"}`, nil, 400, invalid, "payload", "any JSON value"},
		{"payload too large", path, paying(`"` + strings.Repeat("x", payloadMax-1) + `"`), nil, 413, tooLarge, "payload", "at most 2000 bytes"},
		{"payload too deep", path, paying(nested("[", "]", 33)), nil, 400, invalid, "payload", depthLimit},
		{"payload far too deep", path, paying(nested("[", "]", 700)), nil, 400, invalid, "payload[0]…", depthLimit},
		{"payload deeper than a parser goes", path, paying(nested("[", "]", 10_001)), nil, 400, invalid, "payload[0]…", depthLimit},
		{"NUL", path, paying(`{"a":["\u0000"]}`), nil, 400, invalid, "payload.a[0]", nulLimit},
		{"NUL in a name", path, paying(`{"\u0000":1}`), nil, 400, invalid, "payload.\x00", nulLimit},
		{"NUL in a key", path, with(`"key":"a\u0000"`), nil, 400, invalid, "key", nulLimit},
		{"NUL in a header", path, with(`"headers":{"a":"\u0000"}`), nil, 400, invalid, "headers.a", nulLimit},
		{"invalid UTF-8 in payload", path, paying("\"\xc3\x28\""), nil, 400, invalid, "body", utf8Limit},
		{"lone surrogate", path, paying(`"\ud800"`), nil, 400, invalid, "payload", "whole Unicode characters"},
		{"duplicate key", path, with(`"key":"a","key":"a"`), nil, 400, invalid, "key", onceLimit},
		{"duplicate key in payload", path, paying(`{"a":{"b":1,"b":1}}`), nil, 400, invalid, "payload.a.b", onceLimit},
		{"duplicate key, escaped", path, with(`"k\u0065y":"a","key":"b"`), nil, 400, invalid, "key", onceLimit},
		{"duplicate header", path, with(`"headers":{"a":"1","a":"2"}`), nil, 400, invalid, "headers.a", onceLimit},
		{"number past a double", path, paying(`1e309`), nil, 400, invalid, "payload", "numbers within the range of a double (about ±1.8e308)"},
		{"endless number", path, paying(strings.Repeat("1", 1001)), nil, 400, invalid, "payload", "numbers of at most 1000 characters"},
		{"not JSON", path, paying(`nope`), nil, 400, invalid, "payload", "JSON (RFC 8259)"},
		{"comment", path, paying(`1 /* one */`), nil, 400, invalid, "body", "JSON (RFC 8259)"},
		{"key too long", path, with(`"key":"` + strings.Repeat("é", 501) + `"`), nil, 400, invalid, "key", "at most 500 characters"},
		{"key is a number", path, with(`"key":1`), nil, 400, invalid, "key", "a string"},
		{"headers is a list", path, with(`"headers":["a"]`), nil, 400, invalid, "headers", "an object"},
		{"header is a number", path, with(`"headers":{"a":1}`), nil, 400, invalid, "headers.a", "a string"},
		{"reserved header", path, with(`"headers":{"tallymq-tenant":"x"}`), nil, 400, invalid, "headers.tallymq-tenant", "names not starting with tallymq- or _watermill"},
		{"headers too large", path, with(`"headers":{"a":"` + strings.Repeat("x", 16<<10) + `"}`), nil, 400, invalid, "headers", "at most 16384 bytes"},
		{"partition that is not there", path, with(`"partition":2`), nil, 400, invalid, "partition", "0 to 1"},
		{"partition below all", path, with(`"partition":-1`), nil, 400, invalid, "partition", "0 to 1"},
		{"partition past int64", path, with(`"partition":9223372036854775808`), nil, 400, invalid, "partition", "an integer"},
		{"half a partition", path, with(`"partition":0.5`), nil, 400, invalid, "partition", "an integer"},
		{"tried for ever", path, with(`"maxRetryAttempts":1001`), nil, 400, invalid, "maxRetryAttempts", "0 to 1000"},
		{"tried less than once", path, with(`"maxRetryAttempts":-1`), nil, 400, invalid, "maxRetryAttempts", "0 to 1000"},
		{"tried again too late", path, with(`"retryDelayMs":86400001`), nil, 400, invalid, "retryDelayMs", "0 to 86400000"},
		{"tried again in the past", path, with(`"retryDelayMs":-1`), nil, 400, invalid, "retryDelayMs", "0 to 86400000"},
		{"no time to live", path, with(`"ttlMs":0`), nil, 400, invalid, "ttlMs", "1 to 31536000000"},
		{"expired", path, with(`"expiresAt":"2020-01-01T00:00:00Z"`), nil, 400, invalid, "expiresAt", "in the future, within 365 days"},
		{"no time", path, with(`"expiresAt":"tomorrow"`), nil, 400, invalid, "expiresAt", "a time as in RFC 3339, such as 2026-01-31T08:00:00Z"},
		{"long correlation id", path, with(`"correlationId":"` + strings.Repeat("x", 201) + `"`), nil, 400, invalid, "correlationId", "at most 200 characters"},
		{"long content type", path, with(`"contentType":"` + strings.Repeat("x", 101) + `"`), nil, 400, invalid, "contentType", "at most 100 characters"},
	}
}

func hostileQueues() []hostileCase {
	with := func(fields string) string { return `{"name":"q",` + fields + `}` }
	cases := []hostileCase{
		{"duplicate key", "/queues", `{"name":"a","name":"b"}`, nil, 400, invalid, "name", onceLimit},
		{"too many partitions", "/queues", with(`"partitionCount":65`), nil, 400, invalid, "partitionCount", "1 to 64"},
		{"partitions as text", "/queues", with(`"partitionCount":"1"`), nil, 400, invalid, "partitionCount", "an integer"},
		{"another type", "/queues", with(`"topicType":"kafka"`), nil, 400, invalid, "topicType", "one of redis_stream"},
		{"schema that is a list", "/queues", with(`"schemaDefinition":[1]`), nil, 400, invalid, "schemaDefinition", "a JSON object"},
		{"schema too deep", "/queues", with(`"schemaDefinition":` + nested(`{"a":`, "1}", 40)), nil, 400, invalid, "", ""},
		{"producers as text", "/queues", with(`"allowedProducers":"a"`), nil, 400, invalid, "allowedProducers", "an array"},
		{"producer that is a number", "/queues", with(`"allowedProducers":["a",1]`), nil, 400, invalid, "allowedProducers[1]", "a string"},
		{"body larger than any configuration", "/queues", `{"description":"` + strings.Repeat("x", 256<<10) + `"}`, nil, 413, tooLarge, "body", "at most 262144 bytes"},
	}
	for _, name := range []string{``, `A`, `-a`, `a b`, `a/b`, `../a`, `a\n`, `é`, `{0}`, strings.Repeat("a", 201)} {
		cases = append(cases, hostileCase{"name " + name, "/queues", `{"name":"` + name + `"}`, nil, 400, invalid, "name", queueName})
	}
	return append(cases, hostileCase{"name with NUL", "/queues", `{"name":"a\u0000"}`, nil, 400, invalid, "name", nulLimit})
}

func hostileSubscriptions(id string) []hostileCase {
	with := func(fields string) string { return `{"queue":"orders",` + fields + `}` }
	at := func(what string) string { return "/subscriptions/" + id + "/" + what }
	tokens := func(n int) string {
		return `{"ackTokens":[` + strings.TrimSuffix(strings.Repeat(`"x",`, n), ",") + `],"leaseMs":1000}`
	}
	cases := []hostileCase{
		{"no group", "/subscriptions", with(`"consumerName":"c"`), nil, 400, invalid, "consumerGroup", groupName},
		{"group with a bar", "/subscriptions", with(`"consumerGroup":"a|b"`), nil, 400, invalid, "consumerGroup", groupName},
		{"group with a space", "/subscriptions", with(`"consumerGroup":"a b"`), nil, 400, invalid, "consumerGroup", groupName},
		{"group too long", "/subscriptions", with(`"consumerGroup":"` + strings.Repeat("a", 201) + `"`), nil, 400, invalid, "consumerGroup", groupName},
		{"consumer with a slash", "/subscriptions", with(`"consumerGroup":"g","consumerName":"a/b"`), nil, 400, invalid, "consumerName", groupName},
		{"another type", "/subscriptions", with(`"consumerGroup":"g","subscriptionType":"kafka_consumer"`), nil, 400, invalid, "subscriptionType", "one of redis_consumer, webhook"},
		{"webhook to nowhere", "/subscriptions", with(`"consumerGroup":"g","subscriptionType":"webhook"`), nil, 400, invalid, "handlerConfig.url", "an http or https URL of at most 2000 characters"},
		{"filter that is a list", "/subscriptions", with(`"consumerGroup":"g","messageFilter":[]`), nil, 400, invalid, "messageFilter", "a JSON object"},
		{"filter too large", "/subscriptions", with(`"consumerGroup":"g","messageFilter":{"a":"` + strings.Repeat("x", 4<<10) + `"}`), nil, 400, invalid, "messageFilter", "at most 4096 bytes"},
		{"session too short", "/subscriptions", with(`"consumerGroup":"g","sessionTimeoutMs":999`), nil, 400, invalid, "sessionTimeoutMs", "1000 to 43200000"},
		{"unknown queue", "/subscriptions", `{"queue":"nowhere","consumerGroup":"g"}`, nil, 404, noQueue, "", ""},
		{"queue that cannot be", "/subscriptions", `{"queue":"a b","consumerGroup":"g"}`, nil, 400, invalid, "queue", queueName},
		{"no queue", "/subscriptions", `{"consumerGroup":"g"}`, nil, 400, invalid, "queue", queueName},
		{"waits too long", at("pull"), `{"waitMs":20001}`, nil, 400, invalid, "waitMs", "0 to 20000"},
		{"waits backwards", at("pull"), `{"waitMs":-1}`, nil, 400, invalid, "waitMs", "0 to 20000"},
		{"pulls nothing", at("pull"), `{"maxMessages":0}`, nil, 400, invalid, "maxMessages", "1 to 500"},
		{"pulls too much", at("pull"), `{"maxMessages":501}`, nil, 400, invalid, "maxMessages", "1 to 500"},
		{"nack waits too long", at("nack"), `{"ackTokens":["x"],"delayMs":86400001}`, nil, 400, invalid, "delayMs", "0 to 86400000"},
		{"nack with a novel", at("nack"), `{"ackTokens":["x"],"error":"` + strings.Repeat("x", 2001) + `"}`, nil, 400, invalid, "error", "at most 2000 characters"},
		{"nack with NUL", at("nack"), `{"ackTokens":["x"],"error":"\u0000"}`, nil, 400, invalid, "error", nulLimit},
		{"extends not", at("extend"), `{"ackTokens":["x"]}`, nil, 400, invalid, "leaseMs", "1000 to 43200000"},
		{"extends for ever", at("extend"), `{"ackTokens":["x"],"leaseMs":43200001}`, nil, 400, invalid, "leaseMs", "1000 to 43200000"},
		{"ack with another's field", at("ack"), `{"ackTokens":["x"],"leaseMs":1000}`, nil, 400, invalid, "leaseMs", fieldsLimit},
		{"token that is a number", at("ack"), `{"ackTokens":["x",1]}`, nil, 400, invalid, "ackTokens[1]", "a string"},
		{"tokens as text", at("ack"), `{"ackTokens":"x"}`, nil, 400, invalid, "ackTokens", "an array"},
		{"no tokens, ack", at("ack"), `{}`, nil, 400, invalid, "ackTokens", "1 to 1000 tokens"},
		{"no tokens, extend", at("extend"), tokens(0), nil, 400, invalid, "ackTokens", "1 to 1000 tokens"},
		{"too many tokens", at("extend"), tokens(1001), nil, 400, invalid, "ackTokens", "1 to 1000 tokens"},
	}
	for _, bad := range []string{"x", "orders", strings.ToUpper(id), id + "0", "%2e%2e", "%00", "%ff", "{id}", "00000000000000000000000000000000"} {
		for _, what := range []string{"pull", "ack", "nack", "extend"} {
			cases = append(cases, hostileCase{
				what + " by " + bad, "/subscriptions/" + bad + "/" + what, `{}`, nil, 400, invalid, "id", "a UUID in lower case",
			})
		}
	}
	for _, what := range []string{"pull", "ack", "nack", "extend"} {
		body := `{}`
		if what != "pull" {
			body = tokens(1)
		}
		if what == "ack" || what == "nack" {
			body = `{"ackTokens":["x"]}`
		}
		cases = append(cases, hostileCase{
			what + " of none", "/subscriptions/01890a5d-ac97-7d6b-8f2a-0c6d5f1e2a3b/" + what, body, nil, 404, noSub, "", "",
		}, hostileCase{
			what + " of another tenant's", at(what), body, []string{"X-Test-Tenant", "00000000-0000-0000-0000-000000000002"}, 404, noSub, "", "",
		})
	}
	return cases
}

func hostileBatches() []hostileCase {
	batch := func(n int) string {
		return `{"messages":[` + strings.TrimSuffix(strings.Repeat(`{"queue":"orders","payload":1},`, n), ",") + `]}`
	}
	return []hostileCase{
		{"no messages", "/publish/batch", `{}`, nil, 400, invalid, "messages", "1 to 1000 messages"},
		{"batch of 0", "/publish/batch", batch(0), nil, 400, invalid, "messages", "1 to 1000 messages"},
		{"batch of 1001", "/publish/batch", batch(1001), nil, 400, invalid, "messages", "1 to 1000 messages"},
		{"unknown field of a message", "/publish/batch", `{"messages":[{"payload":1},{"x":1}]}`, nil, 400, invalid, "messages[1].x", fieldsLimit},
		{"duplicate key of a message", "/publish/batch", `{"messages":[{"key":"a","key":"a"}]}`, nil, 400, invalid, "messages[0].key", onceLimit},
		{"NUL beside a payload", "/publish/batch", `{"messages":[{"key":"\u0000","payload":"\u0000"}]}`, nil, 400, invalid, "messages[0].key", nulLimit},
		{"NUL in a header called payload", "/publish/batch", `{"messages":[{"headers":{"payload":"\u0000"}}]}`, nil, 400, invalid, "messages[0].headers.payload", nulLimit},
		{"messages as an object", "/publish/batch", `{"messages":{}}`, nil, 400, invalid, "messages", "an array"},
		{"atomic as text", "/publish/batch", `{"messages":[],"atomic":"yes"}`, nil, 400, invalid, "atomic", "true or false"},
		{"atomic over queues", "/publish/batch", `{"messages":[{"queue":"a","payload":1},{"queue":"b","payload":1}],"atomic":true}`, nil, 400, invalid, "messages[1].queue", "the first message's queue, for atomic batches"},
	}
}

// TestHostileInput: every answer is the contract's error, with the field and the
// limit, and none is a fault of ours.
func TestHostileInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.subscribed(t)
	cases := append(hostileQueues(), hostileSubscriptions(id)...)
	cases = append(cases, hostileBatches()...)
	cases = append(cases, hostileMessages("/publish", `"queue":"orders",`)...)
	cases = append(cases, hostileMessages("/topics/orders/publish", "")...)
	cases = append(cases, hostileDelivery(id)...)
	paths := []string{"/queues", "/publish", "/publish/batch", "/publish/delayed", "/publish/scheduled", "/topics/orders/publish", "/schedules", "/queues/orders/replay", "/subscriptions"}
	for _, what := range []string{"pull", "ack", "nack", "extend", "seek", "test-filter", "redrive"} {
		paths = append(paths, "/subscriptions/"+id+"/"+what)
	}
	for _, path := range paths {
		cases = append(cases, hostileToAll(path)...)
	}
	cases = append(cases,
		hostileCase{"unknown queue", "/publish", `{"queue":"nowhere","payload":1}`, nil, 404, noQueue, "", ""},
		hostileCase{"queue that cannot be", "/publish", `{"queue":"Orders","payload":1}`, nil, 400, invalid, "queue", queueName},
		hostileCase{"no queue", "/publish", `{"payload":1}`, nil, 400, invalid, "queue", queueName},
		hostileCase{"another tenant's queue", "/publish", `{"queue":"orders","payload":1}`, []string{"X-Test-Tenant", "00000000-0000-0000-0000-000000000002"}, 404, noQueue, "", ""},
		hostileCase{"queue beside the path's", "/topics/orders/publish", `{"queue":"orders","payload":1}`, nil, 400, invalid, "queue", fieldsLimit},
		hostileCase{"unknown queue in the path", "/topics/nowhere/publish", `{"payload":1}`, nil, 404, noQueue, "", ""},
		hostileCase{"no UTF-8 in the path", "/topics/%ff/publish", `{"payload":1}`, nil, 400, invalid, "queue", queueName},
		hostileCase{"NUL in the path", "/topics/%00/publish", `{"payload":1}`, nil, 400, invalid, "queue", queueName},
		hostileCase{"slash in the path", "/topics/a%2Fb/publish", `{"payload":1}`, nil, 400, invalid, "queue", queueName},
	)
	for _, tc := range cases {
		t.Run(tc.path+" "+tc.name, func(t *testing.T) {
			t.Parallel()
			rec := b.post(tc.path, tc.body, tc.header...)
			require.Equal(t, tc.status, rec.Code, "%.500s", rec.Body)
			require.Less(t, rec.Body.Len(), 5000, "an answer that grows with the question")
			var p problem
			require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &p), rec.Body)
			require.Equal(t, tc.code, p.Code)
			require.NotEmpty(t, p.Message)
			require.NotEmpty(t, p.RequestID)
			require.Equal(t, rec.Header().Get("X-Request-ID"), p.RequestID)
			if tc.status < http.StatusInternalServerError && tc.field == "" {
				return
			}
			require.NotEmpty(t, p.Details)
			field := p.Details[0].Field
			if short, cut := strings.CutSuffix(tc.field, "…"); cut {
				require.True(t, strings.HasPrefix(field, short), field)
			} else {
				require.Equal(t, tc.field, field)
			}
			require.True(t, strings.HasPrefix(p.Details[0].Limit, tc.limit), "%q, want %q", p.Details[0].Limit, tc.limit)
			require.NotEmpty(t, p.Details[0].Problem)
		})
	}
	t.Cleanup(func() {
		// nothing of it went in
		var got pulled
		b.must(t, &got, fmt.Sprintf("/subscriptions/%s/pull", id), `{}`)
		require.Empty(t, got.Messages)
	})
}
