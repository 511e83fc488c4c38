package redis

import (
	"context"
	"log/slog"
	"time"
)

// Limits of trying again while Redis is away.
const (
	retryDelayMin = 50 * time.Millisecond
	retryDelayMax = 2 * time.Second
	// retryLogEvery is how often a failure that lasts is logged.
	retryLogEvery = time.Minute
)

// retrier paces one activity that must go on whatever happens to Redis: it waits a
// little longer after each failure, and logs when failing begins, once in a while,
// and when it is over.
type retrier struct {
	what     string
	logger   *slog.Logger
	delayMax time.Duration

	delay    time.Duration
	since    time.Time
	loggedAt time.Time
}

// failed waits, or returns early when ctx ends.
func (r *retrier) failed(ctx context.Context, err error) {
	now := time.Now()
	if r.delay == 0 {
		r.since = now
	}
	if now.Sub(r.loggedAt) >= retryLogEvery {
		r.loggedAt = now
		r.logger.Warn(r.what+" fails, trying again", "since", r.since, "error", err)
	}
	r.delay = min(max(2*r.delay, retryDelayMin), r.delayMax)
	timer := time.NewTimer(r.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r *retrier) succeeded() {
	if r.delay == 0 {
		return
	}
	r.delay = 0
	if !r.loggedAt.Before(r.since) {
		r.logger.Info(r.what+" works again", "after", time.Since(r.since))
	}
}
