package redis

import (
	"sync"
	"sync/atomic"
	"time"
)

// window holds the entries of a subscription that are in flight.
type window struct {
	mu      sync.Mutex
	size    int
	entries map[string]*groupEntry
	// aside are undecodable entries: pending, of this consumer, but nobody's work.
	aside   map[string]struct{}
	changed chan struct{}
}

// groupEntry is a pending entry of this consumer.
type groupEntry struct {
	id     string
	values map[string]any
	// count is how many times it was delivered, this time included.
	count int64
	// acked is set from the ack on; lost once it was reported that the entry is no
	// longer this consumer's.
	acked, lost atomic.Bool
}

func newWindow(size int) *window {
	return &window{
		size: size, entries: map[string]*groupEntry{}, aside: map[string]struct{}{}, changed: make(chan struct{}),
	}
}

// add returns false for an entry that is in flight already.
func (w *window) add(e *groupEntry) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.entries[e.id]; there {
		return false
	}
	w.entries[e.id] = e
	return true
}

func (w *window) remove(entries ...*groupEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range entries {
		delete(w.entries, e.id)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// replace puts entries that were read again in the place of what they were, and
// removes those that were not, in one step: the window has no room meanwhile.
func (w *window) replace(before, again []*groupEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range before {
		delete(w.entries, e.id)
	}
	for _, e := range again {
		w.entries[e.id] = e
	}
	if len(again) < len(before) {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// setAside returns false for an entry that was set aside before. Past asideMax it
// remembers none, and they are reported again whenever they are come across.
func (w *window) setAside(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.aside[id]; there {
		return false
	}
	if len(w.aside) < asideMax {
		w.aside[id] = struct{}{}
	}
	return true
}

func (w *window) dropAside(ids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.aside, id)
	}
}

// known says whether an entry is in flight or set aside.
func (w *window) known(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, inFlight := w.entries[id]
	_, aside := w.aside[id]
	return inFlight || aside
}

// load returns how many entries are in flight, and what is closed when that number
// falls.
func (w *window) load() (int, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.entries), w.changed
}

// all returns the entries in flight and the ids of those set aside.
func (w *window) all() (inFlight []*groupEntry, aside []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.entries {
		inFlight = append(inFlight, e)
	}
	for id := range w.aside {
		aside = append(aside, id)
	}
	return inFlight, aside
}

// collect adds what waits to a first item, up to a batch.
func collect[T any](first T, more <-chan T) []T {
	batch := []T{first}
	for len(batch) < batchMax {
		select {
		case item := <-more:
			batch = append(batch, item)
		default:
			return batch
		}
	}
	return batch
}

// nackDelay is the delay before the delivery that follows the count-th: it doubles
// from least up to most.
func nackDelay(least, most time.Duration, count int64) time.Duration {
	delay := least
	for range count - 1 {
		if delay >= most/2 {
			return most
		}
		delay *= 2
	}
	return min(delay, most)
}
