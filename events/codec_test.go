package events

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// encodingJSON is what encoding/json makes of an event, HTML left alone.
func encodingJSON(t testing.TB, e Event) string {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	require.NoError(t, enc.Encode(e))
	return string(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

func TestFramesJoinToWhatEncodingJSONWrites(t *testing.T) {
	t.Parallel()
	for name, e := range examples() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// the payload keeps its white space, all else is the same
			var compact bytes.Buffer
			require.NoError(t, json.Compact(&compact, stored(t, e)))
			require.Equal(t, encodingJSON(t, e), compact.String())
		})
	}
}

func TestFramesTakeTheOffsetLate(t *testing.T) {
	t.Parallel()
	for _, offset := range []int64{0, 1, 9, 10, math.MaxInt64} {
		e := MessagePublished{MessageID: messageID, TopicID: topicID, ContentType: "t", Payload: json.RawMessage(`[1]`), Offset: 77}
		frame, err := Encode(e)
		require.NoError(t, err)
		require.Equal(t, `[1]`, string(frame.Payload))
		// the log writes the parts like this, see append.lua
		joined := string(frame.Head) + string(frame.Payload) + string(frame.Tail) + strconv.FormatInt(offset, 10) + "}"
		require.Equal(t, joined, string(frame.Join(strconv.FormatInt(offset, 10))))
		e.Offset = offset
		require.Equal(t, encodingJSON(t, e), joined)
	}
}

// Whatever a producer writes into a message's texts, the payload is cut where it
// begins.
func TestFramesAreNotConfusedByTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`"payload":0,"offset":0}`, `0,"offset":0}`, `\`, `"`, "\u2028<&>", "\x01", "\x1f\n", "\x7f"} {
		e := MessagePublished{
			MessageID: messageID, TopicID: topicID, ContentType: text, Key: text, TraceParent: text,
			Headers: map[string]string{text: text}, Payload: json.RawMessage(`{"payload":0,"offset":0}`), Offset: 5,
		}
		got, err := Decode(KindMessagePublished, stored(t, e))
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
}

