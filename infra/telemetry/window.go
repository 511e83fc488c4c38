package telemetry

import (
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a window.
const (
	// WindowSeconds is how far back it reaches.
	WindowSeconds = 60
	// WindowSeriesMax is how many topics and consumer groups, together, are measured
	// each for itself in an instance; the rest count as [Other]. Those idle for
	// WindowSeconds make room. A busy one takes 25 KiB.
	WindowSeriesMax = 500
)

// Window measures what this instance did in the last minute: counts in slots of a
// second, and latencies. [Window.Snapshot] says it in a form that [Merge] puts
// together with those of other instances. All methods may be called at once from
// many goroutines.
type Window struct {
	now      func() time.Time
	start    time.Time
	series   *table[triple, *windowSeries]
	overflow *windowSeries
	// swept is the second in which idle series last made room.
	swept atomic.Int64
}

// What is counted. A dead-lettered message also counts as failed.
const (
	published = iota
	delivered
	acked
	failed
	deadLettered
	countsOf
)

// windowSeries is a topic (its group is "") or a consumer group.
type windowSeries struct {
	mu                   sync.Mutex
	slots                [WindowSeconds]windowSlot
	last                 int64 // the second of the last observation
	delivery, processing latencies
}

type windowSlot struct {
	second int64
	counts [countsOf]uint32
}

// NewWindow begins measuring. now is time.Now unless it is given.
func NewWindow(now func() time.Time) *Window {
	if now == nil {
		now = time.Now
	}
	return &Window{
		now: now, start: now(),
		series:   newTable[triple, *windowSeries](WindowSeriesMax),
		overflow: &windowSeries{},
	}
}

// Published counts messages accepted.
func (w *Window) Published(tenantID, queue string, messages int) {
	second := w.now().Unix()
	s := w.find(triple{tenantID, queue, ""}, second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slot(second).counts[published] += uint32(max(messages, 0)) //nolint:gosec // a batch is small
}

// Delivered counts a message handed to a consumer, waited after it was published.
func (w *Window) Delivered(tenantID, queue, group string, waited time.Duration) {
	second := w.now().Unix()
	s := w.find(triple{tenantID, queue, group}, second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slot(second).counts[delivered]++
	s.delivery.observe(second, waited)
}

// Settled counts the end of a delivery; the processing time is measured for those
// that are acked.
func (w *Window) Settled(tenantID, queue, group, outcome string, processing time.Duration) {
	second := w.now().Unix()
	s := w.find(triple{tenantID, queue, group}, second)
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slot(second)
	switch outcome {
	case OutcomeAcked:
		slot.counts[acked]++
		s.processing.observe(second, processing)
	case OutcomeDeadLetter:
		slot.counts[failed]++
		slot.counts[deadLettered]++
	default:
		slot.counts[failed]++
	}
}

// slot is the slot of a second, emptied if it was an earlier one's.
func (s *windowSeries) slot(second int64) *windowSlot {
	s.last = second
	slot := &s.slots[second%WindowSeconds]
	if slot.second != second {
		*slot = windowSlot{second: second}
	}
	return slot
}

// find returns the series of a topic or group, making it if there is room.
func (w *Window) find(key triple, second int64) *windowSeries {
	if s, ok := w.series.get(key); ok {
		return s
	}
	if w.series.full() && !w.sweep(second) {
		return w.overflow
	}
	s, ok := w.series.add(key, func() *windowSeries { return &windowSeries{last: second} })
	if !ok {
		return w.overflow
	}
	return s
}

// sweep drops the idle series, at most once a second, and reports whether it did.
func (w *Window) sweep(second int64) bool {
	before := w.swept.Load()
	if before == second || !w.swept.CompareAndSwap(before, second) {
		return false
	}
	w.series.retain(func(_ triple, s *windowSeries) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.last > second-WindowSeconds
	})
	return true
}

// minute is what a series counted in the last minute.
type minute struct {
	counts               [countsOf]uint64
	delivery, processing *spread
}

func (s *windowSeries) minute(second int64) minute {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out minute
	for i := range s.slots {
		if slot := &s.slots[i]; slot.second > second-WindowSeconds {
			for kind, n := range slot.counts {
				out.counts[kind] += uint64(n)
			}
		}
	}
	out.delivery, out.processing = s.delivery.sum(second), s.processing.sum(second)
	return out
}

// elapsed is the time that counts at now cover.
func (w *Window) elapsed(now time.Time) time.Duration {
	oldest := time.Unix(now.Unix()-WindowSeconds+1, 0)
	return max(min(now.Sub(oldest), now.Sub(w.start)), time.Second)
}
