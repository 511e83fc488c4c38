package proof

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/events"
)

const (
	tenantID  = "00000000-0000-0000-0000-000000000001"
	messageID = "01890a5d-ac98-7e1f-9c4d-1b2a3c4d5e6f"
	topicID   = "01890a5d-ac96-774b-bcce-b302099a8057"
)

// testLog is a log of seals of which every third has an event of the message.
type testLog struct {
	key    ed25519.PrivateKey
	tree   Tree
	stored []tlog.Hash
	heads  []Head
	doc    Document
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = l.stored[index]
	}
	return out, nil
}

// event is one whose data are a delivery's, or at 0 the publication.
func event(message string, position int64) Event {
	e := Event{
		Shard: 3, Position: events.Position(position), ID: fmt.Sprintf("01890a5d-ac98-7e1f-9c4d-%012x", position), Kind: events.KindMessageConsumed, TenantID: tenantID, Version: position,
		Metadata: Metadata{Actor: "a", Platform: "true", RequestID: "r", TraceParent: "t", IdempotencyKey: "k", Fingerprint: "f"},
		Data:     fmt.Sprintf(`{"messageId":"%s","topicId":"%s","attempt":%d}`, message, topicID, position),
	}
	if position == 0 {
		e.Kind, e.Data = events.KindMessagePublished, fmt.Sprintf(`{"messageId":"%s","topicId":"%s","payload":{"a":1},"offset":1}`, message, topicID)
	}
	return e
}

func newLog(t testing.TB, seals int) *testLog {
	t.Helper()
	l := &testLog{key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}
	l.doc = Document{Format: FormatProof, MessageID: messageID, PublicKey: l.key.Public().(ed25519.PublicKey)}
	for n := range int64(seals) {
		var all []Event
		var leaves []tlog.Hash
		for at := range int64(5) {
			message := messageID
			if n%3 != 0 || at != 2 {
				message = topicID
			}
			e := event(message, max(0, n*5+at-2))
			all, leaves = append(all, e), append(leaves, e.Leaf())
		}
		root, path, err := Path(leaves, 2)
		require.NoError(t, err)
		seal := Seal{N: n, Scope: "message", First: all[0].Position, Last: all[4].Position, Events: 5, Root: root}
		l.stored = l.tree.Add(l.stored, seal.RecordHash(tenantID, 3))
		l.heads = append(l.heads, Head{TenantID: tenantID, Shard: 3, Size: n + 1, Root: l.tree.Root()}.Sign(l.key))
		if n%3 == 0 {
			all[2].Seal, all[2].Index, all[2].Path = n, 2, path
			l.doc.Events = append(l.doc.Events, all[2])
			l.doc.Seals = append(l.doc.Seals, ProvedSeal{Seal: seal})
		}
	}
	l.doc.Head = l.heads[seals-1]
	for i, s := range l.doc.Seals {
		var err error
		l.doc.Seals[i].Proof, err = tlog.ProveRecord(int64(seals), s.N, l)
		require.NoError(t, err)
	}
	return l
}

// since adds the proof that the log grew from a size.
func (l *testLog) since(t testing.TB, size int64) {
	t.Helper()
	growth, err := tlog.ProveTree(l.doc.Head.Size, size, l)
	require.NoError(t, err)
	old := l.heads[size-1]
	l.doc.Since = &Since{Size: size, Root: old.Root, Signature: old.Signature, Proof: growth}
}

func written(t testing.TB, file any) []byte {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, Write(&out, file))
	return out.Bytes()
}

func TestAFileIsCheckedWithNothingElse(t *testing.T) {
	t.Parallel()
	for _, seals := range []int{1, 2, 7, 8, 33} {
		l := newLog(t, seals)
		d, err := ReadDocument(bytes.NewReader(written(t, l.doc)))
		require.NoError(t, err)
		require.Len(t, d.Events, (seals+2)/3)
		require.NoError(t, d.Check(CheckOptions{}))
		require.NoError(t, d.Check(CheckOptions{Key: d.PublicKey, Old: l.heads[seals-1]}))
		require.ErrorIs(t, d.Check(CheckOptions{Key: bytes.Repeat([]byte{1}, 32)}), ErrKey)
	}
}

