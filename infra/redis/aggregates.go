package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// aggregatesMax is how many topics and subscriptions an instance keeps decoded;
// past it the cache starts anew.
const aggregatesMax = 100_000

// aggregates caches topics by tenant and name, and subscriptions by id. A wake-up
// drops what changed; the append's guard catches what a lost wake-up left behind.
type aggregates struct {
	mu     sync.RWMutex
	byName map[string]*events.Aggregate
	nameOf map[string]string
	// drops counts what was dropped: what was read before a drop is not kept after
	// it, as it may be what was dropped.
	drops uint64
}

func (c *aggregates) init() {
	c.byName, c.nameOf = map[string]*events.Aggregate{}, map[string]string{}
}

// get returns what is cached, or nil and what to give to put.
func (c *aggregates) get(name string) (a *events.Aggregate, drops uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byName[name], c.drops
}

// put caches an aggregate that was read after get, unless something was dropped
// meanwhile.
func (c *aggregates) put(name string, a *events.Aggregate, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if drops != c.drops {
		return
	}
	if len(c.byName) >= aggregatesMax {
		c.init()
	}
	c.byName[name], c.nameOf[a.ID] = a, name
}

func (c *aggregates) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	delete(c.byName, c.nameOf[id])
	delete(c.nameOf, id)
}

func (c *aggregates) dropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	c.init()
}

// Topic returns a tenant's topic by name, or events.ErrNoAggregate.
func (l *Log) Topic(ctx context.Context, tenantID, name string) (*events.Aggregate, error) {
	unique := uniqueTopic(tenantID, name)
	cached, drops := l.aggregates.get("topic:" + unique)
	if cached != nil {
		return cached, nil
	}
	shardNo, f := events.ShardOf(tenantID, name, l.cfg.Shards), l.life.Load()
	k := l.shards[shardNo].keys
	id, err := l.client.HGet(ctx, k.names(), unique).Result()
	if errors.Is(err, goredis.Nil) {
		return nil, l.missing(ctx, f)
	}
	if err != nil {
		return nil, fmt.Errorf("load topic: %w", err)
	}
	values, err := l.client.HMGet(ctx, k.topic(id), "v", "s", "c", "u").Result()
	if err != nil {
		return nil, fmt.Errorf("load topic: %w", err)
	}
	a, err := decodeAggregate(id, shardNo, values, l.cfg.DecodeTopic)
	if errors.Is(err, events.ErrNoAggregate) {
		return nil, l.missing(ctx, f) // it went meanwhile, with all else perhaps
	}
	if err != nil {
		return nil, fmt.Errorf("load topic: %w", err)
	}
	l.aggregates.put("topic:"+unique, a, drops)
	return a, nil
}

// TopicByID returns a topic by id, whoever's it is, or events.ErrNoAggregate. It is not
// cached: who knows a topic's name should use that.
func (l *Log) TopicByID(ctx context.Context, id string) (*events.Aggregate, error) {
	return l.find(ctx, "topic", id, keys.topic, l.cfg.DecodeTopic)
}

// find looks for an aggregate on all shards, in one round trip.
func (l *Log) find(ctx context.Context, what, id string, key func(keys, string) string, decode func([]byte) (any, error)) (*events.Aggregate, error) {
	found, f := make([]*goredis.SliceCmd, len(l.shards)), l.life.Load()
	_, err := l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for n, s := range l.shards {
			found[n] = p.HMGet(ctx, key(s.keys, id), "v", "s", "c", "u")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", what, err)
	}
	for n, cmd := range found {
		a, err := decodeAggregate(id, n, cmd.Val(), decode)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, events.ErrNoAggregate) {
			return nil, fmt.Errorf("load %s: %w", what, err)
		}
	}
	return nil, l.missing(ctx, f)
}

// Subscription returns a subscription by id, whoever's it is, or
// events.ErrNoAggregate. Its shard is its topic's, so all shards are asked, in
// one round trip.
func (l *Log) Subscription(ctx context.Context, id string) (*events.Aggregate, error) {
	cached, drops := l.aggregates.get("sub:" + id)
	if cached != nil {
		return cached, nil
	}
	a, err := l.find(ctx, "subscription", id, keys.subscription, l.cfg.DecodeSubscription)
	if err == nil {
		l.aggregates.put("sub:"+id, a, drops)
	}
	return a, err
}

// Schedule returns a recurring schedule by id, whoever's it is, or
// events.ErrNoAggregate. It is not cached: few ask.
func (l *Log) Schedule(ctx context.Context, id string) (*events.Aggregate, error) {
	return l.find(ctx, "schedule", id, keys.schedule, l.cfg.DecodeSchedule)
}

