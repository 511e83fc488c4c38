package commands

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Places to seek that are not a time or an offset.
const (
	SeekEarliest = "earliest"
	SeekLatest   = "latest"
)

// Seek moves a subscription's consumer group to another place.
type Seek struct {
	SubscriptionID string
	// IfVersion is the version that the caller has seen, nil for any.
	IfVersion *int64
	// To is earliest, latest, a time (RFC 3339) or an offset, which is meant in every
	// partition.
	To string
}

// Sought is where a seek led.
type Sought struct {
	Subscription Subscription
	Receipt      Receipt
	// Older says that Redis does not hold all that was asked for: the rest is in
	// history, see [Dispatcher.Redrive].
	Older bool
}

func checkSeek(to string) error {
	var v check
	_, notNumber := strconv.ParseUint(to, 10, 53)
	at, notTime := time.Parse(time.RFC3339Nano, to)
	isTime := notTime == nil && at.Year() >= 1970 && at.Year() < 2200 // a position has room for these
	v.that(to == SeekEarliest || to == SeekLatest || notNumber == nil || isTime, "to",
		"earliest, latest, a time as in RFC 3339 or an offset", fmt.Sprintf("is %q", brief(to)))
	return v.refusal()
}

// Seek moves the subscription's group. What its members hold and what waits for another
// attempt is dropped: what is delivered from then on is what stands behind the place.
func (d *Dispatcher) Seek(ctx context.Context, caller Caller, cmd Seek) (Sought, error) {
	if err := checkSeek(cmd.To); err != nil {
		return Sought{}, err
	}
	for range decideAgainMax {
		s, shard, err := d.subscription(ctx, caller, cmd.SubscriptionID)
		if err != nil {
			return Sought{}, err
		}
		if err := d.checkConsumer(ctx, caller, s); err != nil {
			return Sought{}, err
		}
		if err := checkVersion(cmd.IfVersion, s.Version); err != nil {
			return Sought{}, err
		}
		out, err := d.appendOne(ctx, shard, events.Append{
			ID: d.cfg.NewID(), TenantID: s.TenantID, Meta: d.adminMeta(caller), Version: s.Version, Group: s.group(),
			Event: events.SubscriptionSought{SubscriptionID: cmd.SubscriptionID, TopicID: s.Config.TopicID, To: cmd.To},
			Guard: events.Guard{SubscriptionVersion: s.Version},
		})
		if err != nil {
			return Sought{}, err
		}
		if out.Status == events.StatusStale {
			d.store.Forget(cmd.SubscriptionID)
			continue
		}
		receipt, err := d.await(ctx, caller, shard, out)
		return Sought{Subscription: s, Receipt: receipt, Older: out.Offset == 1}, err
	}
	return Sought{}, tooBusy()
}

// Redriven is a message as history has it, for a group that is to get it once more.
type Redriven struct {
	MessageID string
	Meta      events.DeliveryMeta
	// Payload is as it is stored, sealed or not.
	Payload   []byte
	Partition int
	Offset    int64
	Position  events.Position
	// DeadLetters is how many dead letters of the group are taken back.
	DeadLetters int64
}

// Redrive is a part of a job that brings messages to a subscription's group once more.
type Redrive struct {
	SubscriptionID string
	JobID          string
	// Attempt is the job's, from [Dispatcher.ReserveAttempt]: all its messages begin
	// with it.
	Attempt  int64
	Messages []Redriven
}

// ReserveAttempt returns the attempt that a job's messages begin with in a subscription's
// group: no message had one of that number.
func (d *Dispatcher) ReserveAttempt(ctx context.Context, subscriptionID string) (int64, error) {
	s, err := d.Load(ctx, subscriptionID)
	if err != nil {
		return 0, err
	}
	n, err := d.store.ReserveAttempt(ctx, events.ShardOf(s.QueueTenantID, s.Queue, d.cfg.Shards), s.Config.TopicID, s.group())
	if isNone(err) {
		d.store.Forget(subscriptionID)
		return 0, refuse(CodeSubscriptionNotFound, "no subscription %q", brief(subscriptionID))
	}
	if err != nil {
		return 0, unavailable(err)
	}
	return n, nil
}

