package events

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEraseTakesThePayloadAndNothingElse(t *testing.T) {
	t.Parallel()
	const sumOfOne = erasedSum
	for name, c := range map[string]struct {
		kind       Kind
		data, want string
	}{
		"published": {
			KindMessagePublished, `{"messageId":"m","payload":1,"offset":7}`, `{"messageId":"m","payload":null,"erasedSha256":"` + sumOfOne + `","offset":7}`,
		},
		"scheduled": {
			KindMessageScheduled, `{"payload":1,"offset":0,"releaseAtMs":9}`, `{"payload":null,"erasedSha256":"` + sumOfOne + `","offset":0,"releaseAtMs":9}`,
		},
		"what looks like it": {
			KindMessagePublished, `{"key":"\"payload\":2","headers":{"payload":"3","x":"\",\"payload\":4"},"payload":1,"offset":7}`,
			`{"key":"\"payload\":2","headers":{"payload":"3","x":"\",\"payload\":4"},"payload":null,"erasedSha256":"` + sumOfOne + `","offset":7}`,
		},
		"white space stays": {
			KindMessagePublished, "{ \"payload\" :\n 1 , \"offset\":7 }", "{ \"payload\" :\n null,\"erasedSha256\":\"" + sumOfOne + "\" , \"offset\":7 }",
		},
	} {
		got, ok, err := Erase(c.kind, []byte(c.data))
		require.NoError(t, err, name)
		require.True(t, ok, name)
		require.Equal(t, c.want, string(got), name)
		again, ok, err := Erase(c.kind, got)
		require.NoError(t, err, name)
		require.True(t, ok, name)
		require.Equal(t, c.want, string(again), name)
	}
	// what has none stays
	for _, kind := range []Kind{KindMessageConsumed, KindScheduleCreated, KindTopicCreated} {
		got, ok, err := Erase(kind, []byte(`{"payload":1}`))
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, `{"payload":1}`, string(got))
	}
	for name, data := range map[string]string{
		"nothing": ``, "an array": `[1]`, "a half": `{"payload":1`, "two": `{"payload":1,"payload":2}`, "none": `{"offset":1}`, "more": `{"payload":1} 2`,
	} {
		_, ok, err := Erase(KindMessagePublished, []byte(data))
		require.Error(t, err, name)
		require.False(t, ok, name)
	}
}

// An erased event is read and written like any other, in the place of every example.
func TestErasedEventsAreReadAndWritten(t *testing.T) {
	t.Parallel()
	for name, e := range examples() {
		data := stored(t, e)
		erased, ok, err := Erase(e.Kind(), data)
		require.NoError(t, err, name)
		if !ok {
			require.Equal(t, data, erased, name)
			continue
		}
		got, err := Decode(e.Kind(), erased)
		require.NoError(t, err, name)
		require.Equal(t, string(erased), string(stored(t, got)), name)
		before, _ := payloadIn(e)
		after, sum := payloadIn(got)
		require.Equal(t, "null", after, name)
		if strings.HasSuffix(name, ".erased") {
			require.Equal(t, erasedSum, sum, name)
			continue
		}
		want := sha256.Sum256([]byte(before))
		require.Equal(t, hex.EncodeToString(want[:]), sum, name)
	}
}

func payloadIn(e Event) (payload, sum string) {
	if m, ok := e.(MessageScheduled); ok {
		return string(m.Payload), m.ErasedSHA256
	}
	m, _ := e.(MessagePublished)
	return string(m.Payload), m.ErasedSHA256
}

func FuzzErase(f *testing.F) {
	f.Add(`{"a":1}`, `"payload":1`, `x`)
	f.Add(`null`, `"`, `\`)
	f.Add(" [1 , 2]\t", "\u2028", `,"erasedSha256":"`)
	f.Fuzz(func(t *testing.T, payload, header, key string) {
		if !json.Valid([]byte(payload)) {
			return
		}
		e := MessagePublished{MessageID: messageID, TopicID: topicID, Key: key, Headers: map[string]string{header: key}, Payload: json.RawMessage(payload), Offset: 3}
		data := stored(t, e)
		erased, ok, err := Erase(KindMessagePublished, data)
		require.NoError(t, err)
		require.True(t, ok)
		raw := bytes.TrimSpace([]byte(payload))
		sum := sha256.Sum256(raw)
		// put back, it is what it was
		at := bytes.LastIndex(erased, []byte(`null,"erasedSha256":"`+hex.EncodeToString(sum[:])+`"`))
		require.Positive(t, at)
		back := append(append(bytes.Clone(erased[:at]), raw...), erased[at+len(`null,"erasedSha256":""`)+64:]...)
		require.Equal(t, string(data), string(back))
		again, _, err := Erase(KindMessagePublished, erased)
		require.NoError(t, err)
		require.Equal(t, string(erased), string(again))
	})
}

func FuzzEraseHostile(f *testing.F) {
	f.Add([]byte(`{"payload":1}`))
	f.Add([]byte(`{"payload":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		erased, ok, err := Erase(KindMessagePublished, data)
		if err == nil {
			require.True(t, ok)
			require.True(t, json.Valid(erased))
		}
	})
}
