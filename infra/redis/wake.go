package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// Run listens for wake-ups until ctx ends: one subscription for all shards,
// whatever the number of queues and polls. Without it the log works, but polls
// and waits are only as quick as their re-checks.
func (l *Log) Run(ctx context.Context) {
	channels := make(map[string]*shard, len(l.shards))
	names := make([]string, 0, len(l.shards))
	for _, s := range l.shards {
		channels[s.keys.wake()] = s
		names = append(names, s.keys.wake())
	}
	for ctx.Err() == nil {
		l.listen(ctx, channels, l.client.Subscribe(ctx, names...))
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// wakeSilence is how long a connection for wake-ups may be silent before it is asked
// for a sign of life, and again before it is given up: one that hangs loses wake-ups
// without a word.
const wakeSilence = 5 * time.Second

// listen handles one connection's wake-ups until it breaks.
func (l *Log) listen(ctx context.Context, channels map[string]*shard, sub *goredis.PubSub) {
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer stop()
	defer func() { _ = sub.Close() }()
	asked := false
	for {
		v, err := sub.ReceiveTimeout(ctx, l.wakeSilence)
		if silent, ok := errors.AsType[net.Error](err); ok && silent.Timeout() && !asked {
			if err = sub.Ping(ctx); err == nil {
				asked = true
				continue
			}
		}
		if err != nil {
			return
		}
		asked = false
		switch m := v.(type) {
		case *goredis.Subscription:
			// Whatever happened while nobody listened: forget and look again.
			l.aggregates.dropAll()
			l.hub.wakeAll()
			l.changed.raise()
		case *goredis.Message:
			for line := range strings.SplitSeq(m.Payload, "\n") {
				l.woken(channels[m.Channel], line)
			}
		}
	}
}

// woken handles one line of a wake-up: a letter and what it concerns.
func (l *Log) woken(s *shard, line string) {
	what, about, _ := strings.Cut(line, " ")
	switch what {
	case "q":
		l.hub.wakeTopic(about)
	case "r":
		topicID, group, _ := strings.Cut(about, " ")
		l.hub.wakeGroup(topicID, group)
	case "t":
		l.hub.wakeTopicAll(about)
	case "s":
		topicID, group, _ := strings.Cut(about, " ")
		l.hub.wakeGroupAll(topicID, group)
	case "a":
		l.aggregates.drop(about)
		l.changed.raise()
	case "d":
		if ms, err := strconv.ParseInt(about, 10, 64); err == nil {
			s.nextDue.at(time.Now().Add(time.Duration(max(ms, 0)) * time.Millisecond))
		}
	case "k":
		if l.cfg.KeysDestroyed != nil {
			l.cfg.KeysDestroyed(about)
		}
	case "f":
		position, life, _ := strings.Cut(about, " ")
		n, err := strconv.ParseInt(position, 10, 64)
		of, lifeErr := strconv.ParseInt(life, 10, 64)
		if err == nil && lifeErr == nil {
			s.folded.announce(events.Position(n), of)
		}
	}
}

// AnnounceKeysDestroyed tells every instance that a tenant's keys were destroyed; see
// [Config.KeysDestroyed].
func AnnounceKeysDestroyed(ctx context.Context, client goredis.UniversalClient, prefix, tenantID string) error {
	if err := client.Publish(ctx, shardKeys(prefix, 0).wake(), "k "+tenantID).Err(); err != nil {
		return fmt.Errorf("announce that keys were destroyed: %w", err)
	}
	return nil
}