func TestEncodeRefusesAMessageWithoutPayload(t *testing.T) {
	t.Parallel()
	_, err := Encode(MessagePublished{MessageID: messageID})
	require.ErrorContains(t, err, "no payload")
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kind Kind
		data string
		err  string
		want Event
	}{
		"unknown kind":            {"topic.renamed", `{}`, `unknown kind "topic.renamed"`, nil},
		"no kind":                 {"", `{}`, "unknown kind", nil},
		"unknown fields":          {KindTopicCreated, `{"name":"a","colour":{"r":1}}`, "", TopicCreated{TopicConfig: TopicConfig{Name: "a"}}},
		"unknown fields, nested":  {KindMessageConsumed, `{"attempt":2,"x":[1]}`, "", MessageConsumed{Delivery: Delivery{Attempt: 2}}},
		"another kind's document": {KindMessageFailed, `{"name":"a"}`, "", MessageFailed{}},
		"not JSON":                {KindTopicCreated, `{`, "decode event topic.created", nil},
		"nothing":                 {KindTopicCreated, ``, "decode event topic.created", nil},
		"another type":            {KindMessageConsumed, `{"attempt":"2"}`, "decode event message.consumed", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Decode(tc.kind, []byte(tc.data))
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				require.Nil(t, got)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	full := Meta{
		Actor: "order-service", Platform: true, RequestID: "r-1", TraceParent: "00-a-b-01", IdempotencyKey: "k 1", Fingerprint: "f", AcceptedAtMs: 1,
	}
	for name, e := range examples() {
		for _, meta := range []Meta{full, {}} {
			for _, version := range []int64{0, 7} {
				md := meta.Metadata(e.Kind(), topicID, version)
				md[MetaShard], md[MetaPosition] = "3", "1853152493096927238"
				data := stored(t, e)
				got, err := ParseRecord(messageID, md, data)
				require.NoError(t, err, name)
				want := Record{
					Shard: 3, Position: 1853152493096927238, ID: messageID, TenantID: topicID,
					Version: version, Meta: meta, Event: e, Data: data,
				}
				// when it was accepted is not kept: an event's time is its position
				want.Meta.AcceptedAtMs = 0
				require.Equal(t, want, got, name)
			}
		}
	}
}

func TestMetadataLeavesOutWhatIsNotThere(t *testing.T) {
	t.Parallel()
	require.Equal(t, map[string]string{"kind": "topic.created", "tenant": "t"}, Meta{}.Metadata(KindTopicCreated, "t", 0))
	// the names are permanent: they stand in every stored entry
	require.Equal(t, map[string]string{
		"kind": "topic.created", "tenant": "t", "version": "2", "actor": "a", "request": "r", "traceparent": "p",
		"idempotencyKey": "k", "fingerprint": "f", "platform": "1",
	}, Meta{Actor: "a", Platform: true, RequestID: "r", TraceParent: "p", IdempotencyKey: "k", Fingerprint: "f", AcceptedAtMs: 9}.Metadata(KindTopicCreated, "t", 2))
}

func TestParseRecordRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ key, value, err string }{
		"no shard":              {MetaShard, "", "shard"},
		"a shard that is none":  {MetaShard, "x", "shard"},
		"no position":           {MetaPosition, "", "position"},
		"a position with dash":  {MetaPosition, "1-2", "position"},
		"a version that is no":  {"version", "new", "version"},
		"an unknown kind":       {"kind", "topic.renamed", "unknown kind"},
		"no kind, as corrupted": {"kind", "", "unknown kind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			md := Meta{}.Metadata(KindMessageConsumed, "t", 1)
			md[MetaShard], md[MetaPosition] = "0", "1"
			_, err := ParseRecord(messageID, md, []byte(`{}`))
			require.NoError(t, err)
			md[tc.key] = tc.value
			_, err = ParseRecord(messageID, md, []byte(`{}`))
			require.ErrorContains(t, err, tc.err)
			require.ErrorContains(t, err, messageID, "whoever looks for it must find it")
		})
	}
}

func TestDeliveryMetaRoundTrip(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]DeliveryMeta{
		"everything": {
			TenantID: "t", Key: "k", ContentType: "c", CorrelationID: "i", TraceParent: "p", ExpiresAtMs: math.MaxInt64,
			Headers: map[string]string{"a": "1", "empty": "", "Tallymq-Key": "no prefix of ours", "key": "2", "тест": "\u0001"},
		},
		"nothing":         {Headers: map[string]string{}},
		"negative expiry": {ExpiresAtMs: -1, Headers: map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseDeliveryMeta(m.Metadata())
			require.NoError(t, err)
			require.Equal(t, m, got)
		})
	}
}

func TestDeliveryMetaNamesArePermanent(t *testing.T) {
	t.Parallel()
	headers := map[string]string{"h": "v"}
	require.Equal(t, map[string]string{
		"h": "v", "tallymq-tenant": "t", "tallymq-key": "k", "tallymq-content-type": "c", "tallymq-correlation-id": "i",
		"tallymq-traceparent": "p", "tallymq-expires-at-ms": "5",
	}, DeliveryMeta{
		TenantID: "t", Key: "k", ContentType: "c", CorrelationID: "i", TraceParent: "p", ExpiresAtMs: 5, Headers: headers,
	}.Metadata())
	require.Equal(t, map[string]string{"h": "v"}, headers, "the producer's headers are not ours to write to")
}

func TestParseDeliveryMetaRefusesAnExpiryThatIsNone(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"x", "1.5", " 1", "9223372036854775808"} {
		_, err := ParseDeliveryMeta(map[string]string{"tallymq-expires-at-ms": bad})
		require.ErrorContains(t, err, "tallymq-expires-at-ms")
	}
}
