package main

import (
	"context"
	"sync"
	"time"

	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

// Limits of watching the log.
const (
	// logWatchEvery is how often an instance makes sure that Redis still has the log,
	// although nothing said otherwise, and says so to the others. For logSeenFor nobody
	// puts the log back into another Redis then.
	logWatchEvery = 2 * time.Second
	logSeenFor    = 5 * time.Second
	// logRetryMin and logRetryMax are after what pause it looks again where it could not
	// find out.
	logRetryMin = 50 * time.Millisecond
	logRetryMax = 2 * time.Second
)

// logWatch is an instance's eye on the log.
type logWatch struct {
	store *logStore
	guard *redis.Guard
	// suspects wakes who looks.
	suspects chan struct{}

	mu  sync.Mutex
	run logRun
	// trouble is why the log cannot be used now, empty where it can.
	trouble string
}

func newLogWatch(store *logStore) *logWatch {
	w := &logWatch{store: store, suspects: make(chan struct{}, 1)}
	w.guard = redis.NewGuard(w.suspect)
	return w
}

// suspect asks for a look; it does not block.
func (w *logWatch) suspect() {
	select {
	case w.suspects <- struct{}{}:
	default:
	}
}

// token names the run of the log that this instance works with.
func (w *logWatch) token() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.run.token()
}

// reason is why the log cannot be used now, empty where it can.
func (w *logWatch) reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trouble
}

func (w *logWatch) set(run logRun, trouble string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.run, w.trouble = run, trouble
}

// begin admits the log for the first time.
func (w *logWatch) begin(ctx context.Context) error {
	run, err := w.store.admit(ctx)
	if err != nil {
		return err
	}
	w.set(run, "")
	w.guard.Accept(run.process)
	return nil
}

// follow looks whenever something is suspected, and now and then, until ctx ends.
func (w *logWatch) follow(ctx context.Context, log *redis.Log) {
	ticker := time.NewTicker(logWatchEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-w.suspects:
			w.admitAgain(ctx, log)
		case <-ticker.C:
			// It raises suspicion by itself.
			if log.Known(ctx) == nil {
				w.see(ctx)
			}
		case <-ctx.Done():
		}
	}
}

// see tells the others in which Redis the log is. Without Postgres nobody could put it back
// elsewhere, so it need not succeed.
func (w *logWatch) see(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, logWatchEvery)
	defer cancel()
	if err := postgres.SeeLog(ctx, w.store.pool, w.guard.Accepted()); err != nil {
		w.store.logger.Debug("log watch", "error", err)
	}
}

// admitAgain returns once the log can be used again. What this instance believed of Redis is
// forgotten where it is another run.
func (w *logWatch) admitAgain(ctx context.Context, log *redis.Log) {
	for pause := logRetryMin; ctx.Err() == nil; pause = min(2*pause, logRetryMax) {
		w.mu.Lock()
		before := w.run
		w.mu.Unlock()
		run, err := w.store.admit(ctx)
		if err == nil {
			if run != before {
				// Waits for what may be lost end before anything of this run is seen.
				log.Renew(run.epoch)
				w.store.logger.Info("going on with the log", "epoch", run.epoch, "process", run.process)
			}
			w.set(run, "")
			w.guard.Accept(run.process)
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.set(before, err.Error())
		w.store.logger.Warn("the log cannot be used yet; looking again", "in", pause, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
