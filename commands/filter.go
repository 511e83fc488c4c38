package commands

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/tallymq/tallymq/events"
)

// Filter decides which messages a subscription gets. It is safe for concurrent use.
type Filter interface {
	// Match says whether a message passes, and why it does not.
	Match(key string, headers map[string]string, payload []byte) (passes bool, why string)
}

// filtersMax is how many compiled filters an instance keeps; past it the cache starts
// anew.
const filtersMax = 10_000

// filterCache keeps compiled filters by subscription.
type filterCache struct {
	mu    sync.Mutex
	found map[string]compiledFilter
}

type compiledFilter struct {
	version int64
	filter  Filter
	// err says that it does not compile.
	err error
}

// filterOf returns a subscription's filter, nil where it has none.
func (d *Dispatcher) filterOf(s Subscription) (Filter, error) { //nolint:ireturn // it is the caller's own
	if len(s.Config.MessageFilter) == 0 {
		return nil, nil //nolint:nilnil // nil is none
	}
	c, id := &d.filters, s.Config.SubscriptionID
	c.mu.Lock()
	found, ok := c.found[id]
	c.mu.Unlock()
	if ok && found.version == s.Version {
		return found.filter, found.err
	}
	f, err := d.compile(s.Config.MessageFilter)
	if err != nil {
		// It compiled when it was set: nothing is delivered rather than everything.
		err = refuse(CodeConsumerError, "the subscription's filter: %s", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found == nil || len(c.found) >= filtersMax {
		c.found = map[string]compiledFilter{}
	}
	c.found[id] = compiledFilter{version: s.Version, filter: f, err: err}
	return f, err
}

// compile refuses a messageFilter that does not compile; nil is none.
func (d *Dispatcher) compile(raw json.RawMessage) (Filter, error) { //nolint:ireturn // it is the caller's own
	if len(raw) == 0 || d.cfg.Filter == nil {
		return nil, nil //nolint:nilnil // nil is none
	}
	f, err := d.cfg.Filter(raw)
	if err != nil {
		var v check
		v.that(false, "messageFilter", `{"cel":"…"} or {"headers":{…},"key":"…","payload":…}`, err.Error())
		return nil, v.refusal()
	}
	return f, nil
}

// attempt is a leased message as an attempt of the subscription's group.
func (s Subscription) attempt(m events.Leased) events.Delivery {
	return s.delivery(delivery{
		SubscriptionID: s.Config.SubscriptionID, MessageID: m.MessageID, Partition: m.Partition, Offset: m.Offset,
		Attempt: m.Attempt, LeasedAtMs: m.LeasedAtMs, AttemptsBefore: m.AttemptsBefore,
	})
}

// passOver settles leased messages that their consumer is not to see. Where that fails
// they are leased until their time is over, and looked at again.
func (d *Dispatcher) passOver(ctx context.Context, s Subscription, batch []events.Append) {
	if len(batch) == 0 {
		return
	}
	shard := events.ShardOf(s.QueueTenantID, s.Queue, d.cfg.Shards)
	if _, err := d.store.Append(context.WithoutCancel(ctx), shard, batch); err != nil {
		d.cfg.Logger.Warn("settle messages that expired or were filtered", "subscription", s.Config.SubscriptionID, "error", err)
	}
}

// TestFilter asks whether a message would pass a subscription's filter, or another one.
type TestFilter struct {
	SubscriptionID string
	// MessageFilter stands in for the subscription's own where it is given.
	MessageFilter json.RawMessage
	Key           string
	Headers       map[string]string
	Payload       json.RawMessage
}

// TestFilter says whether a message would pass, and why not. Nothing happens.
func (d *Dispatcher) TestFilter(ctx context.Context, caller Caller, cmd TestFilter) (passes bool, why string, err error) {
	s, _, err := d.subscription(ctx, caller, cmd.SubscriptionID)
	if err != nil {
		return false, "", err
	}
	if err := d.checkConsumer(ctx, caller, s); err != nil {
		return false, "", err
	}
	var v check
	v.that(len(cmd.Payload) > 0, "payload", "any JSON value", "is missing")
	v.short(cmd.Key, "key", MessageKeyMax)
	v.headers(cmd.Headers)
	v.that(isObjectOrAbsent(cmd.MessageFilter), "messageFilter", "a JSON object", "is not an object")
	v.atMost(len(cmd.MessageFilter), MessageFilterBytesMax, "messageFilter")
	if err := v.refusal(); err != nil {
		return false, "", err
	}
	filter, err := d.compile(cmd.MessageFilter)
	if err == nil && filter == nil {
		filter, err = d.filterOf(s)
	}
	switch {
	case err != nil:
		return false, "", err
	case filter == nil:
		return true, "the subscription has no filter", nil
	}
	passes, why = filter.Match(cmd.Key, cmd.Headers, cmd.Payload)
	return passes, why, nil
}
