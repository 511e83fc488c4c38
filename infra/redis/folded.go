package redis

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// foldedTick is how often a shard's folded position is stored and its log trimmed;
// and how often an instance on which somebody waits looks at what is stored, in case
// an announcement was lost.
const foldedTick = 250 * time.Millisecond

// foldTracker knows how far a shard's log is folded into Postgres, and wakes
// those who wait for a position.
type foldTracker struct {
	mu   sync.Mutex
	upTo events.Position
	// life is the log's, see [life].
	life    int64
	waiting foldHeap
	// moved is told of every move.
	moved *signal
}

// signal wakes all who wait for the next of something.
type signal struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait returns a channel that is closed at the next one.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
	}
	return s.next
}

func (s *signal) raise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		close(s.next)
		s.next = nil
	}
}

type foldWait struct {
	position events.Position
	done     chan struct{}
	// abandoned says that what stood at position may be lost, once done is closed.
	abandoned bool
	// at is its place in the heap, -1 once it has left.
	at int
}

// foldHeap is a min-heap on position.
type foldHeap []*foldWait //nolint:recvcheck // as container/heap has it

func (h foldHeap) Len() int           { return len(h) }
func (h foldHeap) Less(i, j int) bool { return h[i].position < h[j].position }

func (h foldHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *foldHeap) Push(x any) {
	w := x.(*foldWait) //nolint:forcetypeassert // ours alone
	w.at = len(*h)
	*h = append(*h, w)
}

func (h *foldHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	w.at = -1
	(*h)[last] = nil
	*h = (*h)[:last]
	return w
}

// announce notes how far a log of a life is folded. What is said of another life is of
// other events, at the same positions perhaps.
func (t *foldTracker) announce(upTo events.Position, life int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if upTo <= t.upTo || life != t.life {
		return
	}
	t.upTo = upTo
	t.moved.raise()
	for len(t.waiting) > 0 && t.waiting[0].position <= upTo {
		close(heap.Pop(&t.waiting).(*foldWait).done) //nolint:forcetypeassert // ours alone
	}
}

// wait returns a wait that is done when position is folded. Who stops waiting
// before that says so with leave: while Postgres is away, waits come and go, and
// nothing is folded.
func (t *foldTracker) wait(position events.Position) *foldWait {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &foldWait{position: position, done: make(chan struct{}), at: -1}
	if position <= t.upTo {
		close(w.done)
	} else {
		heap.Push(&t.waiting, w)
	}
	return w
}

// renew ends every wait, and begins anew with a life.
func (t *foldTracker) renew(life int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.upTo, t.life = 0, life
	for len(t.waiting) > 0 {
		w := heap.Pop(&t.waiting).(*foldWait) //nolint:forcetypeassert // ours alone
		w.abandoned = true
		close(w.done)
	}
}

// awaited reports whether anybody waits.
func (t *foldTracker) awaited() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) > 0
}

func (t *foldTracker) leave(w *foldWait) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.at >= 0 {
		heap.Remove(&t.waiting, w.at)
	}
}

// WaitFolded returns once everything up to position is folded into Postgres, on
// whichever instance that happens, or with ctx's error. run is as in [events.Outcome], 0 for
// whichever: where Redis may have lost what it had since, it returns [ErrLogLost].
func (l *Log) WaitFolded(ctx context.Context, shardNo int, run uint64, position events.Position) error {
	s := l.shards[shardNo]
	w := s.folded.wait(position)
	defer s.folded.leave(w)
	// Looked at behind the wait's beginning: what comes later ends it.
	if now := l.life.Load().run; run != 0 && run != now {
		return fmt.Errorf("wait for the fold of %d/%d: %w", shardNo, position, ErrLogLost)
	}
	select {
	case <-w.done:
		if w.abandoned {
			return fmt.Errorf("wait for the fold of %d/%d: %w", shardNo, position, ErrLogLost)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the fold of %d/%d: %w", shardNo, position, ctx.Err())
	}
}

// followRecheck is how often one who follows looks for themselves, in case an
// announcement was lost.
const followRecheck = 5 * time.Second

// Moved returns a channel that is closed when the next events of any shard are folded,
// or after a while without. Ask for it before looking at what is there.
func (l *Log) Moved() <-chan struct{} { return l.moved.wait() }

// recheckMoves lets those who follow look for themselves now and then.
func (l *Log) recheckMoves() {
	ticker := time.NewTicker(followRecheck)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			l.moved.raise()
		case <-l.closing:
			return
		}
	}
}

