package queries

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Reading the past: what a query answers as of a position is what it would have answered
// when the read tables stood there. It is folded from event_history by the rules of the
// projections; what never changes about a message is read from its record.

// ErrGone reports that retention has dropped what the answer would be made of.
var ErrGone = errors.New("history does not reach back that far")

// asOfExamineMax is how many items of a list one page of the past looks at: where few of
// them pass its filter, the page is short and says where to go on.
const asOfExamineMax = 10_000

// AsOf says as of where a question about the past is. Each shard is read up to Position
// or, where less of it is folded, as far as it is.
type AsOf struct {
	Position int64
	// Folded is by shard how far each is folded.
	Folded []int64
	// Kept is the position since which events of messages are kept, 0 where none were
	// dropped.
	Kept int64
}

// Of is the position of a shard as of which an answer is.
func (a AsOf) Of(shard int) int64 {
	if shard >= len(a.Folded) {
		return 0
	}
	return min(a.Position, a.Folded[shard])
}

// Shards are the positions of all shards.
func (a AsOf) Shards() []int64 {
	upTo := make([]int64, len(a.Folded))
	for shard := range upTo {
		upTo[shard] = a.Of(shard)
	}
	return upTo
}

// Last is the position as of which an answer over all shards is: the greatest of theirs.
func (a AsOf) Last() int64 {
	if len(a.Folded) == 0 {
		return 0
	}
	return slices.Max(a.Shards())
}

// PositionUntil is the last position of a time or earlier.
func PositionUntil(t time.Time) int64 {
	return positionAt(time.UnixMilli(t.UnixMilli()).Add(time.Millisecond)) - 1
}

// PositionFrom is the first position of a time or later.
func PositionFrom(t time.Time) int64 { return positionAt(t) }

// Folded returns how far each shard is folded now, by shard.
func Folded(ctx context.Context, db DB) ([]int64, error) {
	type head struct {
		Shard    int
		Position int64
	}
	list, err := collect[head](ctx, db, "how far is folded", sq.Select("shard", "position").From("feed_heads()").OrderBy("shard"))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	folded := make([]int64, list[len(list)-1].Shard+1)
	for _, h := range list {
		folded[h.Shard] = h.Position
	}
	return folded, nil
}

// walk reads a list in pieces and keeps of each piece what passes, until it has a page.
// keyOf is an item's key. next is the key of where the list goes on, "" at its end.
func walk[T any](page Page, piece int, read func(after []string, limit int) ([]T, error), pass func([]T) ([]T, error), keyOf func(T) string) (list []T, next string, err error) {
	after := page.After
	for examined := 0; ; {
		candidates, err := read(after, piece)
		if err != nil {
			return nil, "", err
		}
		passed, err := pass(candidates)
		if err != nil {
			return nil, "", err
		}
		list = append(list, passed...)
		examined += len(candidates)
		switch {
		case len(list) > page.Limit:
			return list[:page.Limit], keyOf(list[page.Limit-1]), nil
		case len(candidates) < piece:
			return list, "", nil
		}
		last := keyOf(candidates[len(candidates)-1])
		if examined >= asOfExamineMax {
			return list, last, nil
		}
		after = []string{last}
	}
}
