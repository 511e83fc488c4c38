package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // a name, as the scripts make it
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack"

	"github.com/tallymq/tallymq/events"
)

// RestoredTopic is a topic as it is put back.
type RestoredTopic struct {
	ID, TenantID, Name string
	Version            int64
	State              []byte
	Created, Changed   events.Position
	// Published is how many messages it was ever given, Settled what a queue without groups
	// counts from, and Floor a lower bound of what every group has settled.
	Published, Settled, Floor int64
	// Scheduled is how many messages wait to be released, and ScheduledFrom where the first
	// of them was scheduled.
	Scheduled     int
	ScheduledFrom events.Position
	Partitions    []RestoredPartition
}

// RestoredPartition is a partition as it is put back.
type RestoredPartition struct {
	Next int64
	// TrimmedMs is when the newest of the messages was published that are not put back, 0
	// for unknown.
	TrimmedMs int64
	// ReleasedFrom and ReleasedOffset are where the oldest message was scheduled of those
	// that were released, and the offset of the newest.
	ReleasedFrom   events.Position
	ReleasedOffset int64
}

// Topic puts a topic back.
func (r *Restorer) Topic(ctx context.Context, t RestoredTopic) error {
	r.pending.HSet(ctx, r.k.names(), uniqueTopic(t.TenantID, t.Name), t.ID)
	fields := []any{
		"v", t.Version, "s", t.State, "c", entryID(t.Created), "u", entryID(t.Changed), "p", len(t.Partitions),
		"n", t.Published, "b", t.Settled, "f", t.Floor, "sc", t.Scheduled,
	}
	if t.Scheduled > 0 {
		fields = append(fields, "so", entryID(t.ScheduledFrom))
	}
	for i, p := range t.Partitions {
		n := strconv.Itoa(i)
		fields = append(fields, "o:"+n, p.Next)
		if p.TrimmedMs > 0 {
			fields = append(fields, "ts:"+n, p.TrimmedMs)
		}
		if p.ReleasedFrom != 0 {
			fields = append(fields, "sp:"+n, entryID(p.ReleasedFrom)+"|"+strconv.FormatInt(p.ReleasedOffset, 10))
		}
	}
	r.pending.HSet(ctx, r.k.topic(t.ID), fields...)
	return r.sent(ctx, len(t.State))
}

// RestoredAggregate is a subscription or schedule as it is put back.
type RestoredAggregate struct {
	ID, TopicID      string
	Version          int64
	State            []byte
	Created, Changed events.Position
}

func (a RestoredAggregate) fields() []any {
	return []any{"v", a.Version, "s", a.State, "c", entryID(a.Created), "u", entryID(a.Changed)}
}

// Subscription puts a member of a consumer group back.
func (r *Restorer) Subscription(ctx context.Context, a RestoredAggregate, group, consumer string, isPushed bool) error {
	r.pending.HSet(ctx, r.k.subscriptions(a.TopicID), uniqueSubscription(group, consumer), a.ID)
	r.pending.HSet(ctx, r.k.subscription(a.ID), a.fields()...)
	if isPushed {
		r.pending.SAdd(ctx, r.k.push(), a.ID)
	}
	return r.sent(ctx, len(a.State))
}

// Schedule puts a recurring schedule back, which ticks next at nextMs, 0 for never.
func (r *Restorer) Schedule(ctx context.Context, a RestoredAggregate, nextMs int64) error {
	r.pending.SAdd(ctx, r.k.prefix+"schedules:"+a.TopicID, a.ID)
	r.pending.HSet(ctx, r.k.schedule(a.ID), append(a.fields(), "n", nextMs)...)
	if nextMs > 0 {
		r.pending.ZAdd(ctx, r.k.due(), goredis.Z{Score: float64(nextMs), Member: "c|" + a.ID})
	}
	return r.sent(ctx, len(a.State))
}

// RestoredMessage is a message as it is put back.
type RestoredMessage struct {
	ID      string
	Meta    events.DeliveryMeta
	Payload []byte
	// Position is where it was published, and Accepted where it was scheduled, 0 where it
	// was not.
	Position, Accepted events.Position
}

// fields are an entry's of a partition's stream.
func (m RestoredMessage) fields() []string {
	fields := []string{fieldUUID, m.ID, fieldMetadata, string(packPairs(m.Meta.AppendPairs(nil))), fieldPayload, string(m.Payload), "pos", entryID(m.Position)}
	if m.Accepted != 0 {
		fields = append(fields, "sched", entryID(m.Accepted))
	}
	return fields
}

func values(fields []string) []any {
	out := make([]any, len(fields))
	for i, f := range fields {
		out[i] = f
	}
	return out
}

// Entry puts a message back into its partition's stream. They come in the order of their
// offsets.
func (r *Restorer) Entry(ctx context.Context, topicID string, partition int, offset int64, m RestoredMessage) error {
	r.pending.XAdd(ctx, &goredis.XAddArgs{
		Stream: r.k.queue(topicID, partition), ID: "0-" + strconv.FormatInt(offset+1, 10), Values: values(m.fields()),
	})
	return r.sent(ctx, len(m.Payload))
}

