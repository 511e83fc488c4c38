package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Limits of consuming.
const (
	PullWaitMsMax       = 20_000
	PullMessagesMax     = PollRecordsMax
	AckTokensMax        = 1000
	NackDelayMsMax      = 86_400_000
	NackErrorMax        = 2000
	ExtendMsMin         = 1000
	ExtendMsMax         = SessionTimeoutMsMax
	retryDelayCapMs     = 3_600_000
	pullMessagesDefault = 50
)

// Pull asks for messages on behalf of a subscription's consumer.
type Pull struct {
	SubscriptionID string
	// MessagesMax is at most the subscription's maxPollRecords; nil is Config.PullMessages or
	// maxPollRecords, whichever is less.
	MessagesMax *int
	// WaitMs is how long to wait for a first message.
	WaitMs int
}

// Pulled is a message in the consumer's hands, with the token that settles it.
type Pulled struct {
	events.Leased

	AckToken string
	// LeaseExpiresAtMs is when the message goes to another consumer, in ms since
	// 1970, by the log's clock.
	LeaseExpiresAtMs int64
}

// decidePull checks a pull against its subscription.
func (d *Dispatcher) decidePull(s Subscription, c Pull) (messagesMax int, err error) {
	return decidePull(s, c, d.cfg.PullMessages)
}

func decidePull(s Subscription, c Pull, byDefault int) (messagesMax int, err error) {
	if s.Config.Status != StatusActive {
		return 0, refuse(CodeConsumerError, "subscription is %s", s.Config.Status)
	}
	var v check
	messagesMax = min(cmp.Or(byDefault, pullMessagesDefault), s.Config.MaxPollRecords)
	if c.MessagesMax != nil {
		messagesMax = *c.MessagesMax
		v.between(int64(messagesMax), 1, int64(s.Config.MaxPollRecords), "maxMessages")
	}
	v.between(int64(c.WaitMs), 0, PullWaitMsMax, "waitMs")
	return messagesMax, v.refusal()
}

// Pull leases messages to the subscription's consumer for sessionTimeoutMs. The end
// of ctx ends the wait and nothing else: messages leased by then are returned.
func (d *Dispatcher) Pull(ctx context.Context, caller Caller, cmd Pull) ([]Pulled, error) {
	return d.pull(ctx, caller, cmd, time.Duration(cmd.WaitMs)*time.Millisecond, d.decidePull)
}

// pull is Pull with any wait and a decision on how many messages. Messages that are
// settled on the way, because they are expired or filtered, are no answer: it goes on.
func (d *Dispatcher) pull(ctx context.Context, caller Caller, cmd Pull, wait time.Duration, decide func(Subscription, Pull) (int, error)) ([]Pulled, error) {
	// The first wait ends by itself, those after a change when it would have.
	until, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	waiting := ctx
	for again := 0; again < decideAgainMax; {
		s, shard, err := d.subscription(context.WithoutCancel(ctx), caller, cmd.SubscriptionID)
		if err != nil {
			return nil, err
		}
		if err := d.checkConsumer(context.WithoutCancel(ctx), caller, s); err != nil {
			return nil, err
		}
		most, err := decide(s, cmd)
		if err != nil {
			return nil, err
		}
		filter, err := d.filterOf(s)
		if err != nil {
			return nil, err // before anything is leased
		}
		leased, err := d.store.Lease(waiting, d.leaseRequest(s, shard, most), wait)
		if errors.Is(err, events.ErrStale) {
			d.store.Forget(cmd.SubscriptionID)
			again++
			continue
		}
		if err != nil {
			return nil, unavailable(err)
		}
		if len(leased) == 0 && until.Err() == nil {
			waiting = until //nolint:fatcontext // one of two, no chain
			continue        // something changed: whether the wait may go on is to be decided anew
		}
		pulled, err := d.handOut(ctx, caller, s, filter, leased)
		if err != nil {
			d.handBack(ctx, caller, s, leased)
			return nil, err
		}
		if len(pulled) > 0 || len(leased) == 0 || ctx.Err() != nil {
			return pulled, nil
		}
		waiting = until // all of it was settled on the way
	}
	return nil, tooBusy()
}

func (d *Dispatcher) leaseRequest(s Subscription, shard, most int) events.LeaseRequest {
	return events.LeaseRequest{
		Shard: shard, TopicID: s.Config.TopicID, Group: s.group(), Consumer: s.Config.ConsumerName,
		SubscriptionID: s.Config.SubscriptionID, SubscriptionVersion: s.Version,
		MessagesMax: most, BytesMax: d.cfg.PullBytesMax, For: time.Duration(s.Config.SessionTimeoutMs) * time.Millisecond,
		Ordered: s.how.Ordered,
	}
}

// unopenedDelayMs is when messages that could not be opened come again.
const unopenedDelayMs = 5000