// Redrive brings messages to a subscription's group once more, each once per job however
// often it is asked (for 24 hours). It returns how many there are by now.
func (d *Dispatcher) Redrive(ctx context.Context, cmd Redrive) (int, error) {
	for range decideAgainMax {
		caller, s, err := d.onBehalf(ctx, cmd.SubscriptionID)
		if err != nil {
			return 0, err
		}
		if err := d.checkConsumer(ctx, s.Owner.Caller(s.TenantID), s); err != nil {
			return 0, err
		}
		batch := make([]events.Append, len(cmd.Messages))
		for i, m := range cmd.Messages {
			meta := d.adminMeta(caller)
			meta.IdempotencyKey, meta.Fingerprint = fmt.Sprintf("redrive %s %s", cmd.JobID, m.MessageID), "redrive"
			batch[i] = events.Append{
				ID: d.cfg.NewID(), TenantID: s.TenantID, Meta: meta, Guard: events.Guard{SubscriptionVersion: s.Version},
				Redrive: events.Redrive{Meta: m.Meta, Payload: m.Payload, Position: m.Position, AttemptsBefore: int(cmd.Attempt) - 1},
				Event: events.MessageRedriven{
					MessageID: m.MessageID, TopicID: s.Config.TopicID, SubscriptionID: cmd.SubscriptionID, ConsumerGroup: s.group(),
					Partition: m.Partition, Offset: m.Offset, Attempt: int(cmd.Attempt), DeadLetters: m.DeadLetters, JobID: cmd.JobID,
				},
			}
		}
		outs, err := d.store.Append(ctx, events.ShardOf(s.QueueTenantID, s.Queue, d.cfg.Shards), batch)
		if err != nil {
			return 0, unavailable(err)
		}
		done, stale, full := 0, false, false
		for _, out := range outs {
			switch out.Status {
			case events.StatusAppended, events.StatusDuplicate:
				done++
			case events.StatusStale:
				stale = true
			case events.StatusFull:
				full = true
			default:
			}
		}
		if full {
			return done, refuse(CodeQueueFull, "the consumer group has as many messages to settle as a queue may hold")
		}
		if !stale {
			return done, nil
		}
		d.store.Forget(cmd.SubscriptionID) // what was done is a duplicate then
	}
	return 0, tooBusy()
}

// CancelMessage takes back a scheduled message that is not published yet.
func (d *Dispatcher) CancelMessage(ctx context.Context, caller Caller, messageID string) (Receipt, error) {
	missing := refuse(CodeMessageNotFound, "no scheduled message %q", brief(messageID))
	topicID, shard, err := d.store.ScheduledTopic(ctx, messageID)
	if err != nil {
		if isNone(err) {
			return Receipt{}, missing
		}
		return Receipt{}, unavailable(err)
	}
	a, err := d.store.TopicByID(ctx, topicID)
	if err != nil {
		if isNone(err) {
			return Receipt{}, missing
		}
		return Receipt{}, unavailable(err)
	}
	topic, ok := a.Value.(Topic)
	if !ok || topic.TenantID != caller.TenantID {
		return Receipt{}, missing
	}
	if !topic.mayProduce(caller) {
		return Receipt{}, refuse(CodeForbidden, "%q may not publish to queue %q", caller.Subject, topic.Config.Name)
	}
	out, err := d.appendOne(ctx, shard, events.Append{
		ID: d.cfg.NewID(), TenantID: caller.TenantID, Meta: d.adminMeta(caller), Event: events.MessageCancelled{MessageID: messageID, TopicID: topicID},
	})
	if err != nil {
		return Receipt{}, err
	}
	if out.Status == events.StatusNotScheduled {
		return Receipt{}, missing
	}
	return d.await(ctx, caller, shard, out)
}
