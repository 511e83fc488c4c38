package projections

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every fault that is planted is found, and named for what it is.
func TestVerifyNamesFaults(t *testing.T) {
	t.Parallel()
	const (
		firstMessage = `(SELECT min(message_id) FROM message_records)`
		firstAttempt = `(SELECT min(id::text)::uuid FROM consumption_records)`
		noKey        = `ALTER TABLE consumption_records DROP CONSTRAINT consumption_records_pkey`
		noHistoryKey = `ALTER TABLE event_history DROP CONSTRAINT event_history_pkey`
	)
	for name, tc := range map[string]struct {
		faults []string
		// table is where it is found, "" for history and checkpoints.
		table string
		want  []string
	}{
		"a changed row": {
			[]string{`UPDATE message_records SET retry_count = 77, producer_id = NULL WHERE message_id = ` + firstMessage},
			"message_records",
			[]string{"changed message_id 0", `producer_id "p" -> null; retry_count`, ` -> 77`},
		},
		"a changed count":   {[]string{`UPDATE topic_counts SET published = 0`}, "topic_counts", []string{"changed topic_id 0", "published 10 -> 0"}},
		"a changed topic":   {[]string{`UPDATE message_topics SET is_public = true`}, "message_topics", []string{"changed id 0", "is_public false -> true"}},
		"a deleted row":     {[]string{`DELETE FROM consumption_records WHERE id = ` + firstAttempt}, "consumption_records", []string{"deleted message_id 0", ", id ", `"status"`}},
		"a deleted message": {[]string{`DELETE FROM message_records WHERE message_id = ` + firstMessage}, "message_records", []string{"deleted message_id 0"}},
		"an added row":      {[]string{`INSERT INTO group_counts SELECT topic_id, 'ghost', 0, 0, 0, 0, 0, 0, 0 FROM topic_counts`}, "group_counts", []string{"added topic_id 0", "consumer_group ghost, which no event says"}},
		"a doubled row":     {[]string{noKey, `INSERT INTO consumption_records SELECT * FROM consumption_records WHERE id = ` + firstAttempt}, "consumption_records", []string{"doubled message_id 0", "it stands there again"}},
		"a row doubled under another key": {
			[]string{`INSERT INTO consumption_records SELECT (jsonb_populate_record(c, '{"id":"00000000-0000-0000-0000-00000000000f"}')).* FROM consumption_records c WHERE id = ` + firstAttempt},
			"consumption_records",
			[]string{"doubled message_id 0", `again as {"id": "00000000-0000-0000-0000-00000000000f"`},
		},
		"a message doubled under another id": {
			[]string{`INSERT INTO message_records SELECT (jsonb_populate_record(m, '{"message_id":"zzz"}')).* FROM message_records m WHERE message_id = ` + firstMessage},
			"message_records",
			[]string{"doubled message_id 0", `"message_id": "zzz"`},
		},
		"a checkpoint that moved ahead": {
			[]string{`UPDATE projection_checkpoints SET position = position + (1 << 20)`},
			"",
			[]string{"the checkpoint of shard 0 is ahead: it is at ", "what is between is never folded"},
		},
		"a checkpoint that moved back": {
			[]string{`UPDATE projection_checkpoints SET position = position - 1`},
			"",
			[]string{"the checkpoint of shard 0 is behind: it is at ", "would be folded twice"},
		},
		"a checkpoint that is gone":        {[]string{`DELETE FROM projection_checkpoints`}, "", []string{"the checkpoint of shard 0 is missing, and its history ends at "}},
		"a checkpoint of no shard":         {[]string{`INSERT INTO projection_checkpoints (projection, shard, position) VALUES ('read', 7, 1)`}, "", []string{"there is a checkpoint of shard 7, and the store has shards 0 to 0"}},
		"an event lost at the end":         {[]string{`DELETE FROM event_history WHERE position = (SELECT max(position) FROM event_history)`}, "", []string{"the checkpoint of shard 0 is ahead"}},
		"an event doubled as it stands":    {[]string{noHistoryKey, `INSERT INTO event_history SELECT * FROM event_history WHERE scope = 'message' ORDER BY position LIMIT 1`}, "", []string{"stands in history 2 times: at 0/"}},
		"an event doubled somewhere else":  {[]string{`INSERT INTO event_history SELECT (jsonb_populate_record(h, jsonb_build_object('position', position + 1))).* FROM event_history h WHERE scope = 'message' ORDER BY position LIMIT 1`}, "", []string{"stands in history 2 times: at 0/"}},
		"two events at one position":       {[]string{`UPDATE event_history SET position = (SELECT min(position) FROM event_history WHERE scope = 'admin') WHERE scope = 'message' AND position = (SELECT min(position) FROM event_history WHERE scope = 'message')`}, "", []string{"has 2 events: "}},
		"an event that was moved":          {[]string{`UPDATE event_history SET position = position + (7 << 20) WHERE position = (SELECT max(position) FROM event_history)`}, "", []string{"was moved: it occurred at "}},
		"an event of a shard there is not": {[]string{`UPDATE event_history SET shard = 9 WHERE position = (SELECT max(position) FROM event_history)`}, "", []string{"stands at 9/", "the store has shards 0 to 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.foldAll(t, life(t, 10, 8), 1000)
			require.True(t, b.verify(t, 1000).OK())
			b.exec(t, tc.faults...)
			report := b.verify(t, 1000)
			require.False(t, report.OK())
			found := strings.Join(report.Faults, "\n")
			for _, r := range report.Tables {
				if r.Table == tc.table {
					found = strings.Join(r.Examples, "\n")
					require.Equal(t, int64(1), max(r.Missing, r.Unexpected), r.Examples)
				} else if tc.table != "" {
					require.Empty(t, r.Examples, r.Table)
				}
			}
			for _, want := range tc.want {
				require.Contains(t, found, want)
			}
		})
	}
}
