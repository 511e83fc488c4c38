package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/tallymq/tallymq/events"
)

// heldBytesMax is how many bytes of a group's retries one look reads through.
const heldBytesMax = 32 << 20

// Holding is what Redis holds of a topic, message by message, at one moment.
type Holding struct {
	// Last is the last position of the shard's log at that moment.
	Last       events.Position
	Partitions []HeldPartition
	Groups     []HeldGroup
	// Scheduled are the messages that wait to be released.
	Scheduled []string
}

// HeldPartition is a partition's stream.
type HeldPartition struct {
	// Next is the next offset, First the first one that is held, Held how many entries are,
	// and Erased how many are missing between them because they were erased.
	Next, First, Held, Erased int64
}

// HeldGroup is what a consumer group has not settled.
type HeldGroup struct {
	Group string
	// Unsettled is what Redis counts, apart from what it holds.
	Unsettled int64
	Places    []HeldPlace
	// Items are the messages outside of the partitions.
	Items []HeldItem
	// IsWhole says that all of Items were looked through.
	IsWhole bool
}

// HeldPlace is a group's place in a partition: nothing from Fresh on was handed out, and
// Pending offsets were and are not settled. Fresh is -1 where the group has no place there.
type HeldPlace struct {
	Fresh   int64
	Pending []int64
}

// HeldItem is a message's next attempt, and what its attempts are counted from.
type HeldItem struct {
	MessageID     string
	Attempt, Base int
}

// Held looks at all that a topic holds.
func (l *Log) Held(ctx context.Context, shardNo int, topicID string, partitions int) (Holding, error) {
	k := l.shards[shardNo].keys
	v, err := l.run(ctx, l.life.Load(), heldScript, k.due(), []any{k.prefix, topicID, partitions, heldBytesMax})
	if err != nil {
		return Holding{}, fmt.Errorf("look at what is held: %w", err)
	}
	var r reply
	answer := r.list(v)
	h := Holding{Last: r.position(r.at(answer, 0))}
	for _, v := range r.list(r.at(answer, 1)) {
		f := r.list(v)
		h.Partitions = append(h.Partitions, HeldPartition{Next: r.int(r.at(f, 0)), First: r.int(r.at(f, 1)), Held: r.int(r.at(f, 2)), Erased: r.int(r.at(f, 3))})
	}
	for _, v := range r.list(r.at(answer, 2)) {
		f := r.list(v)
		g := HeldGroup{Group: r.str(r.at(f, 0)), Unsettled: r.int(r.at(f, 1)), IsWhole: r.int(r.at(f, 4)) == 1}
		for _, v := range r.list(r.at(f, 2)) {
			p := r.list(v)
			place := HeldPlace{Fresh: r.int(r.at(p, 0))}
			for _, offset := range r.list(r.at(p, 1)) {
				place.Pending = append(place.Pending, r.int(offset))
			}
			g.Places = append(g.Places, place)
		}
		for _, v := range r.list(r.at(f, 3)) {
			item, err := readHeldItem(r.str(v))
			if err != nil && r.err == nil {
				r.err = err
			}
			g.Items = append(g.Items, item)
		}
		h.Groups = append(h.Groups, g)
	}
	for _, v := range r.list(r.at(answer, 3)) {
		h.Scheduled = append(h.Scheduled, r.str(v))
	}
	if r.err != nil {
		return Holding{}, fmt.Errorf("look at what is held: %w", r.err)
	}
	return h, nil
}

func readHeldItem(name string) (HeldItem, error) {
	parts := strings.Split(name, "/")
	if len(parts) == 3 {
		attempt, err1 := strconv.Atoi(parts[1])
		base, err2 := strconv.Atoi(parts[2])
		if err1 == nil && err2 == nil {
			return HeldItem{MessageID: parts[0], Attempt: attempt, Base: base}, nil
		}
	}
	return HeldItem{}, fmt.Errorf("retry %q: not <message>/<attempt>/<attempts before>", name)
}

// lostPage is how many entries one round trip reads of a stream.
const lostPage = 50

// Lost returns the offsets between the first and the last entry of a partition's stream of
// which the stream has no entry, at most so many.
func (l *Log) Lost(ctx context.Context, shardNo int, topicID string, partition int, next int64, most int) ([]int64, error) {
	var lost []int64
	key, want, from := l.shards[shardNo].keys.queue(topicID, partition), int64(-1), "-"
	for len(lost) < most {
		page, err := l.client.XRangeN(ctx, key, from, "+", lostPage).Result()
		if err != nil {
			return nil, fmt.Errorf("look for lost entries: %w", err)
		}
		for _, entry := range page {
			_, seq, err := parseEntryID(entry.ID)
			if err != nil {
				return nil, err
			}
			for ; want >= 0 && want < seq-1 && len(lost) < most; want++ {
				lost = append(lost, want)
			}
			want, from = seq, "("+entry.ID
		}
		if len(page) < lostPage {
			for ; want >= 0 && want < next && len(lost) < most; want++ {
				lost = append(lost, want)
			}
			break
		}
	}
	return lost, nil
}