// handBack returns messages that could not be opened now. Nobody has seen them, so the
// attempt is never the last; see [Dispatcher.Release].
func (d *Dispatcher) handBack(ctx context.Context, caller Caller, s Subscription, leased []events.Leased) {
	ackTokens := make([]string, len(leased))
	for i, m := range leased {
		ackTokens[i] = d.ackToken(s, m)
	}
	if err := d.release(context.WithoutCancel(ctx), caller, s.Config.SubscriptionID, ackTokens, unopenedDelayMs); err != nil {
		d.cfg.Logger.Warn("hand back messages that could not be opened: their leases run out", "error", err)
	}
}

// ackToken is the token that settles a leased message.
func (d *Dispatcher) ackToken(s Subscription, m events.Leased) string {
	return d.tokens.seal(delivery{
		SubscriptionID: s.Config.SubscriptionID, MessageID: m.MessageID, Lease: m.Lease,
		Partition: m.Partition, Offset: m.Offset, Attempt: m.Attempt, LeasedAtMs: m.LeasedAtMs, AttemptsBefore: m.AttemptsBefore, Unseen: m.Unseen,
		MaxRetryAttempts: m.Meta.MaxRetryAttempts, RetryDelayMs: m.Meta.RetryDelayMs,
	})
}

// handOut makes leased messages ready for their consumer: opened, with the token that
// settles each. What can never be opened fails at once, as the consumer could do
// nothing with it.
func (d *Dispatcher) handOut(ctx context.Context, caller Caller, s Subscription, filter Filter, leased []events.Leased) ([]Pulled, error) {
	pulled := make([]Pulled, 0, len(leased))
	var unreadable []string
	var through []events.Append
	for _, m := range leased {
		if m.Meta.ExpiresAtMs > 0 && m.Meta.ExpiresAtMs <= m.LeasedAtMs {
			e := events.MessageExpired{Delivery: s.attempt(m), ExpiredAtMs: m.Meta.ExpiresAtMs}
			through = append(through, d.settlement(system, s.TenantID, e, m.Lease))
			continue
		}
		one := Pulled{Leased: m, LeaseExpiresAtMs: m.LeasedAtMs + int64(s.Config.SessionTimeoutMs), AckToken: d.ackToken(s, m)}
		if m.Meta.Sealed {
			payload, err := d.open(ctx, s, m)
			switch {
			case errors.Is(err, ErrUnreadable):
				unreadable = append(unreadable, one.AckToken)
				continue
			case err != nil:
				return nil, unavailable(fmt.Errorf("decrypt a payload: %w", err))
			}
			one.Payload = payload
		}
		if filter != nil {
			if passes, why := filter.Match(m.Meta.Key, m.Meta.Headers, one.Payload); !passes {
				e := events.MessageFiltered{Delivery: s.attempt(m), Why: why, Version: s.Version}
				through = append(through, d.settlement(system, s.TenantID, e, m.Lease))
				continue
			}
		}
		if d.cfg.Observer != nil && m.Attempt == 1 {
			d.cfg.Observer.Delivered(s.QueueTenantID, s.Queue, s.group(), time.Duration(m.LeasedAtMs-m.Position.Ms())*time.Millisecond)
		}
		if d.cfg.Traced != nil && m.Meta.TraceParent != "" {
			d.cfg.Traced(ctx, m.Meta.TraceParent, s.QueueTenantID, s.Queue, s.group(), m.MessageID)
		}
		pulled = append(pulled, one)
	}
	d.passOver(ctx, s, through)
	if len(unreadable) > 0 {
		_, err := d.settle(context.WithoutCancel(ctx), caller, s.Config.SubscriptionID, unreadable, func(s Subscription, t delivery) (events.Event, string) {
			e := decideFailure(s, s.delivery(t), failure{Reason: events.ReasonUnreadable, Error: ErrUnreadable.Error(), Policy: t.policy(), Unseen: t.Unseen, Rand: d.cfg.Rand()})
			return e, failureStatus(e)
		})
		if err != nil {
			d.cfg.Logger.Warn("fail messages that cannot be decrypted", "error", err)
		}
	}
	return pulled, nil
}

func (d *Dispatcher) open(ctx context.Context, s Subscription, m events.Leased) ([]byte, error) {
	if d.cfg.Open == nil {
		return nil, ErrUnreadable
	}
	return d.cfg.Open(context.WithoutCancel(ctx), s.QueueTenantID, s.Config.TopicID, m.MessageID, m.Payload)
}

// checkConsumer refuses a caller who may not consume from a subscription's queue, or
// not any more.
func (d *Dispatcher) checkConsumer(ctx context.Context, caller Caller, s Subscription) error {
	if caller.Platform && s.TenantID == s.QueueTenantID {
		return nil
	}
	a, err := d.store.Topic(ctx, s.QueueTenantID, s.Queue)
	if errors.Is(err, events.ErrNoAggregate) {
		// The queue is gone, and its subscriptions are with it.
		return refuse(CodeSubscriptionNotFound, "no subscription %q", brief(s.Config.SubscriptionID))
	}
	if err != nil {
		return unavailable(err)
	}
	t, ok := a.Value.(Topic)
	isVisible := ok && (t.TenantID == caller.TenantID || t.Config.IsPublic)
	if isVisible && t.mayConsume(caller) {
		return nil
	}
	return refuse(CodeForbidden, "%q may not consume from queue %q", caller.Subject, s.QueueName())
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
