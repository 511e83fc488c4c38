package queries

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/Masterminds/squirrel"
)

// feedExamineMax is how many events of a shard one query of a narrowed feed looks
// at: however few pass the filter, a query costs the same and the reader gets on.
const feedExamineMax = 10_000

// FeedFilter narrows the feed; zero fields do not, but for the tenant: a feed is one
// tenant's unless AllTenants says otherwise.
type FeedFilter struct {
	TenantID   string
	AllTenants bool
	Kinds      []string
	MessageID  string
	// TopicID is a queue's id and TopicShard the shard that has its events.
	TopicID    string
	TopicShard int
}

// FeedEvent is a row of event_history as the feed has it.
type FeedEvent struct {
	Shard          int
	Position       int64
	ID             string
	Kind           string
	TenantID       string
	TopicID        *string
	SubscriptionID *string
	MessageID      *string
	OccurredAt     time.Time
	Actor          string
	TraceParent    string
	Data           json.RawMessage
}

// FeedLimits bound a page. A single event of more than Bytes still goes, alone.
type FeedLimits struct{ Events, Bytes int }

// FeedPage is a part of the feed: the events in order, and how far each shard was
// looked at. Places in the feed are one position per shard: all up to it was read.
type FeedPage struct {
	Events []FeedEvent
	// CaughtUp reports that nothing more was there.
	CaughtUp bool

	from, upTo []int64
	full       bool
}

// Place returns the place right behind the page's event i: reading goes on from there
// without a gap and without meeting an event again.
func (p FeedPage) Place(i int) []int64 {
	place := slices.Clone(p.from)
	last := p.Events[i]
	for shard := range place {
		// A page is in the order of position and shard.
		at := last.Position
		if shard > last.Shard {
			at--
		}
		place[shard] = max(place[shard], min(p.upTo[shard], at))
	}
	return place
}

// End returns the place behind the whole page.
func (p FeedPage) End() []int64 {
	if p.full {
		return p.Place(len(p.Events) - 1)
	}
	place := slices.Clone(p.from)
	for shard := range place {
		place[shard] = max(place[shard], p.upTo[shard])
	}
	return place
}

// feedRow is an event, or with Window set a shard: Position is then how far it was
// looked at, Head how far it is folded, and Found how many events the page had before
// it was cut to size.
type feedRow struct {
	FeedEvent

	Window bool
	Head   int64
	Found  int
}

// Feed returns what stands behind a place (a position per shard), by position and
// shard, in one round trip. A shard's events come in the order of its log and without
// gaps, because a projector commits them in that order together with its checkpoint,
// which the same snapshot has.
//
// It reads a page of each shard from the index in order. Where a filter has no index
// of its own, it looks at feedExamineMax events of a shard, and an empty page may not
// be the end: see CaughtUp.
func Feed(ctx context.Context, db DB, f FeedFilter, from []int64, limits FeedLimits) (FeedPage, error) {
	q, err := f.query(from, limits)
	if err != nil {
		return FeedPage{}, fmt.Errorf("query feed: %w", err)
	}
	rows, err := collect[feedRow](ctx, db, "feed", q)
	if err != nil {
		return FeedPage{}, err
	}
	page := FeedPage{Events: make([]FeedEvent, 0, len(rows)), CaughtUp: true, from: from, upTo: slices.Clone(from)}
	found := 0
	for _, r := range rows {
		if !r.Window {
			page.Events = append(page.Events, r.FeedEvent)
			continue
		}
		page.upTo[r.Shard], found = r.Position, r.Found
		page.CaughtUp = page.CaughtUp && r.Position >= r.Head
	}
	slices.SortFunc(page.Events, func(a, b FeedEvent) int {
		return compareFeed(a.Position, b.Position, a.Shard, b.Shard)
	})
	page.full = len(page.Events) > 0 && (found >= limits.Events || len(page.Events) < found)
	page.CaughtUp = page.CaughtUp && !page.full
	return page, nil
}

func compareFeed(positionA, positionB int64, shardA, shardB int) int {
	switch {
	case positionA < positionB:
		return -1
	case positionA > positionB:
		return 1
	default:
		return shardA - shardB
	}
}

// FeedHead returns the place behind everything that is folded now.
func FeedHead(ctx context.Context, db DB, shards int) ([]int64, error) {
	type head struct {
		Shard    int
		Position int64
	}
	list, err := collect[head](ctx, db, "feed's head", sq.Select("shard", "position").From("feed_heads()").Where(squirrel.Lt{"shard": shards}))
	if err != nil {
		return nil, err
	}
	place := make([]int64, shards)
	for _, h := range list {
		place[h.Shard] = h.Position
	}
	return place, nil
}
