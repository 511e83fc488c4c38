package keyring

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

// How long keys are held and waited for.
const (
	// TenantsMax bounds how many tenants' current keys are held, and how many keys to
	// open with. Each takes less than 2 KiB.
	TenantsMax = 4096
	// KeepFor is how long a key is used before the store must say that it still is one.
	KeepFor = 5 * time.Minute
	// KeepAway is the same while the store is away.
	KeepAway = time.Hour
	// LoadTimeout bounds a load.
	LoadTimeout = 3 * time.Second

	// refreshAfter is when a key in use is asked for again while it goes on serving.
	refreshAfter = KeepFor - time.Minute
	// retryAfter is when the store is asked again after it failed.
	retryAfter = 5 * time.Second
	// missFor is how long a key that there is none of is not asked for again.
	missFor = 10 * time.Second
)

// loader holds values and loads those that it does not hold. Callers that miss the
// same one share a load, which ends whether or not they wait for it.
type loader[K comparable, V any] struct {
	// load gets what was held before, or the zero value.
	load func(ctx context.Context, key K, held V) (V, error)
	now  func() time.Time

	mu    sync.Mutex
	held  recent[K, *entry[V]]
	loads map[K]*call[V]
}

// entry is a value, or the reason why there is none. It serves until waitAt without
// question, and until dropAt if the store does not answer.
type entry[V any] struct {
	value                     V
	err                       error
	refreshAt, waitAt, dropAt time.Time
}

// call is a load under way; its results are there once done is closed.
type call[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func newLoader[K comparable, V any](now func() time.Time, load func(context.Context, K, V) (V, error)) *loader[K, V] {
	return &loader[K, V]{load: load, now: now, held: recent[K, *entry[V]]{most: TenantsMax}, loads: map[K]*call[V]{}}
}

// get returns the value of a key. It waits for the store only where it must.
func (l *loader[K, V]) get(ctx context.Context, key K) (V, error) {
	now := l.now()
	l.mu.Lock()
	var held entry[V] // one that was never put is past every time
	if e, ok := l.held.get(key); ok {
		held = *e
	}
	var c *call[V]
	if !now.Before(held.refreshAt) {
		c = l.start(key, held.value)
	}
	l.mu.Unlock()
	if now.Before(held.waitAt) {
		return held.value, held.err
	}
	value, err := c.wait(ctx)
	if errors.Is(err, ErrStore) && now.Before(held.dropAt) {
		return held.value, held.err
	}
	return value, err
}

func (c *call[V]) wait(ctx context.Context) (value V, err error) {
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		return value, fmt.Errorf("%w: wait for a tenant key: %w", ErrStore, ctx.Err())
	}
}

// start needs the lock. It returns the load that is under way, or begins one.
func (l *loader[K, V]) start(key K, held V) *call[V] {
	if c := l.loads[key]; c != nil {
		return c
	}
	c := &call[V]{done: make(chan struct{})}
	l.loads[key] = c
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), LoadTimeout)
		defer cancel()
		c.value, c.err = l.load(ctx, key, held)
		l.finish(key, c)
	}()
	return c
}

func (l *loader[K, V]) finish(key K, c *call[V]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(c.done)
	if l.loads[key] != c {
		return // it was begun before the key was forgotten
	}
	delete(l.loads, key)
	now := l.now()
	switch {
	case c.err == nil:
		l.put(key, c.value)
	case !errors.Is(c.err, ErrStore):
		until := now.Add(missFor)
		l.held.put(key, &entry[V]{err: c.err, refreshAt: until, waitAt: until, dropAt: until})
	default:
		if e, ok := l.held.get(key); ok && now.Before(e.dropAt) {
			e.refreshAt = now.Add(retryAfter)
			e.waitAt = e.refreshAt.Add(KeepFor - refreshAfter)
		}
	}
}

// forget forgets values, and what a load under way finds of them.
func (l *loader[K, V]) forget(is func(K) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held.drop(is)
	maps.DeleteFunc(l.loads, func(key K, _ *call[V]) bool { return is(key) })
}

// put needs the lock.
func (l *loader[K, V]) put(key K, value V) {
	now := l.now()
	l.held.put(key, &entry[V]{value: value, refreshAt: now.Add(refreshAfter), waitAt: now.Add(KeepFor), dropAt: now.Add(KeepAway)})
}

// offer puts a value that was just loaded by another way.
func (l *loader[K, V]) offer(key K, value V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(key, value)
}