// What was erased since is proved by the same paths.
func TestAnErasedPayloadIsProvedToo(t *testing.T) {
	t.Parallel()
	l := newLog(t, 4)
	require.Contains(t, l.doc.Events[0].Data, `"payload":{"a":1}`)
	l.doc.Events[0].Data = strings.Replace(l.doc.Events[0].Data, `{"a":1}`, `null,"erasedSha256":"015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"`, 1)
	require.NoError(t, l.doc.Check(CheckOptions{}))
	l.doc.Events[0].Data = strings.Replace(l.doc.Events[0].Data, "015a", "115a", 1)
	require.ErrorContains(t, l.doc.Check(CheckOptions{}), "events[0]: seal 0 does not have this event")
}

// leaf is a value in a file, and how to change it.
type leaf struct {
	path string
	set  func(any)
	old  any
}

// leavesOf lists all values of a decoded JSON document.
func leavesOf(path string, value any, set func(any)) []leaf {
	var out []leaf
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			out = append(out, leavesOf(path+"."+name, member, func(x any) { v[name] = x })...)
		}
	case []any:
		for i, member := range v {
			out = append(out, leavesOf(fmt.Sprintf("%s[%d]", path, i), member, func(x any) { v[i] = x })...)
		}
	default:
		out = append(out, leaf{path, set, value})
	}
	return out
}

// Whatever is changed in a file is refused, and the error names the part of it.
func TestEveryFieldOfAFileIsProved(t *testing.T) {
	t.Parallel()
	l := newLog(t, 11)
	l.since(t, 5)
	file := written(t, l.doc)
	var tree any
	require.NoError(t, json.Unmarshal(file, &tree))
	changed := 0
	for _, at := range leavesOf("", tree, nil) {
		var others []any
		switch old := at.old.(type) {
		case float64:
			others = []any{old + 1, old - 1, old + 1000, -old - 1}
		case string:
			for _, i := range []int{0, len(old) / 2} {
				other := []byte(old)
				other[i] = map[bool]byte{true: '1', false: '0'}[other[i] == '0']
				others = append(others, string(other))
			}
			others = append(others, "", old+"0")
		}
		require.NotEmpty(t, others, at.path)
		for _, other := range others {
			at.set(other)
			tampered, err := json.Marshal(tree)
			require.NoError(t, err)
			d, err := ReadDocument(bytes.NewReader(tampered))
			if err == nil {
				err = d.Check(CheckOptions{Old: l.heads[4]})
			}
			require.Error(t, err, "%s: %v", at.path, other)
			part := strings.TrimPrefix(at.path, ".")
			if end := strings.IndexAny(part, ".["); end > 0 {
				part = part[:end]
			}
			require.Contains(t, err.Error(), part, "%s: %v", at.path, other)
			changed++
		}
		at.set(at.old)
	}
	require.Greater(t, changed, 200)
	again, err := json.Marshal(tree)
	require.NoError(t, err)
	d, err := ReadDocument(bytes.NewReader(again))
	require.NoError(t, err)
	require.NoError(t, d.Check(CheckOptions{Old: l.heads[4]}))
}

func TestWhatIsLeftOutOrAddedIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(d *Document)
		says   string
	}{
		"no events":              {func(d *Document) { d.Events = nil }, "events: there are none"},
		"an event without seal":  {func(d *Document) { d.Seals = d.Seals[1:] }, "events[0].seal: seal 0 is not in the file"},
		"a seal without event":   {func(d *Document) { d.Events = slices.Delete(d.Events, 1, 2) }, "seals[1]: seal 3 has none of the events"},
		"an event twice":         {func(d *Document) { d.Events = slices.Insert(d.Events, 1, d.Events[0]) }, "events[1].position"},
		"events in other order":  {func(d *Document) { d.Events[0], d.Events[1] = d.Events[1], d.Events[0] }, "events[1].position"},
		"a seal twice":           {func(d *Document) { d.Seals = append(d.Seals, d.Seals[0]) }, "seals[4].n: stands twice"},
		"another message":        {func(d *Document) { d.MessageID = topicID }, "events[0]: data: is about another message"},
		"a longer path":          {func(d *Document) { d.Events[0].Path = append(d.Events[0].Path, d.Head.Root) }, "events[0]: seal 0 does not have"},
		"no signature":           {func(d *Document) { d.Head.Signature = nil }, "head: is not what publicKey signed"},
		"another's signature":    {func(d *Document) { d.PublicKey = bytes.Repeat([]byte{1}, 32) }, "head: is not what publicKey signed"},
		"half a key":             {func(d *Document) { d.PublicKey = d.PublicKey[1:] }, "publicKey: has 31 bytes"},
		"an id in another case":  {func(d *Document) { d.Events[0].ID = strings.ToUpper(d.Events[0].ID) }, "events[0]: id"},
		"growth from nothing":    {func(d *Document) { d.Since.Size = 0 }, "since: is not what publicKey signed"},
		"growth without a proof": {func(d *Document) { d.Since.Proof = nil }, "since: the log did not grow from there"},
	} {
		l := newLog(t, 11)
		l.since(t, 5)
		tc.change(&l.doc)
		require.ErrorContains(t, l.doc.Check(CheckOptions{}), tc.says, name)
	}
}

