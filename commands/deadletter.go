package commands

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/tallymq/tallymq/events"
)

// Headers of a dead letter in its deadLetterQueue.
const (
	HeaderDeadQueue     = "dead-letter-queue"
	HeaderDeadGroup     = "dead-letter-group"
	HeaderDeadMessageID = "dead-letter-message-id"
	HeaderDeadReason    = "dead-letter-reason"
	HeaderDeadError     = "dead-letter-error"
	HeaderDeadAttempts  = "dead-letter-attempts"
	HeaderDeadHops      = "dead-letter-hops"
)

const (
	// deadLetterHopsMax is through how many dead-letter queues a message goes at most:
	// loops are refused when they are made, and this ends one that was made at once on
	// two instances.
	deadLetterHopsMax = 16
	// deadLetterErrorMax is how much of the last error a dead letter's header has.
	deadLetterErrorMax = 500
)

// checkDelivery refuses a configuration of a subscription on a queue that cannot work: a
// filter that does not compile, a webhook that may not be called, a deadLetterQueue that
// is none or leads back. The one that it had before is not looked at again.
func (d *Dispatcher) checkDelivery(ctx context.Context, caller Caller, queue string, e events.SubscriptionConfig, deadLettersBefore string) error {
	if _, err := d.compile(e.MessageFilter); err != nil {
		return err
	}
	if err := d.checkWebhook(e); err != nil {
		return err
	}
	if e.DeadLetterQueue == deadLettersBefore {
		return nil
	}
	return d.checkDeadLetters(ctx, caller, queue, e)
}

