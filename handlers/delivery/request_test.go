package delivery

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/cloudevents"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// madeRequest returns the request for a message.
func madeRequest(t testing.TB, hook commands.Webhook, m commands.Pulled) Request {
	cfg := newStore().config(answers(200))
	cfg.Secrets = func(s commands.Subscription, now time.Time) []string {
		return []string{s.Config.SubscriptionID + now.UTC().Format(" 2006")}
	}
	p, err := New(cfg)
	require.NoError(t, err)
	s := commands.Subscription{
		TenantID: tenant, QueueTenantID: "owner", Queue: "orders",
		Config: events.SubscriptionConfig{SubscriptionID: "sub", SessionTimeoutMs: 30_000},
	}
	target := newTarget(t.Context(), p, s, hook)
	return target.request(m, m.Meta.CorrelationID, time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
}

func message1() commands.Pulled {
	return commands.Pulled{Leased: events.Leased{
		MessageID: "message-1", Partition: 2, Offset: 7, Attempt: 3, Position: events.Position(1_700_000_000_123 << 20),
		Payload: []byte(`{"order":47}`),
		Meta: events.DeliveryMeta{
			Key: "customer 7", CorrelationID: "corr", TraceParent: parent,
			Headers: map[string]string{"Region": "über alles", "bad name": "x", "nul": "a\x00\r\nb"},
		},
	}}
}

func TestARequestHasTheMessage(t *testing.T) {
	t.Parallel()
	r := madeRequest(t, commands.Webhook{
		URL: "https://example.com/", Headers: map[string]string{"Authorization": "Bearer x", "X-Tallymq-Attempt": "forged"},
	}, message1())
	require.Equal(t, Request{
		URL: "https://example.com/", ID: "message-1", Secrets: []string{"sub 2030"}, ContentType: "application/json",
		Body: []byte(`{"order":47}`),
		Header: http.Header{
			"Authorization":         {"Bearer x"},
			"X-Tallymq-Queue":       {"owner:orders"},
			"X-Tallymq-Attempt":     {"3"},
			"X-Tallymq-Message-Key": {"customer%207"},
			"X-Correlation-Id":      {"corr"},
			"Traceparent":           {parent},
			"X-Message-Region":      {"%C3%BCber%20alles"},
			"X-Message-Nul":         {"a%00%0D%0Ab"},
		},
	}, r)
}

func TestARequestSaysNothingThatIsNotThere(t *testing.T) {
	t.Parallel()
	m := commands.Pulled{Leased: events.Leased{MessageID: "m", Attempt: 1, Payload: []byte("1"), Meta: events.DeliveryMeta{TraceParent: "none\r\nX: y"}}}
	r := madeRequest(t, commands.Webhook{URL: "https://example.com/"}, m)
	require.Equal(t, http.Header{"X-Tallymq-Queue": {"owner:orders"}, "X-Tallymq-Attempt": {"1"}}, r.Header)
}

func TestARequestIsACloudEvent(t *testing.T) {
	t.Parallel()
	m := message1()
	m.Meta.ContentType = "application/vnd.order+json; v=1"
	r := madeRequest(t, commands.Webhook{URL: "https://example.com/", CloudEvents: true}, m)
	require.Equal(t, "application/vnd.order+json; v=1", r.ContentType)
	for name, want := range map[string]string{
		"specversion": "1.0", "id": "message-1", "type": "tallymq.message", "source": "/tenants/owner/queues/orders",
		"time": "2023-11-14T22:13:20.123Z", "partitionkey": "customer%207", "partition": "2", "offset": "7", "correlationid": "corr",
	} {
		require.Equal(t, want, r.Header.Get("ce-"+name), name)
	}
	require.Equal(t, "%C3%BCber%20alles", r.Header.Get("X-Message-Region"))
	require.Equal(t, parent, r.Header.Get("Traceparent"))
}

func TestACloudEventKeepsItsAttributes(t *testing.T) {
	t.Parallel()
	m := message1()
	m.Meta.Headers = map[string]string{
		"ce-id": "order-47", "ce-source": "/shop", "ce-type": "shop.order placed", "ce-specversion": "0.3", "ce-time": "2020-01-01T00:00:00Z",
		"ce-mine": "x", "ce-not-one": "y", "ce-datacontenttype": "text/plain", "other": "z",
	}
	r := madeRequest(t, commands.Webhook{CloudEvents: true}, m)
	for name, want := range map[string]string{
		"Ce-Id": "order-47", "Ce-Source": "/shop", "Ce-Type": "shop.order%20placed", "Ce-Specversion": "1.0", "Ce-Time": "2020-01-01T00:00:00Z",
		"Ce-Mine": "x", "Ce-Not-One": "", "Ce-Datacontenttype": "", "X-Message-Other": "z", "X-Message-Ce-Id": "", "X-Message-Ce-Not-One": "y",
	} {
		require.Equal(t, want, r.Header.Get(name), name)
	}
	plain := madeRequest(t, commands.Webhook{}, m)
	require.Equal(t, "order-47", plain.Header.Get("X-Message-Ce-Id"))
	require.Empty(t, plain.Header.Get("Ce-Id"))
}

func TestTheBodyIsThePayloadOrTheDataInIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		contentType, encoding, payload string
		wantType, wantBody             string
		wantCloudEventType             string
	}{
		"JSON":                      {"application/json", "", `{}`, "application/json", `{}`, "application/json"},
		"nothing said":              {"", "", `{}`, "application/json", `{}`, "application/json"},
		"text":                      {"text/plain", "text", `"a\n\"b"`, "text/plain", "a\n\"b", "text/plain"},
		"bytes":                     {"image/png", "base64", `"AAEC"`, "image/png", "\x00\x01\x02", "image/png"},
		"no data":                   {"text/plain", "none", `null`, "", "", ""},
		"JSON for another type":     {"text/plain", "", `{"a":1}`, "text/plain", `{"a":1}`, "application/json"},
		"said to be text, no text":  {"text/plain", "text", `{"a":1}`, "text/plain", `{"a":1}`, "application/json"},
		"said to be bytes, are not": {"image/png", "base64", `"??"`, "image/png", `"??"`, "application/json"},
		"said to be text, is JSON":  {"application/json", "text", `"x"`, "application/json", `"x"`, "application/json"},
		"said to be none, is not":   {"text/plain", "none", `1`, "text/plain", `1`, "application/json"},
		"no content type at all":    {"a\nb", "", `1`, "application/json", `1`, "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := message1()
			m.Payload, m.Meta.ContentType = []byte(c.payload), c.contentType
			m.Meta.Headers = map[string]string{"data-encoding": c.encoding}
			r := madeRequest(t, commands.Webhook{}, m)
			require.Equal(t, c.wantBody, string(r.Body))
			require.Equal(t, c.wantType, r.ContentType)
			e := madeRequest(t, commands.Webhook{CloudEvents: true}, m)
			require.Equal(t, c.wantBody, string(e.Body))
			require.Equal(t, c.wantCloudEventType, e.ContentType)
		})
	}
}

func FuzzARequestCanBeSent(f *testing.F) {
	f.Add("Region", "value", "text/plain", "text", `"x"`, "key")
	f.Add("ce-type", "a\r\nb", "a/b;c", "base64", `"AA=="`, "ü")
	f.Add("ce-datacontenttype", "\x00", "", "none", `null`, "")
	f.Fuzz(func(t *testing.T, name, value, contentType, encoding, payload, key string) {
		m := message1()
		m.Payload, m.Meta.ContentType, m.Meta.Key = []byte(payload), contentType, key
		m.Meta.Headers = map[string]string{name: value, "data-encoding": encoding}
		for _, isCloudEvent := range []bool{false, true} {
			r := madeRequest(t, commands.Webhook{CloudEvents: isCloudEvent}, m)
			require.True(t, cloudevents.IsPlain(r.ContentType))
			for name, values := range r.Header {
				require.Equal(t, http.CanonicalHeaderKey(name), name)
				require.False(t, strings.ContainsAny(name, " \r\n:\x00"))
				for _, value := range values {
					require.True(t, cloudevents.IsPlain(value) && !strings.Contains(value, " "), "%s: %q", name, value)
				}
			}
		}
	})
}
