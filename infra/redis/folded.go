package redis

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// foldedRecheck is how often a wait looks for itself, in case the announcement it
// waits for was lost.
const foldedRecheck = 500 * time.Millisecond

// foldTracker knows how far a shard's log is folded into Postgres, and wakes
// those who wait for a position.
type foldTracker struct {
	mu      sync.Mutex
	upTo    events.Position
	waiting foldHeap
}

type foldWait struct {
	position events.Position
	done     chan struct{}
}

// foldHeap is a min-heap on position.
type foldHeap []foldWait

func (h foldHeap) Len() int           { return len(h) }
func (h foldHeap) Less(i, j int) bool { return h[i].position < h[j].position }
func (h foldHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *foldHeap) Push(x any)        { *h = append(*h, x.(foldWait)) } //nolint:forcetypeassert // ours alone
func (h *foldHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

func (t *foldTracker) announce(upTo events.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if upTo <= t.upTo {
		return
	}
	t.upTo = upTo
	for len(t.waiting) > 0 && t.waiting[0].position <= upTo {
		close(heap.Pop(&t.waiting).(foldWait).done) //nolint:forcetypeassert // ours alone
	}
}

// wait returns a channel that is closed when position is folded.
func (t *foldTracker) wait(position events.Position) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	done := make(chan struct{})
	if position <= t.upTo {
		close(done)
	} else {
		heap.Push(&t.waiting, foldWait{position: position, done: done})
	}
	return done
}

// WaitFolded returns once everything up to position is folded into Postgres, on
// whichever instance that happens, or with ctx's error.
func (l *Log) WaitFolded(ctx context.Context, shardNo int, position events.Position) error {
	s := l.shards[shardNo]
	done := s.folded.wait(position)
	select {
	case <-done:
		return nil
	default:
	}
	ticker := time.NewTicker(foldedRecheck)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for the fold of %d/%d: %w", shardNo, position, ctx.Err())
		case <-ticker.C:
			if upTo, err := l.Folded(ctx, shardNo); err == nil {
				s.folded.announce(upTo)
			}
		}
	}
}

// Folded returns how far a shard was folded by the last announcement, 0 if there
// was none. It is a lower bound: Postgres knows exactly.
func (l *Log) Folded(ctx context.Context, shardNo int) (events.Position, error) {
	v, err := l.client.Get(ctx, l.shards[shardNo].keys.folded()).Result()
	if errors.Is(err, goredis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("folded position: %w", err)
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("folded position: %w", err)
	}
	return events.Position(n), nil
}

// Announce tells every instance that a shard is folded up to a position. Waits on
// this instance are over at once; for the others a failure only means that they
// look for themselves.
func (l *Log) Announce(ctx context.Context, shardNo int, upTo events.Position) {
	s := l.shards[shardNo]
	s.folded.announce(upTo)
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	_, err := l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		p.Set(ctx, s.keys.folded(), int64(upTo), 0)
		p.Publish(ctx, s.keys.wake(), fmt.Sprintf("f %d", upTo))
		return nil
	})
	if err != nil && ctx.Err() == nil {
		l.cfg.Logger.Warn("announce folded position", "shard", shardNo, "error", err)
	}
}

// TrimLog removes what is folded from a shard's log, but for what a consumer
// group on the log has not finished. It returns how many entries went.
func (l *Log) TrimLog(ctx context.Context, shardNo int, folded events.Position) (int64, error) {
	key := l.shards[shardNo].keys.log()
	floor := folded
	groups, err := l.client.XInfoGroups(ctx, key).Result()
	if err != nil && !goredis.HasErrorPrefix(err, "ERR no such key") {
		return 0, fmt.Errorf("trim log: %w", err)
	}
	for _, g := range groups {
		finished := g.LastDeliveredID
		if g.Pending > 0 {
			pending, err := l.client.XPending(ctx, key, g.Name).Result()
			if err != nil {
				return 0, fmt.Errorf("trim log: %w", err)
			}
			finished = pending.Lower
		}
		if p, err := parsePosition(finished); err == nil && p < floor {
			floor = p
		}
	}
	n, err := l.client.XTrimMinIDApprox(ctx, key, entryID(floor), 0).Result()
	if err != nil {
		return 0, fmt.Errorf("trim log: %w", err)
	}
	return n, nil
}
