package restore

import (
	"cmp"
	"slices"

	"github.com/google/uuid"

	"github.com/tallymq/tallymq/events"
)

// KeptPerPartition is how many of a partition's newest messages are put back although
// every group is done with them, for subscriptions that start from the earliest.
const KeptPerPartition = 10_000

// State is what a shard's history amounts to for delivery. Fold records into it in the
// order of their log; then read it.
type State struct {
	Topics map[string]*Topic
	// Position is the last record's.
	Position events.Position

	topicOf map[string]*Topic // by subscription
	// forwardsFrom is since when dead letters are noted that are to be published to
	// another queue.
	forwardsFrom events.Position
}

// New returns the state of an empty log. Dead letters from before a position are taken to
// be published to their queues.
func New(forwardsFrom events.Position) *State {
	return &State{Topics: map[string]*Topic{}, topicOf: map[string]*Topic{}, forwardsFrom: forwardsFrom}
}

// Topic is a queue that was not deleted.
type Topic struct {
	Config   events.TopicConfig
	TenantID string
	Version  int64
	// Created and Changed are where the events stand that created it and last changed it.
	Created, Changed events.Position
	// Published is how many messages history has of it, and Base what a queue without
	// groups counts from: how many of them were settled when it had its last.
	Published, Base int64

	Partitions    []*Partition
	Groups        map[string]*Group
	Subscriptions map[string]*Subscription
	Schedules     map[string]*Schedule
	// Scheduled are messages that wait to be released.
	Scheduled map[uuid.UUID]Scheduled
	// Erasures are where messages were erased lately, by message.
	Erasures map[uuid.UUID]events.Position
	// Forwards are dead letters that may still have to be published to another queue.
	Forwards []Forward
}

// Subscription is a member of a consumer group.
type Subscription struct {
	Config           events.SubscriptionConfig
	TenantID         string
	Version          int64
	Created, Changed events.Position
	// Group is the group's name as deliveries have it. CreatedBy and ByPlatform are who
	// made it.
	Group      string
	CreatedBy  string
	ByPlatform bool
}

// Schedule is a recurring schedule.
type Schedule struct {
	Config           events.ScheduleConfig
	TenantID         string
	Version          int64
	Created, Changed events.Position
	CreatedBy        string
	ByPlatform       bool
	// Ticked is where its last message stands, 0 for none.
	Ticked events.Position
}

// Scheduled is a message that waits to be released.
type Scheduled struct {
	Position    events.Position
	ReleaseAtMs int64
}

// Forward is a dead letter, by its event.
type Forward struct {
	EventID  string
	Position events.Position
	Item     Item
}

// Partition is the messages of a partition that are not all settled, and the newest others.
type Partition struct {
	// First is the offset of the first of Entries, and Next the one that comes next.
	First, Next int64
	Entries     []Entry
	settled     int
	// erased are the offsets of messages that were erased.
	erased []int64
}

// Entry is a message in a partition.
type Entry struct {
	ID uuid.UUID
	// Position is where it was published, and Accepted where it was scheduled, 0 where it
	// was not.
	Position, Accepted events.Position
	// Erased says that its payload is gone, and with it the message from Redis.
	Erased bool
}

// Source is where the event stands that has the message.
func (e Entry) Source() events.Position {
	if e.Accepted != 0 {
		return e.Accepted
	}
	return e.Position
}

// Group is a consumer group.
type Group struct {
	// Base is what a fresh message's attempts are counted from, and Highest the highest
	// number that an attempt had.
	Base, Highest int
	places        []*place
	// items are outside of the partitions: to be tried again, or redriven.
	items map[itemKey]Item
}

// itemKey names a message that is outside of the partitions. It may come again while it is.
type itemKey struct {
	id   uuid.UUID
	base int
}

// Item is a message that a group has to try that it does not get from its partition: to be
// tried again, redriven, or one that others behind it were settled before.
type Item struct {
	Entry

	Partition int
	Offset    int64
	// Attempt is the number of the next attempt, Base what its attempts are counted from.
	Attempt, Base int
	// Unseen is as in events.Leased.
	Unseen int
	// DueAtMs is when it is to be tried, in ms since 1970; in the past for at once. DelayMs is
	// for how long it was to wait.
	DueAtMs, DelayMs int64
	// Arrived is where it came to the group.
	Arrived events.Position
	// Redriven messages do not expire.
	Redriven bool
}

// place is where a group is in a partition.
type place struct {
	// start is the first offset that the group is to get, low the first that it is not
	// done with, and high the one after the last that it is.
	start, low, high int64
	// done has a bit for every offset from bitsFrom on, which is a multiple of 64.
	done     []uint64
	bitsFrom int64
}

const wordBits = 64

func newPlace(start int64) *place {
	return &place{start: start, low: start, high: start, bitsFrom: start &^ (wordBits - 1)}
}

