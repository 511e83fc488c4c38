package events

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// erased is data with its payload erased, found with encoding/json.
func erased(t testing.TB, data []byte) []byte {
	t.Helper()
	start, end, found := decodedSpan(data)
	require.True(t, found, "%s", data)
	return fmt.Appendf(nil, `%snull,"erasedSha256":"%x"%s`, data[:start], sha256.Sum256(data[start:end]), data[end:])
}

// decodedSpan is payloadSpan by encoding/json.
func decodedSpan(data []byte) (start, end int, found bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return 0, 0, false
	}
	for d.More() {
		if _, err := d.Token(); err != nil {
			return 0, 0, false
		}
		name := d.InputOffset()
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return 0, 0, false
		}
		if bytes.HasSuffix(data[:name], []byte(`"payload"`)) {
			end := int(d.InputOffset())
			return end - len(value), end, true
		}
	}
	return 0, 0, false
}

func leafRecord(data []byte) Record {
	return Record{
		Shard: 3, Position: 1767323045006 << 20, ID: messageID, TenantID: topicID, Version: 2, Data: data,
		Meta: Meta{Actor: "a", RequestID: "r", TraceParent: "t", IdempotencyKey: "k", Fingerprint: "f"},
	}
}

// The form of a leaf is for ever: proofs that were given must stay good. The hashes were
// computed from its description, by another program.
func TestLeavesStayAsTheyWere(t *testing.T) {
	t.Parallel()
	for kind, want := range map[Kind]string{
		KindMessagePublished: "2e6bc3ec7a88a2cb935fb322ddd69d034151f535acbb5169547459efe7d5ddf8",
		KindTopicCreated:     "fb96ba0aebfa8d7986565cf04d36ea2dbae2908844108bd0797ec4af102b4864",
	} {
		leaf := Leaf(kind, leafRecord([]byte(`{"messageId":"m","payload":{"a": 1},"offset":7}`)))
		require.Equal(t, want, hex.EncodeToString(leaf[:]), kind)
	}
}

// Every event of the catalogue that has a payload has the same leaf once it is erased.
func TestAnErasedPayloadLeavesTheLeaf(t *testing.T) {
	t.Parallel()
	n := 0
	for name, e := range examples() {
		data := stored(t, e)
		record := leafRecord(data)
		before := Leaf(e.Kind(), record)
		if e.Kind() != KindMessagePublished && e.Kind() != KindMessageScheduled {
			continue
		}
		if bytes.Contains(data, []byte(`"erasedSha256"`)) {
			continue // it is already
		}
		n++
		record.Data = erased(t, data)
		require.NotEqual(t, string(data), string(record.Data))
		require.Equal(t, before, Leaf(e.Kind(), record), name)
		_, err := Decode(e.Kind(), record.Data)
		require.NoError(t, err)
		// Another payload than the one that stood there has another leaf.
		record.Data = bytes.Replace(record.Data, []byte(`"erasedSha256":"`), []byte(`"erasedSha256":"0`), 1)
		require.NotEqual(t, before, Leaf(e.Kind(), record), name)
	}
	require.GreaterOrEqual(t, n, 5)
}

func TestALeafIsOfEverythingThatIsStored(t *testing.T) {
	t.Parallel()
	data := []byte(`{"messageId":"m","headers":{"x":"\"payload\":1"},"payload": [1,"}"] ,"offset":7}`)
	base := Leaf(KindMessagePublished, leafRecord(data))
	seen := map[[32]byte]string{base: "nothing"}
	for name, change := range map[string]func(r *Record){
		"shard":           func(r *Record) { r.Shard++ },
		"position":        func(r *Record) { r.Position++ },
		"version":         func(r *Record) { r.Version++ },
		"id":              func(r *Record) { r.ID = topicID },
		"tenant":          func(r *Record) { r.TenantID = messageID },
		"actor":           func(r *Record) { r.Meta.Actor = "" },
		"request":         func(r *Record) { r.Meta.RequestID = "rt" },
		"trace":           func(r *Record) { r.Meta.RequestID, r.Meta.TraceParent = "rt", "" },
		"key":             func(r *Record) { r.Meta.IdempotencyKey = "x" },
		"fingerprint":     func(r *Record) { r.Meta.Fingerprint = "x" },
		"payload":         func(r *Record) { r.Data = bytes.Replace(data, []byte("[1,"), []byte("[2,"), 1) },
		"before payload":  func(r *Record) { r.Data = bytes.Replace(data, []byte(`"m"`), []byte(`"n"`), 1) },
		"after payload":   func(r *Record) { r.Data = bytes.Replace(data, []byte(`:7`), []byte(`:8`), 1) },
		"space":           func(r *Record) { r.Data = bytes.Replace(data, []byte(`] ,`), []byte(`],`), 1) },
		"text in headers": func(r *Record) { r.Data = bytes.Replace(data, []byte(`\":1"`), []byte(`\":2"`), 1) },
	} {
		r := leafRecord(data)
		change(&r)
		leaf := Leaf(KindMessagePublished, r)
		require.NotContains(t, seen, leaf, name)
		seen[leaf] = name
	}
	require.NotContains(t, seen, Leaf(KindMessageScheduled, leafRecord(data)))
	require.NotContains(t, seen, Leaf(KindMessageConsumed, leafRecord(data)))
}

// What Postgres stores of texts that are no UTF-8 is what encoding/json makes of them.
func TestALeafHasTextsAsTheyAreStored(t *testing.T) {
	t.Parallel()
	r := leafRecord([]byte(`{}`))
	r.Meta.Actor = "a\xff\xfeb"
	encoded, err := json.Marshal(r.Meta.Actor)
	require.NoError(t, err)
	want := r
	require.NoError(t, json.Unmarshal(encoded, &want.Meta.Actor))
	require.Equal(t, Leaf(KindMessageConsumed, want), Leaf(KindMessageConsumed, r))
}

// FuzzLeaf: whatever the data, hashing does not panic; where they are JSON, the payload
// is the one that encoding/json finds, and erasing it leaves the leaf as it was.
func FuzzLeaf(f *testing.F) {
	for _, e := range examples() {
		f.Add(stored(f, e))
	}
	for _, data := range []string{
		`{"headers":{"payload":"\"payload\":1"},"payload" : {"payload":[{}, "\\\"}"]} ,"offset":1}`,
		`{"a":"\\","payload":"\\\\\"","payload":2}`, `{"payload":null,"erasedSha256":"00"}`, `{"payload":`, `{"payload":}`, `[{"payload":1}]`,
		`{"p\u0061yload":1,"payload":-1.5e+3}`, "", `{`, `{"`, `{"\`, `{"a":[`, `{"a":"\"`,
		`{"payload":null,"erasedSha256":"0000000000000000000000000000000000000000000000000000000000000000","offset":1}`,
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := Leaf(KindMessagePublished, leafRecord(data))
		start, end, found := payloadSpan(data)
		require.True(t, start <= end && end <= len(data))
		if !json.Valid(data) {
			return
		}
		wantStart, wantEnd, want := decodedSpan(data)
		require.Equal(t, []any{wantStart, wantEnd, want}, []any{start, end, found})
		if !found {
			return
		}
		if _, _, isErased := cutErased(data[end:]); isErased {
			return // no event of ours, or erased before
		}
		require.Equal(t, before, Leaf(KindMessagePublished, leafRecord(erased(t, data))))
	})
}

func BenchmarkLeaf(b *testing.B) {
	data := stored(b, examples()["message.published"])
	r := leafRecord(data)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		Leaf(KindMessagePublished, r)
	}
}
