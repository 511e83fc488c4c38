package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Limits of sampling.
const (
	// SameMessageMax is how many records with the same level and message are
	// written in one SampleInterval.
	SameMessageMax = 5
	// SampleInterval is the time over which records are counted.
	SampleInterval = time.Second
	// messagesMax bounds how many different messages are counted; past it the
	// counts start anew.
	messagesMax = 1000
)

// NewSampler returns a handler that passes records on to next, at most
// [SameMessageMax] with the same level and message in a [SampleInterval]. The
// first record after a time of suppression says in "suppressed" how many there
// were. When a store is away, thousands of requests a second say the same.
func NewSampler(next slog.Handler) slog.Handler {
	return &sampler{next: next, counts: &counts{seen: map[sampleKey]*count{}}}
}

type sampleKey struct {
	level   slog.Level
	message string
}

type count struct {
	since             time.Time
	written, withheld int
}

type counts struct {
	mu   sync.Mutex
	seen map[sampleKey]*count
}

// pass reports whether a record may pass, and how many did not before it.
func (c *counts) pass(key sampleKey, now time.Time) (ok bool, withheld int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.seen[key]
	if n == nil {
		if len(c.seen) >= messagesMax {
			c.seen = map[sampleKey]*count{}
		}
		n = &count{since: now}
		c.seen[key] = n
	}
	if now.Sub(n.since) >= SampleInterval {
		withheld = n.withheld
		*n = count{since: now}
	}
	if n.written == SameMessageMax {
		n.withheld++
		return false, 0
	}
	n.written++
	return true, withheld
}

type sampler struct {
	next   slog.Handler
	counts *counts
}

func (s *sampler) Enabled(ctx context.Context, level slog.Level) bool {
	return s.next.Enabled(ctx, level)
}

func (s *sampler) Handle(ctx context.Context, r slog.Record) error {
	ok, withheld := s.counts.pass(sampleKey{level: r.Level, message: r.Message}, r.Time)
	if !ok {
		return nil
	}
	if withheld > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("suppressed", withheld))
	}
	return s.next.Handle(ctx, r) //nolint:wrapcheck // the next handler's own
}

func (s *sampler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &sampler{next: s.next.WithAttrs(attrs), counts: s.counts}
}

func (s *sampler) WithGroup(name string) slog.Handler {
	return &sampler{next: s.next.WithGroup(name), counts: s.counts}
}