// ScheduledTopic returns the topic on which a message waits to be released, and its
// shard, or events.ErrNoAggregate.
func (l *Log) ScheduledTopic(ctx context.Context, messageID string) (topicID string, shardNo int, err error) {
	found, f := make([]*goredis.StringCmd, len(l.shards)), l.life.Load()
	_, err = l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for n, s := range l.shards {
			found[n] = p.HGet(ctx, s.keys.scheduled(), messageID)
		}
		return nil
	})
	if err != nil && !errors.Is(err, goredis.Nil) {
		return "", 0, fmt.Errorf("look for scheduled message: %w", err)
	}
	for n, cmd := range found {
		if id := cmd.Val(); id != "" {
			return id, n, nil
		}
	}
	return "", 0, l.missing(ctx, f)
}

// Pushed returns the ids of all subscriptions whose messages are pushed.
func (l *Log) Pushed(ctx context.Context) ([]string, error) {
	found := make([]*goredis.StringSliceCmd, len(l.shards))
	_, err := l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for n, s := range l.shards {
			found[n] = p.SMembers(ctx, s.keys.push())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list pushed subscriptions: %w", err)
	}
	var ids []string
	for _, cmd := range found {
		ids = append(ids, cmd.Val()...)
	}
	return ids, nil
}

// Changed returns a channel that is closed when a topic or a subscription changes, or
// may have changed while nobody listened.
func (l *Log) Changed() <-chan struct{} { return l.changed.wait() }

// Subscriptions returns a topic's subscriptions, whoever's they are, in one round trip.
func (l *Log) Subscriptions(ctx context.Context, shardNo int, topicID string) ([]*events.Aggregate, error) {
	k := l.shards[shardNo].keys
	ids, err := l.client.HVals(ctx, k.subscriptions(topicID)).Result()
	if err != nil {
		return nil, fmt.Errorf("subscriptions of topic %s: %w", topicID, err)
	}
	found := make([]*goredis.SliceCmd, len(ids))
	_, err = l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i, id := range ids {
			found[i] = p.HMGet(ctx, k.subscription(id), "v", "s", "c", "u")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("subscriptions of topic %s: %w", topicID, err)
	}
	var all []*events.Aggregate
	for i, cmd := range found {
		a, err := decodeAggregate(ids[i], shardNo, cmd.Val(), l.cfg.DecodeSubscription)
		if errors.Is(err, events.ErrNoAggregate) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("subscriptions of topic %s: %w", topicID, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// reserveAttemptScript leaves nothing of a group that is gone. The first attempt of all has
// the number 1 without its being noted.
var reserveAttemptScript = goredis.NewScript(fenceSource + `
local topic, group = KEYS[1], ARGV[3]
if redis.call('HEXISTS', ARGV[1] .. 'groups:' .. ARGV[2], group) == 0 then return 0 end
redis.call('HSETNX', topic, 'am:' .. group, '1')
return redis.call('HINCRBY', topic, 'am:' .. group, 1)`)

// ReserveAttempt returns a number that no attempt of a group had, and from which those
// of messages that come to it once more may be counted: nobody else gets it. A group that
// is gone has none: events.ErrNoAggregate.
func (l *Log) ReserveAttempt(ctx context.Context, shardNo int, topicID, group string) (int64, error) {
	k, f := l.shards[shardNo].keys, l.life.Load()
	v, err := l.run(ctx, f, reserveAttemptScript, k.topic(topicID), []any{k.prefix, topicID, group})
	if err != nil {
		return 0, fmt.Errorf("reserve an attempt: %w", err)
	}
	var r reply
	n := r.int(v)
	if r.err != nil {
		return 0, fmt.Errorf("reserve an attempt: %w", r.err)
	}
	if n == 0 {
		return 0, l.missing(ctx, f)
	}
	return n, nil
}

// Forget drops an aggregate from the cache, for a caller that was told it is
// stale.
func (l *Log) Forget(id string) { l.aggregates.drop(id) }

func decodeAggregate(id string, shardNo int, values []any, decode func([]byte) (any, error)) (*events.Aggregate, error) {
	const fields = 4
	if len(values) != fields || slices.Contains(values, nil) {
		return nil, events.ErrNoAggregate
	}
	created, err1 := parsePosition(fmt.Sprint(values[2]))
	changed, err2 := parsePosition(fmt.Sprint(values[3]))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("positions of %s: %w", id, err)
	}
	version, err := strconv.ParseInt(fmt.Sprint(values[0]), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("version of %s: %w", id, err)
	}
	value, err := decode([]byte(fmt.Sprint(values[1])))
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", id, err)
	}
	return &events.Aggregate{ID: id, Shard: shardNo, Version: version, Created: created, Changed: changed, Value: value}, nil
}
