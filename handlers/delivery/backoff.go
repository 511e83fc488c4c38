package delivery

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is how long to pause before the next try: twice as long each time, up to most,
// with jitter.
type backoff struct{ pauses, least, most time.Duration }

func newBackoff(least, most time.Duration) *backoff {
	return &backoff{pauses: least, least: least, most: most}
}

func (b *backoff) next() time.Duration {
	d := b.pauses/2 + rand.N(b.pauses/2+1) //nolint:gosec // not a secret
	b.pauses = min(2*b.pauses, b.most)
	return d
}

func (b *backoff) reset() { b.pauses = b.least }

// pause waits and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
