package projections

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// folded notes which messages the tables have.
func (c *chaos) folded(batch []events.Record) {
	if c.accepted == nil {
		c.accepted = map[string]*commands.StoredMessage{}
	}
	accept := func(r events.Record, e events.MessagePublished, offset int64) {
		c.accepted[e.MessageID] = &commands.StoredMessage{
			MessageID: e.MessageID, TopicID: e.TopicID, TenantID: tenant, Position: r.Position, Partition: e.Partition, Offset: offset, Key: e.Key,
			PayloadBytes: int64(len(e.Payload)),
		}
	}
	for _, r := range batch {
		if e, ok := r.Event.(events.MessagePublished); ok {
			accept(r, e, e.Offset)
		}
		if e, ok := r.Event.(events.MessageScheduled); ok {
			accept(r, e.MessagePublished, events.OffsetScheduled)
		}
		if e, ok := r.Event.(events.MessageReleased); ok {
			c.accepted[e.MessageID].Offset = e.Offset
		}
		if e, ok := r.Event.(events.MessageCancelled); ok {
			c.accepted[e.MessageID].Offset = events.OffsetNever
		}
	}
}

// erase erases one of the newest messages that the tables have.
func (c *chaos) erase() {
	ids := slices.Sorted(maps.Keys(c.accepted))
	if len(ids) == 0 {
		return
	}
	id := ids[len(ids)-1-c.rng.IntN(min(len(ids), 60))]
	_, err := c.EraseMessage(c.t.Context(), c.caller, commands.EraseMessage{Message: *c.accepted[id]})
	if err != nil {
		require.ErrorContains(c.t, err, string(commands.CodeUnavailable)) // it was released since
		return
	}
	c.erased++
}

// retain takes away what is a moment old.
func (c *chaos) retain() {
	cmd := commands.Retain{TopicID: c.topicID, TenantID: tenant, From: "0", UpTo: newID(c.t), Before: time.Now().Add(-time.Duration(c.rng.IntN(100)) * time.Millisecond)}
	a, err := c.log.TopicByID(c.t.Context(), c.topicID)
	require.NoError(c.t, err)
	cmd.TopicVersion = a.Version
	for range 2 {
		unsettledFrom, isDone, err := c.Retain(c.t.Context(), cmd)
		if isDone {
			require.True(c.t, commands.IsUnavailable(err), "it is not folded yet")
			c.retained++
			return
		}
		require.NoError(c.t, err)
		if unsettledFrom.IsZero() {
			return
		}
		cmd.Before = unsettledFrom
	}
}

// publishOf is the record that published a message.
func (h *history) publishOf(messageID string) events.Record {
	h.t.Helper()
	for _, r := range h.records {
		if r.ID == messageID {
			return r
		}
	}
	require.FailNow(h.t, "no such message")
	return events.Record{}
}

func (h *history) erased(m events.MessagePublished, discarded events.Discarded) {
	h.t.Helper()
	at := h.publishOf(m.MessageID).Position
	h.add(events.MessageErased{
		MessageID: m.MessageID, TopicID: h.topicID, Entry: fmt.Sprintf("%d-%d", at.Ms(), at.Seq()), PayloadBytes: int64(len(m.Payload)), Reason: "r", Discarded: discarded,
	}, newID(h.t), 0)
}

// shortened is a life in which payloads are erased and old messages go now and then.
func shortened(t *testing.T, n int, seed uint64) *history {
	h := life(t, n, seed)
	rng := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a test's dice
	records := h.records
	h.records, h.at = nil, records[0].Position-1
	var published []events.MessagePublished
	for _, r := range records {
		h.at += 1 << 20
		r.Position = h.at
		h.records = append(h.records, r)
		if m, ok := r.Event.(events.MessagePublished); ok {
			published = append(published, m)
		}
		if len(published) == 0 {
			continue
		}
		switch m := published[rng.IntN(len(published))]; rng.IntN(12) {
		case 0:
			h.erased(m, events.Discarded{})
		case 1:
			h.erased(m, events.Discarded{Groups: map[string]int64{"g0": 1}})
		case 2:
			if rng.IntN(3) == 0 {
				h.add(events.TopicRetained{TopicID: h.topicID, BeforeMs: h.publishOf(m.MessageID).Position.Ms(), From: published[rng.IntN(len(published))].MessageID, UpTo: m.MessageID}, newID(t), 1)
			}
		}
	}
	return h
}

