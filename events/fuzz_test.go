package events

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDecode: whatever stands in the log, decoding does not panic, and what can be
// decoded is written and read again as the same event.
func FuzzDecode(f *testing.F) {
	for _, e := range examples() {
		f.Add(string(e.Kind()), stored(f, e))
	}
	f.Add("message.published", []byte(`{"payload":null,"offset":1e2}`))
	f.Add("topic.created", []byte(`{"schemaDefinition": [ 1 ],"name":"\ud800"}`))
	f.Add("nonsense", []byte(`{}`))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		e, err := Decode(Kind(kind), data)
		if err != nil {
			require.Nil(t, e)
			return
		}
		require.Equal(t, Kind(kind), e.Kind())
		RefsOf(e)
		if published, ok := e.(MessagePublished); ok && len(published.Payload) == 0 {
			return
		}
		once := stored(t, e)
		again, err := Decode(e.Kind(), once)
		require.NoError(t, err)
		require.Equal(t, string(once), string(stored(t, again)))
	})
}

// FuzzEncode: whatever a message's texts and payload are, the frame is what
// encoding/json would write, the payload is in it byte for byte, and a payload that
// is JSON makes an event that is.
func FuzzEncode(f *testing.F) {
	f.Add([]byte(`{"a":1}`), "key", "value", 0, int64(0), int64(0))
	f.Add([]byte(` [1, 2] `), `"payload":0,"offset":0}`, "\xff", 63, int64(1), int64(1<<62))
	f.Add([]byte(`0,"offset":0}`), "", "", -1, int64(-1), int64(-1))
	f.Add([]byte("\x00"), "\u2028", "\x1f", 1, int64(7), int64(7))
	f.Fuzz(func(t *testing.T, payload []byte, key, header string, partition int, ttlMs, offset int64) {
		e := MessagePublished{
			MessageID: messageID, TopicID: topicID, Partition: partition, Key: key, Headers: map[string]string{header: key, "h": header},
			ContentType: header, CorrelationID: key, ProducerID: header, TraceParent: key, TTLMs: ttlMs, Payload: payload,
		}
		frame, err := Encode(e)
		if len(payload) == 0 {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		joined := frame.Join(strconv.FormatInt(offset, 10))
		require.Equal(t, string(payload), string(bytes.TrimPrefix(joined, frame.Head)[:len(payload)]))
		plain := e
		plain.Payload, plain.Offset = json.RawMessage("0"), offset
		require.Equal(t, encodingJSON(t, plain), string(Frame{Head: frame.Head, Payload: plain.Payload, Tail: frame.Tail}.Join(strconv.FormatInt(offset, 10))))
		if !json.Valid(payload) {
			return // the edge's business
		}
		got, err := Decode(KindMessagePublished, joined)
		require.NoError(t, err)
		require.Equal(t, string(bytes.Trim(payload, " \t\r\n")), string(got.(MessagePublished).Payload))
		require.Equal(t, offset, got.(MessagePublished).Offset)
	})
}

// FuzzParseDeliveryMeta: no metadata panic, none of ours is left among the
// producer's headers, and what was read is written and read as the same.
func FuzzParseDeliveryMeta(f *testing.F) {
	f.Add("tallymq-key", "k", "1767323045006")
	f.Add("tallymq-", "", "007")
	f.Add("h", "v", "-9223372036854775808")
	f.Add("", "tallymq-key", "x")
	f.Fuzz(func(t *testing.T, name, value, expires string) {
		m, err := ParseDeliveryMeta(map[string]string{name: value, "tallymq-expires-at-ms": expires, "tallymq-tenant": value})
		if err != nil {
			require.Equal(t, DeliveryMeta{}, m)
			return
		}
		for header := range m.Headers {
			require.False(t, strings.HasPrefix(header, HeaderReservedPrefix), header)
		}
		again, err := ParseDeliveryMeta(m.Metadata())
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}
