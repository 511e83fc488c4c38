package queries

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/Masterminds/squirrel"
)

// positionTimeBits is how far a position's milliseconds are shifted: a time is a range of
// positions.
const positionTimeBits = 20

// positionAt is the least position of a time or later.
func positionAt(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	if ms < 0 {
		return 0
	}
	return min(ms, math.MaxInt64>>positionTimeBits) << positionTimeBits
}

// PositionTime is when the event at a position was appended, by the log's clock.
func PositionTime(position int64) time.Time {
	return time.UnixMilli(position >> positionTimeBits).UTC()
}

// DeadLetter is a row of dead_letters, with what its message's record says where the
// tenant may see that and retention has kept it.
type DeadLetter struct {
	MessageID string
	Partition int
	Offset    int64
	// Attempt is the number of the attempt that was the last, Attempts how many there
	// were since the message came to the group or was redriven.
	Attempt, Attempts int
	Reason            string
	Error             *string
	StatusCode        *int
	DeadAt            time.Time
	Position          int64
	Key               *string
	Headers           map[string]string
	PayloadSize       *int
	ContentType       *string
	PublishedAt       *time.Time
}

// DeadLetterFilter narrows a list of dead letters; zero fields do not.
type DeadLetterFilter struct {
	Reason string
	// From and To bound when the message died: From included, To not.
	From, To time.Time
}

// DeadLetters lists the dead letters of a consumer group of a topic that were not
// redriven, the oldest first. The group is named as in deliveries: see [GroupOf]. The key
// of a page is the last position. The index has the group's letters in that order, times
// included; a reason that hardly any letter has reads more. Records are read for the page
// alone, by their primary key.
func DeadLetters(ctx context.Context, db DB, tenantID, topicID, group string, f DeadLetterFilter, page Page) (list []DeadLetter, next bool, err error) {
	letters := squirrel.Select("*").From("dead_letters").
		Where("topic_id = ?::text::uuid AND consumer_group = ? AND tenant_id = ?::text::uuid", topicID, group, tenantID).
		OrderBy("position").Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if f.Reason != "" {
		letters = letters.Where(squirrel.Eq{"reason": f.Reason})
	}
	if !f.From.IsZero() {
		letters = letters.Where(squirrel.GtOrEq{"position": positionAt(f.From)})
	}
	if !f.To.IsZero() {
		letters = letters.Where(squirrel.Lt{"position": positionAt(f.To)})
	}
	if len(page.After) > 0 {
		after, err := strconv.ParseInt(page.After[0], 10, 64)
		if err != nil {
			return nil, false, fmt.Errorf("query dead letters: %w", err)
		}
		letters = letters.Where(squirrel.Gt{"position": after})
	}
	q := sq.Select("d.message_id", "d.partition_id", "d.offset_value", "d.attempt", "d.attempt - d.attempts_before", "d.reason", "d.error_message",
		"d.status_code", "d.dead_at", "d.position", "m.message_key", "m.headers", "m.payload_size", "m.content_type", "m.published_at").
		FromSelect(letters, "d").LeftJoin("message_records m ON m.message_id = d.message_id AND m.tenant_id = ?::text::uuid", tenantID).OrderBy("d.position")
	list, err = collect[DeadLetter](ctx, db, "dead letters", q)
	list, next = more(list, page.Limit)
	return list, next, err
}
