package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// Lag is how far a shard's fold is behind its log.
type Lag struct {
	// Events is how many are not folded.
	Events int64
	// Age is for how long the last folded event has been the last, 0 where all are
	// folded.
	Age time.Duration
	// Folded and Last are the positions of the last folded event and of the last one.
	Folded, Last events.Position
}

// Lag returns how far a shard's fold is behind.
func (l *Log) Lag(ctx context.Context, shardNo int) (Lag, error) {
	k := l.shards[shardNo].keys
	v, err := l.run(ctx, l.life.Load(), lagScript, k.log(), []any{k.prefix})
	if err != nil {
		return Lag{}, fmt.Errorf("lag of shard %d: %w", shardNo, err)
	}
	var r reply
	a := r.list(v)
	lag := Lag{Events: r.int(r.at(a, 1)), Folded: r.position(r.at(a, 2)), Last: r.position(r.at(a, 3))}
	if r.err != nil {
		return Lag{}, fmt.Errorf("lag of shard %d: %w", shardNo, r.err)
	}
	if lag.Events > 0 && lag.Folded > 0 {
		lag.Age = max(time.Duration(r.int(r.at(a, 0))-lag.Folded.Ms())*time.Millisecond, 0)
	}
	return lag, nil
}

// Check reports whether every shard's scripts run.
func (l *Log) Check(ctx context.Context) error {
	for n, s := range l.shards {
		// A lease for a subscription that is none: the script runs and finds nothing.
		_, err := l.run(ctx, l.life.Load(), leaseScript, s.keys.due(), []any{s.keys.prefix, "-", "-", "-", "-", -1, 1, 1, 1, 0, 0, 0})
		if err != nil {
			return fmt.Errorf("shard %d: %w", n, err)
		}
	}
	return nil
}

// board is where instances leave what they measured, for whichever is asked.
func (l *Log) board() string { return l.cfg.Prefix + "{board}:" }

// boardInstancesMax bounds how many instances' posts are read.
const boardInstancesMax = 256

// Post leaves an instance's data for ttl.
func (l *Log) Post(ctx context.Context, instance string, data []byte, ttl time.Duration) error {
	now := time.Now()
	_, err := l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		p.Set(ctx, l.board()+instance, data, ttl)
		p.ZAdd(ctx, l.board()+"instances", goredis.Z{Score: float64(now.Add(ttl).UnixMilli()), Member: instance})
		p.ZRemRangeByScore(ctx, l.board()+"instances", "-inf", strconv.FormatInt(now.Add(-ttl).UnixMilli(), 10))
		return nil
	})
	if err != nil {
		return fmt.Errorf("post: %w", err)
	}
	return nil
}

// Posts returns what other instances left and what has not expired.
func (l *Log) Posts(ctx context.Context, own string) ([][]byte, error) {
	names, err := l.client.ZRevRange(ctx, l.board()+"instances", 0, boardInstancesMax-1).Result()
	names = slices.DeleteFunc(names, func(name string) bool { return name == own })
	if err != nil || len(names) == 0 {
		return nil, wrap("posts", err)
	}
	for i, name := range names {
		names[i] = l.board() + name
	}
	values, err := l.client.MGet(ctx, names...).Result()
	if err != nil {
		return nil, wrap("posts", err)
	}
	var posts [][]byte
	for _, v := range values {
		if text, ok := v.(string); ok {
			posts = append(posts, []byte(text))
		}
	}
	return posts, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
