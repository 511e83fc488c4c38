package projections

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// historyChecks find what no log could have written, each named in words.
var historyChecks = []string{
	`SELECT format('event %s stands in history %s times: at %s', event_id, count(*), string_agg(shard || '/' || position, ', ' ORDER BY shard, position))
	FROM event_history GROUP BY event_id HAVING count(*) > 1 ORDER BY event_id LIMIT $1`,
	`SELECT format('position %s/%s has %s events: %s', shard, position, count(*), string_agg(event_id::text, ', ' ORDER BY event_id))
	FROM event_history GROUP BY shard, position HAVING count(*) > 1 AND count(DISTINCT event_id) > 1 ORDER BY shard, position LIMIT $1`,
	`SELECT format('event %s at %s/%s was moved: it occurred at %s, which is not when its position says', event_id, shard, position, to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
	FROM event_history WHERE occurred_at <> 'epoch'::timestamptz + (position >> 20) * interval '1 millisecond' ORDER BY shard, position LIMIT $1`,
}

// checkHistory names what is wrong with the history itself.
func checkHistory(ctx context.Context, q Querier, shards int) ([]string, error) {
	var faults []string
	for _, sql := range historyChecks {
		found, err := texts(ctx, q, sql, differencesShown)
		if err != nil {
			return nil, fmt.Errorf("verify history: %w", err)
		}
		faults = append(faults, found...)
	}
	found, err := texts(ctx, q, `SELECT format('event %s stands at %s/%s, and the store has shards 0 to %s', event_id, shard, position, $1::int - 1)
		FROM event_history WHERE shard >= $1::int OR shard < 0 ORDER BY shard, position LIMIT $2`, shards, differencesShown)
	if err != nil {
		return nil, fmt.Errorf("verify history: %w", err)
	}
	return append(faults, found...), nil
}

// checkCheckpoints names checkpoints that are not where their shard's history ends.
// Retention may have dropped the end of the history of a shard of which nothing was
// heard since.
func checkCheckpoints(ctx context.Context, tx pgx.Tx, shards int, horizon time.Time) ([]string, error) {
	last, err := ends(ctx, tx, shards)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT shard, position FROM projection_checkpoints WHERE projection = $1`, Name)
	if err != nil {
		return nil, fmt.Errorf("verify checkpoints: %w", err)
	}
	at := map[int]events.Position{}
	var shard int
	var position int64
	_, err = pgx.ForEachRow(rows, []any{&shard, &position}, func() error {
		at[shard] = events.Position(position)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify checkpoints: %w", err)
	}
	var faults []string
	for _, shard := range slices.Sorted(maps.Keys(at)) {
		if _, there := last[shard]; !there {
			faults = append(faults, fmt.Sprintf("there is a checkpoint of shard %d, and the store has shards 0 to %d", shard, shards-1))
		}
	}
	for shard := range shards {
		checkpoint, there := at[shard]
		end := last[shard]
		switch {
		case !there && end > 0:
			faults = append(faults, fmt.Sprintf("the checkpoint of shard %d is missing, and its history ends at %d", shard, end))
		case checkpoint > end && (horizon.IsZero() || checkpoint.Time().After(horizon)):
			faults = append(faults, fmt.Sprintf("the checkpoint of shard %d is ahead: it is at %d (%s), and history ends at %d (%s): what is between is never folded",
				shard, checkpoint, stamp(checkpoint), end, stamp(end)))
		case checkpoint < end:
			faults = append(faults, fmt.Sprintf("the checkpoint of shard %d is behind: it is at %d (%s), and history goes on to %d (%s): what is between would be folded twice",
				shard, checkpoint, stamp(checkpoint), end, stamp(end)))
		}
	}
	return faults, nil
}

func stamp(p events.Position) string { return p.Time().Format("2006-01-02T15:04:05.000Z") }