// Missing notes that so many messages of a group were not there to be put back.
func (r *Restorer) Missing(ctx context.Context, topicID, group string, messages int64) error {
	r.pending.HIncrBy(ctx, r.k.prefix+"groups:"+topicID, group, messages)
	return r.sent(ctx, 0)
}

// Holes says which entries between those of a partition's stream are missing because the
// messages were erased.
func (r *Restorer) Holes(ctx context.Context, topicID string, partition int, offsets []int64) error {
	for _, offset := range offsets {
		number := float64(offset + 1)
		r.pending.ZAdd(ctx, r.k.prefix+"holes:"+topicID+":"+strconv.Itoa(partition), goredis.Z{Score: number, Member: strconv.FormatInt(offset+1, 10)})
		if err := r.sent(ctx, 0); err != nil {
			return err
		}
	}
	return nil
}

// Erased remembers that a message was erased at a position, unless that is forgotten by now.
func (r *Restorer) Erased(ctx context.Context, messageID string, at events.Position, ttl time.Duration) error {
	left := at.Ms() + ttl.Milliseconds() - r.nowMs
	if left <= 0 {
		return nil
	}
	r.pending.Set(ctx, r.k.prefix+"erased:"+messageID, "1", time.Duration(left)*time.Millisecond)
	return r.sent(ctx, 0)
}

// RestoredGroup is a consumer group as it is put back.
type RestoredGroup struct {
	TopicID, Group string
	// Settled is how many of the topic's messages it is done with.
	Settled int64
	// Base is what a fresh message's attempts are counted from, Highest the highest number
	// that an attempt had.
	Base, Highest int
	Ordered       bool
	// Places are the offsets from which on it has been given nothing, by partition.
	Places []int64
	// Oldest is where the oldest message stands that is outside of the partitions, 0 for
	// none.
	Oldest events.Position
}

// Group puts a consumer group back, behind the entries of its partitions and before its
// items.
func (r *Restorer) Group(ctx context.Context, g RestoredGroup) error {
	for i, place := range g.Places {
		r.pending.XGroupCreateMkStream(ctx, r.k.queue(g.TopicID, i), g.Group, "0-"+strconv.FormatInt(place, 10))
	}
	r.pending.XGroupCreateMkStream(ctx, r.k.retry(g.TopicID, g.Group), g.Group, "0")
	r.pending.HSet(ctx, r.k.prefix+"groups:"+g.TopicID, g.Group, g.Settled)
	fields := []any{"g:" + g.Group, restoredGeneration, "am:" + g.Group, g.Highest, "ab:" + g.Group, g.Base}
	if g.Ordered {
		fields = append(fields, "ord:"+g.Group, 1)
	}
	if g.Oldest != 0 {
		fields = append(fields, "w:"+g.Group, entryID(g.Oldest))
	}
	r.pending.HSet(ctx, r.k.topic(g.TopicID), fields...)
	return r.sent(ctx, 0)
}

// restoredGeneration is how often a group that is put back has begun.
const restoredGeneration = "1"

// RestoredItem is a message that a group has outside of its partitions.
type RestoredItem struct {
	TopicID, Group string
	Partition      int
	Offset         int64
	Attempt, Base  int
	Unseen         int
	// DueAtMs is when it is to be tried, and DelayMs for how long it was to wait.
	DueAtMs, DelayMs int64
	Ordered          bool
}

// fields are an entry's of a retry stream.
func (i RestoredItem) fields(m RestoredMessage) []string {
	fields := append(m.fields(), "off", strconv.FormatInt(i.Offset, 10), "part", strconv.Itoa(i.Partition),
		"att", strconv.Itoa(i.Attempt), "base", strconv.Itoa(i.Base))
	if i.Unseen > 0 {
		fields = append(fields, "unseen", strconv.Itoa(i.Unseen))
	}
	return fields
}