// storedPosition reads a position, stored as an entry's id, 0 where there is none.
func storedPosition(ctx context.Context, client goredis.UniversalClient, key string) (events.Position, error) {
	id, err := client.Get(ctx, key).Result()
	if errors.Is(err, goredis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", key, err)
	}
	return parsePosition(id)
}

// Announce tells every instance that a shard is folded up to a position. Waits on
// this instance are over at once; the others are told in the background, the
// latest position standing for all before it. It does not block.
func (l *Log) Announce(shardNo int, upTo events.Position) {
	s := l.shards[shardNo]
	s.folded.announce(upTo, l.life.Load().number)
	s.folded.mu.Lock()
	// Lower where Postgres came back without what it had committed last.
	s.announcing, s.folded.upTo = upTo, min(s.folded.upTo, upTo)
	s.folded.mu.Unlock()
	select {
	case s.announce <- struct{}{}:
	default:
	}
}

// announceLoop publishes the positions that this instance announces. Publishing
// costs Redis no disk write; storing the position for those who look, and trimming
// the log, happens once in a foldedTick. It looks for those who wait, too.
func (l *Log) announceLoop(shardNo int, s *shard) {
	var published, stored events.Position
	var again time.Time
	ticker := time.NewTicker(foldedTick)
	defer ticker.Stop()
	for {
		tick := false
		select {
		case <-s.announce:
		case <-ticker.C:
			tick = true
		case <-l.closing:
			return
		}
		s.folded.mu.Lock()
		upTo := s.announcing
		s.folded.mu.Unlock()
		var err error
		if upTo > published {
			if err = l.publishFolded(s, upTo); err == nil {
				published = upTo
			}
		}
		// What is kept in the log for a while goes once that is over, too.
		if tick && err == nil && (upTo > stored || (!again.IsZero() && time.Now().After(again))) {
			if err = l.storeFolded(shardNo, upTo); err == nil {
				again = time.Time{}
				if upTo > stored {
					again = time.Now().Add(l.cfg.KeepFolded + foldedTick)
				}
				stored = upTo
			}
		}
		if tick && s.folded.awaited() && err == nil {
			err = l.lookFolded(shardNo, s)
		}
		if err != nil {
			// Others look for themselves, and the next tick tries again.
			l.cfg.Logger.Debug("announce folded position", "shard", shardNo, "error", err)
		}
	}
}

// lookFolded tells those who wait what is stored.
func (l *Log) lookFolded(shardNo int, s *shard) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	f := l.life.Load()
	values, err := l.client.MGet(ctx, s.keys.folded(), s.keys.epoch()).Result()
	if err != nil {
		return fmt.Errorf("folded position of shard %d: %w", shardNo, err)
	}
	id, _ := values[0].(string)
	epoch, _ := values[1].(string)
	if id == "" || (f.epoch != "" && epoch != f.epoch) {
		return nil
	}
	upTo, err := parsePosition(id)
	if err != nil {
		return err
	}
	s.folded.announce(upTo, f.number)
	return nil
}

func (l *Log) publishFolded(s *shard, upTo events.Position) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if err := l.client.Publish(ctx, s.keys.wake(), fmt.Sprintf("f %d %d", upTo, l.life.Load().number)).Err(); err != nil {
		return fmt.Errorf("publish folded position: %w", err)
	}
	return nil
}

func (l *Log) storeFolded(shardNo int, upTo events.Position) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	_, err := l.TrimLog(ctx, shardNo, upTo)
	return err
}

// TrimLog notes how far a shard is folded and removes what is, but for what a consumer
// group on the log has not finished. It returns how many entries went.
func (l *Log) TrimLog(ctx context.Context, shardNo int, folded events.Position) (int64, error) {
	k := l.shards[shardNo].keys
	v, err := l.run(ctx, l.life.Load(), trimScript, k.log(), []any{k.prefix, entryID(folded), l.cfg.KeepFolded.Milliseconds()})
	if err != nil {
		return 0, fmt.Errorf("trim log: %w", err)
	}
	var r reply
	return r.int(v), r.err
}