func (p *place) isDone(offset int64) bool {
	if offset < p.low {
		return true
	}
	n := (offset - p.bitsFrom) / wordBits
	return n < int64(len(p.done)) && p.done[n]&(1<<(uint64(offset)%wordBits)) != 0 //nolint:gosec // not negative
}

func (p *place) settle(offset int64) {
	if offset < p.low {
		return
	}
	n := (offset - p.bitsFrom) / wordBits
	for int64(len(p.done)) <= n {
		p.done = append(p.done, 0)
	}
	p.done[n] |= 1 << (uint64(offset) % wordBits) //nolint:gosec // not negative
	p.high = max(p.high, offset+1)
	for p.low < p.high && p.isSet(p.low) {
		p.low++
	}
	// Words below low are not looked at any more.
	const step = 64
	if gone := (p.low - p.bitsFrom) / wordBits; gone >= step {
		p.done = append(p.done[:0:0], p.done[gone:]...)
		p.bitsFrom += gone * wordBits
	}
}

func (p *place) isSet(offset int64) bool {
	n := (offset - p.bitsFrom) / wordBits
	return n < int64(len(p.done)) && p.done[n]&(1<<(uint64(offset)%wordBits)) != 0 //nolint:gosec // not negative
}

// Fresh is the offset from which on a group has been given nothing of a partition.
func (g *Group) Fresh(t *Topic, partition int) int64 {
	return max(g.places[partition].high, t.Partitions[partition].First)
}

// Unsettled is how many messages a group has not settled.
func (g *Group) Unsettled(t *Topic) int64 {
	n := int64(len(g.items))
	for i, p := range g.places {
		part := t.Partitions[i]
		for offset := max(p.low, part.First); offset < p.high; offset++ {
			if part.isOut(p, offset) {
				n++
			}
		}
		n += part.Next - max(p.high, part.First) - part.erasedFrom(p.high)
	}
	return max(n, 0)
}

// erasedFrom is how many messages are erased of those that stand at an offset or behind it.
func (p *Partition) erasedFrom(offset int64) (n int64) {
	for _, at := range p.erased {
		if at >= max(offset, p.First) {
			n++
		}
	}
	return n
}

// Erased are the offsets of messages that were erased, from one on.
func (p *Partition) Erased(from int64) (offsets []int64) {
	for _, at := range p.erased {
		if at >= max(from, p.First) {
			offsets = append(offsets, at)
		}
	}
	return offsets
}

// Reach goes on to an offset of which, and of what comes before, history has nothing more.
func (t *Topic) Reach(partition int, next int64) {
	t.widen(partition + 1)
	p := t.Partitions[partition]
	if next <= p.Next {
		return
	}
	p.First, p.Next, p.Entries, p.erased = next, next, nil, nil
	for _, g := range t.Groups {
		if g.places[partition].low < next {
			g.places[partition] = newPlace(next)
		}
	}
}

// isOut reports whether a group was handed a message that is not done with.
func (p *Partition) isOut(place *place, offset int64) bool {
	return !place.isDone(offset) && !p.Entries[offset-p.First].Erased
}

// Items returns what a group has to try that it does not get from its partitions, in the
// order in which it came to the group.
func (g *Group) Items(t *Topic) []Item {
	items := make([]Item, 0, len(g.items))
	for _, item := range g.items {
		items = append(items, item)
	}
	for i, p := range g.places {
		part := t.Partitions[i]
		for offset := max(p.low, part.First); offset < p.high; offset++ {
			if part.isOut(p, offset) {
				e := part.Entries[offset-part.First]
				items = append(items, Item{Entry: e, Partition: i, Offset: offset, Attempt: g.Base + 1, Base: g.Base, Arrived: e.Position})
			}
		}
	}
	slices.SortFunc(items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Arrived, b.Arrived), slices.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Base, b.Base))
	})
	return items
}

// All returns whatever a group has not settled, in no order.
func (g *Group) All(t *Topic) []Item {
	items := g.Items(t)
	for i := range g.places {
		part := t.Partitions[i]
		for offset := g.Fresh(t, i); offset < part.Next; offset++ {
			e := part.Entries[offset-part.First]
			if e.Erased {
				continue
			}
			items = append(items, Item{Entry: e, Partition: i, Offset: offset, Attempt: g.Base + 1, Base: g.Base, Arrived: e.Position})
		}
	}
	return items
}

// Low is the first offset of a partition that Redis is to hold: what some group has not
// been given, and the newest others.
func (t *Topic) Low(partition int) int64 {
	p := t.Partitions[partition]
	low := p.Next - KeptPerPartition
	if len(t.Groups) == 0 {
		return p.First // somebody may still come for all of it
	}
	for _, g := range t.Groups {
		low = min(low, g.Fresh(t, partition))
	}
	return max(low, p.First)
}