// An earlier head that was kept shows that a log was cut or written anew.
func TestAnEarlierHeadShowsWhatBecameOfTheLog(t *testing.T) {
	t.Parallel()
	l, other := newLog(t, 11), newLog(t, 14)
	for size := range int64(11) {
		l.since(t, size+1)
		require.NoError(t, l.doc.Check(CheckOptions{Old: l.heads[size]}))
	}
	l.since(t, 5)
	require.EqualError(t, l.doc.Check(CheckOptions{Old: other.heads[13]}), "head.size: is 11, and the log had 14 seals before: it was cut")
	require.EqualError(t, l.doc.Check(CheckOptions{Old: l.heads[6]}), "since: proves nothing from size 7 on: make the file with --since and that head")
	rewritten := l.heads[4]
	rewritten.Root[0]++
	require.EqualError(t, l.doc.Check(CheckOptions{Old: rewritten}), "the earlier head is not signed by the file's key")
	require.EqualError(t, l.doc.Check(CheckOptions{Old: rewritten.Sign(l.key)}), "the log had another root at size 5 before: what it had was changed")
	stranger := l.heads[4]
	stranger.Shard++
	require.EqualError(t, l.doc.Check(CheckOptions{Old: stranger.Sign(l.key)}), "the earlier head is another log's")
	// The signer itself wrote its log anew: it signs the new one, but cannot prove growth.
	l.doc.Since.Root, l.doc.Since.Signature = rewritten.Root, rewritten.Sign(l.key).Signature
	require.ErrorContains(t, l.doc.Check(CheckOptions{Old: rewritten.Sign(l.key)}), "since: the log did not grow from there")
}

func TestAFileThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	file := string(written(t, newLog(t, 1).doc))
	for _, text := range []string{"", "{", "[]", "null", file + file, strings.Replace(file, `"format"`, `"more": 1, "format"`, 1), strings.Replace(file, `"format"`, `"format": "", "format"`, 1)} {
		_, err := ReadDocument(strings.NewReader(text))
		require.Error(t, err, text)
	}
	_, err := ReadDocument(strings.NewReader(strings.Replace(file, FormatProof, "x", 1)))
	require.EqualError(t, err, `format: is "x", and this program reads "tallymq-proof/1"`)
	_, err = ReadHeads(strings.NewReader(file))
	require.Error(t, err)
}

func TestHeadsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	l := newLog(t, 3)
	heads := Heads{Format: FormatHeads, PublicKey: l.doc.PublicKey, Heads: l.heads}
	got, err := ReadHeads(bytes.NewReader(written(t, heads)))
	require.NoError(t, err)
	require.Equal(t, heads, got)
	head, has := got.Of(tenantID, 3)
	require.True(t, has)
	require.True(t, head.IsSignedBy(l.doc.PublicKey))
	require.Equal(t, "tallymq/"+tenantID+"/3\n1\n"+head.Root.String()+"\n", string(head.Text()))
	_, has = got.Of(tenantID, 4)
	require.False(t, has)
}

// FuzzReadDocument: no file panics when it is read and checked.
func FuzzReadDocument(f *testing.F) {
	l := newLog(f, 4)
	l.since(f, 2)
	f.Add(written(f, l.doc))
	f.Add([]byte(`{"format":"tallymq-proof/1","events":[{"path":null}],"seals":[{"n":9223372036854775807}],"head":{"size":-1}}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		d, err := ReadDocument(bytes.NewReader(file))
		if err != nil {
			return
		}
		if d.Check(CheckOptions{Key: l.doc.PublicKey}) == nil {
			require.Equal(t, l.doc.Head, d.Head, "only what the key signed is good")
		}
	})
}