// Item puts a message back that a group has to try. They come in the order in which they
// came to the group.
func (r *Restorer) Item(ctx context.Context, i RestoredItem, m RestoredMessage) error {
	fields := i.fields(m)
	if i.Ordered && m.Meta.Key != "" {
		sum := sha1.Sum([]byte(m.Meta.Key)) //nolint:gosec // see above
		key := hex.EncodeToString(sum[:])
		busy := r.k.prefix + "busy:" + i.TopicID + ":" + i.Group
		if name := busy + " " + key; r.busy[name] {
			packed, err := msgpack.Marshal(fields)
			if err != nil {
				return fmt.Errorf("restore message %s: %w", m.ID, err)
			}
			r.pending.RPush(ctx, r.k.prefix+"held:"+i.TopicID+":"+i.Group+":"+key, packed)
			r.pending.HIncrBy(ctx, r.k.prefix+"heldn:"+i.TopicID, i.Group, 1)
			return r.sent(ctx, len(packed))
		} else { //nolint:revive // the name's scope
			r.busy[name] = true
		}
		r.pending.HSet(ctx, busy, key, m.ID)
	}
	// By a clock that was set back since, it would wait for longer than it was to.
	i.DueAtMs = min(i.DueAtMs, r.nowMs+i.DelayMs)
	if i.DueAtMs <= r.nowMs {
		r.pending.XAdd(ctx, &goredis.XAddArgs{Stream: r.k.retry(i.TopicID, i.Group), Values: values(fields)})
		return r.sent(ctx, len(m.Payload))
	}
	packed, err := msgpack.Marshal(fields)
	if err != nil {
		return fmt.Errorf("restore message %s: %w", m.ID, err)
	}
	member := strings.Join([]string{
		"r", i.TopicID, i.Group, restoredGeneration, m.ID + "/" + strconv.Itoa(i.Attempt) + "/" + strconv.Itoa(i.Base),
	}, "|")
	r.pending.HSet(ctx, r.k.prefix+"parked:"+i.TopicID+":"+i.Group, member, packed)
	r.pending.HIncrBy(ctx, r.k.prefix+"waiting:"+i.TopicID, i.Group, 1)
	r.pending.ZAdd(ctx, r.k.due(), goredis.Z{Score: float64(i.DueAtMs), Member: member})
	return r.sent(ctx, len(packed))
}

// Scheduled puts a message back that waits to be released into a partition.
func (r *Restorer) Scheduled(ctx context.Context, topicID string, partition int, releaseAtMs int64, m RestoredMessage) error {
	released := events.MessageReleased{MessageID: m.ID, TopicID: topicID, Partition: partition}
	frame, err := events.Encode(released)
	if err != nil {
		return fmt.Errorf("restore message %s: %w", m.ID, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("restore message %s: %w", m.ID, err)
	}
	meta := packPairs(events.Meta{Actor: "system", TraceParent: m.Meta.TraceParent}.AppendPairs(nil, released.Kind(), m.Meta.TenantID, 0))
	packed, err := msgpack.Marshal([]string{
		entryID(m.Position), strconv.Itoa(partition), string(packPairs(m.Meta.AppendPairs(nil))), string(m.Payload),
		id.String(), string(meta), string(frame.Head), string(frame.Tail),
	})
	if err != nil {
		return fmt.Errorf("restore message %s: %w", m.ID, err)
	}
	r.pending.HSet(ctx, r.k.prefix+"scheduled:"+topicID, m.ID, packed)
	r.pending.HSet(ctx, r.k.scheduled(), m.ID, topicID)
	r.pending.ZAdd(ctx, r.k.due(), goredis.Z{Score: float64(releaseAtMs), Member: "s|" + topicID + "|" + m.ID})
	return r.sent(ctx, len(packed))
}

// Forward puts a dead letter back that may still have to be published to another queue:
// twice does no harm. eventID and event are of what made it a dead letter.
func (r *Restorer) Forward(ctx context.Context, eventID string, event []byte, i RestoredItem, m RestoredMessage) error {
	packed, err := msgpack.Marshal([]any{string(event), strconv.Itoa(events.StreamRetry), "0-1", i.fields(m)})
	if err != nil {
		return fmt.Errorf("restore dead letter %s: %w", m.ID, err)
	}
	member := "d|" + eventID
	r.pending.HSet(ctx, r.k.outbox(), member, packed)
	r.pending.ZAdd(ctx, r.k.due(), goredis.Z{Score: float64(r.nowMs), Member: member})
	return r.sent(ctx, len(packed))
}

// Remember puts an idempotency key back, unless it would be forgotten by now.
func (r *Restorer) Remember(ctx context.Context, record events.Record, ttl time.Duration) error {
	left := record.Position.Ms() + ttl.Milliseconds() - r.nowMs
	if record.Meta.IdempotencyKey == "" || left <= 0 {
		return nil
	}
	var id string
	offset, partition := int64(0), 0
	switch e := record.Event.(type) { //nolint:gochecksumtype // those that have a key
	case events.MessagePublished:
		id, offset, partition = e.MessageID, e.Offset, e.Partition
	case events.MessageScheduled:
		id, offset, partition = e.MessageID, -e.ReleaseAtMs, e.Partition
	case events.MessageRedriven:
		id = e.MessageID
	case events.TopicCreated:
		id = e.TopicID
	case events.SubscriptionCreated:
		id = e.SubscriptionID
	case events.ScheduleCreated:
		id = e.ScheduleID
	default:
		return nil
	}
	name := idempotencyName(record.TenantID, record.Event, record.Meta.IdempotencyKey)
	value := strings.Join([]string{
		record.Meta.Fingerprint, entryID(record.Position), id, strconv.FormatInt(offset, 10), strconv.Itoa(partition),
	}, "|")
	r.pending.Set(ctx, r.k.prefix+"idem:"+name, value, time.Duration(left)*time.Millisecond)
	return r.sent(ctx, len(value))
}