// Erasing and retention fold the same in batches of any size, as they happen and again from
// a history that they have changed.
func TestErasedMessagesFoldTheSameInAnyBatch(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		h := shortened(t, 50, seed)
		one := setup(t)
		one.foldAll(t, h, 1)
		want := one.dump(t)
		require.Less(t, len(want["message_records"]), 50, "some are gone")
		require.NotEmpty(t, want["message_records"])
		require.Contains(t, strings.Join(want["message_records"], ""), `"erased_at": "`)
		for _, size := range []int{2, 7, 1000} {
			b := setup(t)
			b.foldAll(t, h, size)
			require.Equal(t, want, b.dump(t), "batches of %d", size)
			for _, batch := range []uint64{1, 13, 5000} {
				report := b.verify(t, batch)
				require.True(t, report.OK(), "%+v", report)
			}
		}
	}
}

func TestAnErasedMessageLosesItsPayloadAndNothingElse(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 2)
	m := h.publish()
	h.publish()
	h.add(events.MessageConsumed{Delivery: h.delivery(m, 0, 1)}, newID(t), 0)
	b := setup(t)
	b.foldAll(t, h, 10)
	before := b.dump(t)
	h.records = nil
	var at int64
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT position FROM message_records WHERE message_id = $1`, m.MessageID).Scan(&at))
	h.add(events.MessageErased{
		MessageID: m.MessageID, TopicID: h.topicID, Entry: fmt.Sprintf("%d-%d", events.Position(at).Ms(), events.Position(at).Seq()), PayloadBytes: int64(len(m.Payload)),
	}, newID(t), 0)
	b.foldAll(t, h, 10)
	after := b.dump(t)
	require.Len(t, after["event_history"], len(before["event_history"])+1)
	for table, rows := range before {
		for _, row := range rows {
			if !slices.Contains(after[table], row) {
				require.Contains(t, []string{"event_history", "message_records"}, table)
				require.Contains(t, row, m.MessageID)
				require.Contains(t, row, "1.5")
			}
		}
	}
	all := fmt.Sprint(after)
	require.Equal(t, 2, strings.Count(all, "1.50"), "the other one's event and row")
	var size, status string
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT payload_size::text, status FROM message_records WHERE message_id = $1 AND payload IS NULL AND erased_at IS NOT NULL`, m.MessageID).
		Scan(&size, &status))
	require.Equal(t, []string{fmt.Sprint(len(m.Payload)), "consumed"}, []string{size, status})
	require.True(t, b.verify(t, 3).OK())
}

// The schema's erase_payload and events.Erase are the same, byte for byte.
func TestPostgresErasesAsTheProgramDoes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var kinds, data []string
	add := func(e events.Event, value string) {
		frame, err := events.Encode(e)
		require.NoError(t, err)
		kinds, data = append(kinds, string(e.Kind())), append(data, string(frame.Join(value)))
	}
	for _, payload := range []string{
		`1`, `null`, `"x"`, `""`, `{}`, `[ ]`, "{ \"a\" :\t[1.50,\n12345678901234567890] }", `"é\u00e9\"\\"`, `",\"offset\":3}"`, `{"payload":1,"offset":7}`,
		`{"erasedSha256":"x"}`, `"mqenc1:k:abc"`, ` 1 `, "\n{}\t", `"` + strings.Repeat("ä", 5000) + `"`,
	} {
		m := events.MessagePublished{
			MessageID: newID(t), TopicID: newID(t), Key: `"payload":1`, Headers: map[string]string{`"payload"`: `,"payload":2,"offset":3}`, "payload": "4"},
			ContentType: "t", Sealed: strings.HasPrefix(payload, `"mqenc`), Payload: json.RawMessage(payload),
		}
		add(m, "42")
		add(events.MessageScheduled{MessagePublished: m}, "1767323045006")
	}
	add(events.MessageConsumed{Delivery: events.Delivery{MessageID: newID(t)}}, "")
	add(events.ScheduleCreated{ScheduleConfig: events.ScheduleConfig{Payload: json.RawMessage(`1`)}}, "")
	for n := range data {
		want, _, err := events.Erase(events.Kind(kinds[n]), []byte(data[n]))
		require.NoError(t, err)
		var got, again string
		require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT e::text, erase_payload($1, e)::text FROM erase_payload($1, $2::text::json) e`, kinds[n], data[n]).Scan(&got, &again))
		require.Equal(t, string(want), got, data[n])
		require.Equal(t, string(want), again)
	}
	// what the log never wrote is erased all the same
	var got string
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT erase_payload('message.published', '{"payload": "secret", "offset": 3, "x": 1}')::text`).Scan(&got))
	require.NotContains(t, got, "secret")
	require.Contains(t, got, "erasedSha256")
}

