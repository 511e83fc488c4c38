package telemetry

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
)

// Limits of a snapshot.
const (
	// SnapshotVersion is the version of the format. [Merge] leaves out others, so
	// that instances of two versions can run side by side.
	SnapshotVersion = 1
	// SnapshotBytesMax bounds one.
	SnapshotBytesMax = 4 << 20
	// nameBytesMax bounds a name in one.
	nameBytesMax = 1000
)

// snapshot is what an instance measured, as JSON with short names: it is written
// every few seconds.
type snapshot struct {
	Version   int              `json:"v"`
	ElapsedMs int64            `json:"ms"`
	Series    []snapshotSeries `json:"s"`
}

type snapshotSeries struct {
	Tenant string `json:"t,omitempty"`
	Topic  string `json:"q,omitempty"`
	// Group is "" for what is counted per topic.
	Group      string           `json:"g,omitempty"`
	Counts     [countsOf]uint32 `json:"n"`
	Delivery   *snapshotSpread  `json:"d,omitempty"`
	Processing *snapshotSpread  `json:"p,omitempty"`
}

type snapshotSpread struct {
	SumUs float64 `json:"u"`
	// Buckets are pairs: a bucket, and how many are in it.
	Buckets []uint32 `json:"b"`
}

// Snapshot is what the instance measured in the last minute, for [Merge].
func (w *Window) Snapshot() []byte {
	now := w.now()
	out := snapshot{Version: SnapshotVersion, ElapsedMs: w.elapsed(now).Milliseconds()}
	add := func(key triple, s *windowSeries) {
		m := s.minute(now.Unix())
		if m.counts == [countsOf]uint64{} {
			return
		}
		out.Series = append(out.Series, snapshotSeries{
			Tenant: valid(key.tenant), Topic: valid(key.topic), Group: valid(key.group),
			Counts: m.packed(), Delivery: m.delivery.packed(), Processing: m.processing.packed(),
		})
	}
	for key, s := range *w.series.m.Load() {
		add(key, s)
	}
	add(triple{Other, Other, Other}, w.overflow)
	data, err := json.Marshal(out)
	if err != nil {
		panic("a snapshot is not JSON: " + err.Error()) // its types cannot fail
	}
	return data
}

func (m minute) packed() (out [countsOf]uint32) {
	for kind, n := range m.counts {
		out[kind] = clamp32(n)
	}
	return out
}

func (s *spread) packed() *snapshotSpread {
	if s.count == 0 {
		return nil
	}
	out := &snapshotSpread{SumUs: s.sumUs}
	for bucket, n := range s.counts {
		if n > 0 {
			out.Buckets = append(out.Buckets, uint32(bucket), clamp32(n))
		}
	}
	return out
}

func clamp32(n uint64) uint32 { return uint32(min(n, 1<<32-1)) }

// parseSnapshot reads what [Window.Snapshot] wrote, and nothing else.
func parseSnapshot(data []byte) (snapshot, error) {
	var s snapshot
	if len(data) > SnapshotBytesMax {
		return s, fmt.Errorf("a snapshot has %d bytes; allowed: %d", len(data), SnapshotBytesMax)
	}
	if err := json.Unmarshal(data, &s, json.RejectUnknownMembers(true)); err != nil {
		return s, fmt.Errorf("read a snapshot: %w", err)
	}
	if s.Version != SnapshotVersion {
		return s, fmt.Errorf("a snapshot has version %d; known: %d", s.Version, SnapshotVersion)
	}
	if s.ElapsedMs < 1000 || s.ElapsedMs > WindowSeconds*1000 {
		return s, errors.New("a snapshot's time is not that of a window")
	}
	if len(s.Series) > WindowSeriesMax+1 {
		return s, fmt.Errorf("a snapshot has %d series; allowed: %d", len(s.Series), WindowSeriesMax+1)
	}
	for _, one := range s.Series {
		if len(one.Tenant) > nameBytesMax || len(one.Topic) > nameBytesMax || len(one.Group) > nameBytesMax {
			return s, errors.New("a name in a snapshot is too long")
		}
		if !one.Delivery.sound() || !one.Processing.sound() {
			return s, errors.New("latencies in a snapshot are not sound")
		}
	}
	return s, nil
}

func (s *snapshotSpread) sound() bool {
	if s == nil {
		return true
	}
	if len(s.Buckets)%2 != 0 || len(s.Buckets) > 2*latencyBuckets {
		return false
	}
	for i := 0; i < len(s.Buckets); i += 2 {
		if s.Buckets[i] >= latencyBuckets {
			return false
		}
	}
	return s.SumUs >= 0 && s.SumUs <= float64(s.unpacked().count)*float64(latencyMax/time.Microsecond)
}

func (s *snapshotSpread) unpacked() *spread {
	var out spread
	if s == nil {
		return &out
	}
	out.sumUs = s.SumUs
	for i := 0; i+1 < len(s.Buckets); i += 2 {
		out.counts[s.Buckets[i]] += uint64(s.Buckets[i+1])
		out.count += uint64(s.Buckets[i+1])
	}
	return &out
}