func (d *Dispatcher) checkWebhook(e events.SubscriptionConfig) error {
	if e.SubscriptionType != TypeWebhook || d.cfg.CheckWebhook == nil {
		return nil
	}
	var v check
	h, err := parseHandler(e.HandlerConfig, true)
	if err == nil {
		err = d.cfg.CheckWebhook(h.URL)
	}
	if err != nil {
		v.that(false, "handlerConfig.url", "an endpoint outside of private networks", err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(h.Headers)) {
		if err := d.cfg.CheckHeader(name, h.Headers[name]); err != nil {
			v.that(false, "handlerConfig.headers."+brief(name), "a header that may be set", err.Error())
		}
	}
	return v.refusal()
}

// checkDeadLetters follows where dead letters would go, queue by queue.
func (d *Dispatcher) checkDeadLetters(ctx context.Context, caller Caller, queue string, e events.SubscriptionConfig) error {
	if e.DeadLetterQueue == "" {
		return nil
	}
	var v check
	next, seen := []string{e.DeadLetterQueue}, map[string]bool{}
	for len(next) > 0 && len(seen) <= deadLetterHopsMax {
		name := next[0]
		next = next[1:]
		topic, shard, err := d.ownTopic(ctx, caller, name)
		if err != nil {
			if isRefused(err, CodeQueueNotFound) {
				if len(seen) > 0 {
					continue // a queue further on is gone: its letters go nowhere
				}
				v.that(false, "deadLetterQueue", "one of the tenant's queues", "is no queue")
				return v.refusal()
			}
			return err
		}
		if len(seen) == 0 && !topic.mayProduce(caller) {
			return refuse(CodeForbidden, "%q may not publish to queue %q", caller.Subject, name)
		}
		if topic.Config.TopicID == e.TopicID {
			v.that(false, "deadLetterQueue", "a queue from which no dead letters come back", fmt.Sprintf("leads back to %q", brief(queue)))
			return v.refusal()
		}
		if seen[topic.Config.TopicID] {
			continue
		}
		seen[topic.Config.TopicID] = true
		subscriptions, err := d.store.Subscriptions(ctx, shard, topic.Config.TopicID)
		if err != nil {
			return unavailable(err)
		}
		for _, a := range subscriptions {
			if s, ok := a.Value.(Subscription); ok && s.TenantID == caller.TenantID && s.Config.DeadLetterQueue != "" {
				next = append(next, s.Config.DeadLetterQueue)
			}
		}
	}
	v.that(len(next) == 0, "deadLetterQueue", fmt.Sprintf("at most %d queues on the way", deadLetterHopsMax), "leads through more")
	return v.refusal()
}

// ForwardDeadLetter publishes a dead letter to its subscription's deadLetterQueue. It may
// be asked more than once: the message, the subscription and the attempt are the
// idempotency key. An error asks for another try; what can never be published is logged
// and left.
func (d *Dispatcher) ForwardDeadLetter(ctx context.Context, _ int, letter events.DueForward) error {
	e, m := letter.Event, letter.Message
	leave := func(why string) error {
		d.cfg.Logger.Error("dead letter is not published to its queue", "messageId", e.MessageID, "group", e.ConsumerGroup, "why", why)
		return nil
	}
	a, err := d.store.Subscription(ctx, e.SubscriptionID)
	if errors.Is(err, events.ErrNoAggregate) {
		return leave("the subscription is gone")
	}
	if err != nil {
		return unavailable(err)
	}
	s, ok := a.Value.(Subscription)
	if !ok || s.Config.DeadLetterQueue == "" {
		return leave("the subscription has no deadLetterQueue any more")
	}
	hops, _ := strconv.Atoi(m.Meta.Headers[HeaderDeadHops])
	if hops >= deadLetterHopsMax {
		return leave("it went through too many dead-letter queues")
	}
	payload := m.Payload
	if m.Meta.Sealed {
		payload, err = d.open(ctx, s, m)
		if errors.Is(err, ErrUnreadable) {
			return leave("its payload cannot be decrypted")
		}
		if err != nil {
			return unavailable(err)
		}
	}
	out, err := d.Publish(ctx, Caller{TenantID: s.TenantID, Subject: system.Subject, Platform: true, Async: true}, []Publish{{
		ID: d.cfg.NewID(), Queue: s.Config.DeadLetterQueue, Payload: payload, Key: m.Meta.Key, Headers: deadLetterHeaders(s, e, m, hops+1),
		CorrelationID: m.Meta.CorrelationID, ContentType: m.Meta.ContentType, TraceParent: m.Meta.TraceParent,
		EventKey: fmt.Sprintf("dead %s %s %d %d", e.MessageID, e.SubscriptionID, e.Attempt, e.AttemptsBefore),
	}}, false)
	if err == nil {
		err = out[0].Err
	}
	if isRefused(err, CodePayloadTooLarge) || isRefused(err, CodeValidationFailed) || isRefused(err, CodeIdempotencyKeyReused) ||
		isRefused(err, CodeQueueNotFound) {
		return leave(err.Error())
	}
	return err
}

// deadLetterHeaders are a dead letter's headers, which say where it comes from. Its own
// are left out where there is no room for both.
func deadLetterHeaders(s Subscription, e events.MessageDeadLettered, m events.Leased, hops int) map[string]string {
	about := map[string]string{
		HeaderDeadQueue: s.QueueName(), HeaderDeadGroup: s.Config.ConsumerGroup, HeaderDeadMessageID: e.MessageID, HeaderDeadReason: e.Reason,
		HeaderDeadAttempts: strconv.Itoa(e.Attempt), HeaderDeadHops: strconv.Itoa(hops),
	}
	if e.Error != "" {
		text := []rune(e.Error)
		about[HeaderDeadError] = string(text[:min(len(text), deadLetterErrorMax)])
	}
	headers := make(map[string]string, len(about)+len(m.Meta.Headers))
	bytes := 0
	for name, value := range m.Meta.Headers {
		headers[name] = value
		bytes += len(name) + len(value)
	}
	for name, value := range about {
		headers[name] = value
		bytes += len(name) + len(value)
	}
	if len(headers) > HeadersMax || bytes > HeadersBytesMax {
		return about
	}
	return headers
}