// What erasing and retention do costs index look-ups, whatever a table holds.
func TestErasureReadsIndexes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const topic = "00000000-0000-0000-0000-0000000000aa"
	for _, sql := range []string{
		`INSERT INTO message_records (message_id, id, topic_id, tenant_id, shard, position, published_at)
			SELECT '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), gen_random_uuid(), ('00000000-0000-0000-0000-0000000000' || CASE WHEN n % 10 = 0 THEN 'aa' ELSE 'bb' END)::uuid,
			'` + tenant + `', 0, n::bigint << 20, 'epoch'::timestamptz + n * interval '1 ms' FROM generate_series(1, 50000) n`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
			SELECT 0, n::bigint << 20, 'message', gen_random_uuid(), 'message.published', '` + tenant + `', '` + topic + `',
			'00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 0, now(), '{}', '{"payload":1,"offset":0}' FROM generate_series(1, 50000) n`,
		`INSERT INTO consumption_records (id, subscription_id, message_id, consumer_instance, status, tenant_id, attempt)
			SELECT gen_random_uuid(), gen_random_uuid(), '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'c', 'success', '` + tenant + `', 1 FROM generate_series(1, 50000) n`,
		`INSERT INTO dead_letters (topic_id, consumer_group, message_id, attempt, attempts_before, subscription_id, tenant_id, partition_id, offset_value, reason, dead_at, position)
			SELECT gen_random_uuid(), 'g', '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 1, 0, gen_random_uuid(), '` + tenant + `', 0, n, 'nack', now(), n::bigint << 20 FROM generate_series(1, 20000) n`,
		`ANALYZE`,
	} {
		_, err := b.pool.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	explain := func(sql string, args ...any) string {
		rows, err := b.pool.Query(t.Context(), "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) "+sql, args...)
		require.NoError(t, err)
		var lines []string
		for rows.Next() {
			var line string
			require.NoError(t, rows.Scan(&line))
			lines = append(lines, line)
		}
		require.NoError(t, rows.Err())
		return strings.Join(lines, "\n")
	}
	const upTo = "00000000-0000-7000-8000-000000005000"
	until := time.UnixMilli(1_000_000).UTC()
	args := []any{tenant, topic, upTo, until, "00000000-0000-7000-8000-000000000000"}
	for name, plan := range map[string]string{
		"erase history":      explain(eraseHistory, []int64{7 << 20}, []string{"00000000-0000-7000-8000-000000000007"}, 0, int64(7<<20), int64(7<<20)),
		"erase messages":     explain(eraseMessages, []string{upTo}, []time.Time{until}, []int32{1}, upTo, upTo),
		"retain history":     explain(retainHistory, args...),
		"retain letters":     explain(retainLetters, args...),
		"retain consumption": explain(retainConsumptions, args...),
		"retain messages":    explain(retainMessages, args...),
	} {
		for line := range strings.SplitSeq(plan, "\n") {
			if strings.Contains(line, "Seq Scan") { // of a day's partition that has nothing, or is not looked at
				require.Regexp(t, `never executed|actual rows=0`, line, "%s:\n%s", name, plan)
			}
		}
		require.Contains(t, plan, "Index", name)
		t.Log(name + "\n" + plan)
	}
}
