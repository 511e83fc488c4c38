package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"
)

// table is a map that is read without a lock and without allocating, and copied
// when it grows, which ends at max entries.
type table[K comparable, V any] struct {
	max int
	mu  sync.Mutex
	m   atomic.Pointer[map[K]V]
}

func newTable[K comparable, V any](limit int) *table[K, V] {
	t := &table[K, V]{max: limit}
	t.m.Store(&map[K]V{})
	return t
}

func (t *table[K, V]) get(k K) (V, bool) {
	v, ok := (*t.m.Load())[k]
	return v, ok
}

func (t *table[K, V]) full() bool { return len(*t.m.Load()) >= t.max }

// add returns k's value, making it if it is new; false when there is no room.
func (t *table[K, V]) add(k K, create func() V) (V, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.get(k)
	if ok {
		return v, true
	}
	if t.full() {
		return v, false
	}
	v = create()
	grown := maps.Clone(*t.m.Load())
	grown[k] = v
	t.m.Store(&grown)
	return v, true
}

// retain drops the entries that keep refuses.
func (t *table[K, V]) retain(keep func(K, V) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := map[K]V{}
	for k, v := range *t.m.Load() {
		if keep(k, v) {
			kept[k] = v
		}
	}
	t.m.Store(&kept)
}
