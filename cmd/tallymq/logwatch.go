package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
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
	// repairLockRetry is how often one looks whether another one has put Redis back.
	repairLockRetry = 200 * time.Millisecond
	// foldRestMax is how long a repair by hand may take to fold what is not folded yet.
	foldRestMax = 10 * time.Minute
	// repairMemoryBytes is how much memory the program is to take while Redis is put back.
	repairMemoryBytes = 160 << 20
	// restoreShards is how many shards are put back at once.
	restoreShards = 2
)

// logStore finds out whether a Redis has the log that Postgres has folded, and puts it back
// where it has not.
type logStore struct {
	pool        *pgxpool.Pool
	databaseURL string
	redisURL    string
	prefix      string
	shards      int
	logger      *slog.Logger
	// progress is told of what is put back, of each shard.
	progress func(shard int, events, messages int64)

	// lostIn is the Redis process in which the log was found to be missing, since lostSince.
	lostIn    string
	lostSince time.Time
}

// logRun is a run of the log: a Redis process, and what the log in it is known by.
type logRun struct{ process, epoch string }

// token names the run to projectors; see projections.Admit.
func (r logRun) token() string { return r.process + " " + r.epoch }

// admit returns the run of the log that Redis has, whatever it takes: where Redis has lost
// what Postgres knows of, it is put back first.
func (l *logStore) admit(ctx context.Context) (logRun, error) {
	client, err := redis.OpenOne(l.redisURL)
	if err != nil {
		return logRun{}, err //nolint:wrapcheck // names the variable
	}
	defer func() { _ = client.Close() }()
	found, err := l.look(ctx, client, false)
	if err != nil || found.lost == "" {
		return found.run, err
	}
	if err := l.elsewhere(ctx, found); err != nil {
		return found.run, err
	}
	return l.repair(ctx, client, false)
}

// finding is what was found out of a Redis. lost says in words what is missing of what
// Postgres knows, and is empty where nothing is: then projectors may fold from that run, and
// no other.
type finding struct {
	run   logRun
	lost  string
	sight redis.Sight
}

// look finds out what Redis has. isRestorer says that the caller holds the lock of who puts
// it back.
func (l *logStore) look(ctx context.Context, client goredis.UniversalClient, isRestorer bool) (f finding, err error) {
	if f.run.epoch, err = postgres.FixEpoch(ctx, l.pool, newID()); err != nil {
		return f, err //nolint:wrapcheck // says what it does
	}
	// Positions first: the log goes on meanwhile, and is never behind what was folded of it.
	folded, err := projections.Checkpoints(ctx, l.pool, l.shards)
	if err != nil {
		return f, err //nolint:wrapcheck // says what it does
	}
	if f.sight, err = redis.Look(ctx, client, l.prefix, l.shards); err != nil {
		return f, err //nolint:wrapcheck // says what it does
	}
	f.run.process = f.sight.Run
	if f.run.epoch, err = l.known(ctx, f.sight, f.run.epoch); err != nil {
		return f, err
	}
	if slices.Max(folded) == 0 && slices.Max(f.sight.Ends) == 0 && slices.Max(f.sight.Epochs) == "" {
		// Nothing was ever in it.
		if err = redis.Found(ctx, client, l.prefix, l.shards, f.run.epoch); err == nil {
			f.sight, err = redis.Look(ctx, client, l.prefix, l.shards)
		}
		if err != nil {
			return f, err //nolint:wrapcheck // says what it does
		}
	}
	if f.lost = lacking(f.sight, folded, f.run.epoch); f.lost != "" {
		return f, nil
	}
	folded, err = projections.Admit(ctx, l.pool, f.run.token(), f.run.epoch, l.shards, isRestorer)
	if errors.Is(err, projections.ErrRestoring) {
		f.lost = err.Error()
		return f, nil
	}
	if err != nil {
		return f, err //nolint:wrapcheck // says what it does
	}
	// What was under way is folded now: is it there?
	if f.sight, err = redis.Look(ctx, client, l.prefix, l.shards); err != nil {
		return f, err //nolint:wrapcheck // says what it does
	}
	if f.sight.Run != f.run.process {
		return f, errAgain
	}
	if f.lost = lacking(f.sight, folded, f.run.epoch); f.lost != "" {
		return f, nil
	}
	l.lostIn = ""
	if f.sight.IsOlder {
		return f, redis.Found(ctx, client, l.prefix, l.shards, f.run.epoch) //nolint:wrapcheck // says what it does
	}
	return f, nil
}

// errAgain reports that Redis was started anew while it was looked at.
var errAgain = errors.New("the Redis process is another one by now")

// known returns the epoch that the log has, and an error where Redis is another store's.
func (l *logStore) known(ctx context.Context, sight redis.Sight, epoch string) (string, error) {
	known, err := postgres.Epochs(ctx, l.pool)
	if err != nil {
		return epoch, err //nolint:wrapcheck // says what it does
	}
	for _, theirs := range sight.Epochs {
		name := leftEpoch(theirs)
		if name == "" || known[name] {
			continue
		}
		if storeOf(name) != storeOf(epoch) {
			return epoch, fmt.Errorf("%w: it has epoch %s, Postgres has %s", redis.ErrForeignLog, name, epoch)
		}
		// Postgres came back without what it had committed last.
		if name == theirs && sight.Epochs[0] == theirs {
			if err := postgres.AdoptEpoch(ctx, l.pool, epoch, name); err != nil {
				return epoch, err //nolint:wrapcheck // says what it does
			}
			epoch, known[name] = name, true
		}
	}
	return epoch, nil
}

// leftEpoch is the epoch of a shard, or the one that it had where it is being put back.
func leftEpoch(epoch string) string {
	name, isLeft := strings.CutPrefix(epoch, redis.Restoring)
	if isLeft {
		name, _, _ = strings.Cut(name, " ")
	}
	return name
}

// elsewhere refuses to put the log back into another Redis process than the one in which
// instances have last seen it, for as long as they may see it there still.
func (l *logStore) elsewhere(ctx context.Context, f finding) error {
	if l.lostIn != f.run.process {
		l.lostIn, l.lostSince = f.run.process, time.Now()
	}
	last, ago, err := postgres.LastSeen(ctx, l.pool)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if last == "" || last == f.run.process || (ago > logSeenFor && time.Since(l.lostSince) > logSeenFor) {
		return nil
	}
	return fmt.Errorf("%w: %s, but others may see it in the process with run id %s", errElsewhere, f.lost, last)
}

// errElsewhere reports a Redis that does not have the log while others see it in another one:
// REDIS_URL may be wrong.
var errElsewhere = errors.New("REDIS_URL: this Redis does not have the log")

// storeOf is the store's name, which all its epochs begin with: the first one is nothing else.
func storeOf(epoch string) string {
	store, _, _ := strings.Cut(epoch, ".")
	return store
}

// lacking says what Redis lacks of what Postgres knows, empty for nothing.
func lacking(s redis.Sight, folded []events.Position, epoch string) string {
	for n, position := range folded {
		switch {
		case strings.HasPrefix(s.Epochs[n], redis.Restoring):
			return fmt.Sprintf("shard %d was being put back", n)
		case s.Epochs[n] == "":
			return fmt.Sprintf("shard %d is empty", n)
		case s.Epochs[n] != epoch:
			return fmt.Sprintf("shard %d is as it was in an earlier epoch", n)
		case s.Ends[n] < position:
			return fmt.Sprintf("the log of shard %d ends at %d, and Postgres has it up to %d", n, s.Ends[n], position)
		}
	}
	return ""
}

// verifyLog says what Redis lacks of the log that Postgres has folded, empty for nothing.
func verifyLog(ctx context.Context, pool *pgxpool.Pool, client goredis.UniversalClient, prefix string, shards int) (lost string, err error) {
	epoch, err := postgres.Setting(ctx, pool, postgres.EpochSetting)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it does
	}
	// Positions first, as in look.
	folded, err := projections.Checkpoints(ctx, pool, shards)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it does
	}
	sight, err := redis.Look(ctx, client, prefix, shards)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it does
	}
	return lacking(sight, folded, epoch), nil
}

// repair puts Redis back from Postgres, unless another one has done it meanwhile. isForced
// asks for it although nothing is missing.
func (l *logStore) repair(ctx context.Context, client *goredis.Client, isForced bool) (logRun, error) {
	lock, unlock, err := l.lockRepair(ctx)
	if err != nil {
		return logRun{}, err
	}
	defer unlock()
	found, err := l.look(ctx, client, true)
	if err != nil || (found.lost == "" && !isForced) {
		return found.run, err
	}
	// What is live is little; garbage is not to pile up on it meanwhile.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), repairMemoryBytes)))
	began, why := time.Now(), or(found.lost, askedFor)
	l.logger.Warn("putting Redis back from Postgres; writes are refused meanwhile", "because", why)
	fence := found.run.epoch + " " + newID()
	for n := range l.shards {
		if err := redis.Fence(ctx, client, l.prefix, n, fence); err != nil {
			return found.run, err //nolint:wrapcheck // says what it does
		}
	}
	if err := l.foldRest(ctx, client, found); err != nil {
		if found.lost == "" {
			err = errors.Join(err, l.unfence(ctx, client, found.run.epoch))
		}
		return found.run, err
	}
	run, messages, err := l.putBack(ctx, lock, found.run, fence, why)
	if err == nil {
		l.logger.Warn("Redis is put back", "messages", messages, "took", time.Since(began).Round(time.Millisecond))
	}
	return run, err
}

// putBack puts all shards back, which are fenced, and opens them under a new epoch. What is
// said to Postgres is said on the connection that holds the lock.
func (l *logStore) putBack(ctx context.Context, lock *pgx.Conn, run logRun, fence, why string) (logRun, int64, error) {
	// Nobody appends any more, and with this nobody folds what was read before.
	folded, err := projections.Freeze(ctx, lock, fence, run.epoch, l.shards)
	if err != nil {
		return run, 0, err //nolint:wrapcheck // says what it does
	}
	client, err := redis.Open(l.redisURL)
	if err != nil {
		return run, 0, err //nolint:wrapcheck // names the variable
	}
	defer func() { _ = client.Close() }()
	putters, err := l.putShards(ctx, client, fence, folded)
	if err != nil {
		return run, 0, err
	}
	next := logRun{process: run.process, epoch: storeOf(run.epoch) + "." + newID()}
	if err := postgres.RaiseEpoch(ctx, lock, run.epoch, next.epoch, why); err != nil {
		return run, 0, err //nolint:wrapcheck // says what it does
	}
	again, err := projections.Admit(ctx, lock, next.token(), next.epoch, l.shards, true)
	if err != nil {
		return run, 0, err //nolint:wrapcheck // says what it does
	}
	if !slices.Equal(again, folded) {
		return run, 0, fmt.Errorf("history went on from %v to %v while Redis was put back", folded, again)
	}
	messages, lost := int64(0), int64(0)
	for n, p := range putters {
		if err := p.redis.Finish(ctx, folded[n], next.epoch); err != nil {
			return run, 0, err //nolint:wrapcheck // says what it does
		}
		messages, lost = messages+p.messages, lost+p.lost
	}
	if lost > 0 {
		l.logger.Warn("messages that were not settled are in history no more: their groups do not get them", "messages", lost)
	}
	return next, messages, nil
}

// askedFor is why Redis is put back although nothing is missing.
const askedFor = "asked for by hand"

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// unfence lets a log be used again with which nothing was done.
func (l *logStore) unfence(ctx context.Context, client goredis.UniversalClient, epoch string) error {
	var errs []error
	for n := range l.shards {
		errs = append(errs, redis.Unfence(context.WithoutCancel(ctx), client, l.prefix, n, epoch))
	}
	return errors.Join(errs...)
}

// foldRest returns once Postgres has all that the logs have which were not lost, to which
// nothing is appended any more. It folds that itself where no instance does.
func (l *logStore) foldRest(ctx context.Context, client goredis.UniversalClient, f finding) error {
	folded, err := projections.Admit(ctx, l.pool, f.run.token(), f.run.epoch, l.shards, true)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	sight, err := redis.Look(ctx, client, l.prefix, l.shards)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	var rest []int
	for n, end := range sight.Ends {
		if leftEpoch(f.sight.Epochs[n]) == f.run.epoch && end > folded[n] {
			rest = append(rest, n)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	readers, err := redis.OpenReaders(l.redisURL, l.shards)
	if err != nil {
		return err //nolint:wrapcheck // names the variable
	}
	defer func() { _ = readers.Close() }()
	log := redis.New(redis.Config{Client: readers, Prefix: l.prefix, Shards: l.shards, Logger: l.logger})
	defer log.Close()
	folding, cancel := context.WithTimeout(ctx, foldRestMax)
	defer cancel()
	var projectors sync.WaitGroup
	defer projectors.Wait()
	defer cancel()
	for _, n := range rest {
		projectors.Go(func() {
			projections.New(projections.Config{
				Shard: n, Version: projections.Version, Run: f.run.token, Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, l.databaseURL) },
				Source: func(after events.Position) (message.Subscriber, string) {
					return log.Reader(n, after), redis.LogStream(l.prefix, n)
				},
				Committed: func(events.Position) {}, Logger: l.logger,
			}).Run(folding)
		})
	}
	for _, n := range rest {
		if err := waitHistory(folding, l.pool, n, sight.Ends[n], foldRestMax); err != nil {
			return fmt.Errorf("fold what the log has of shard %d: %w", n, err)
		}
	}
	return nil
}

func (l *logStore) putShards(ctx context.Context, client *goredis.Client, fence string, folded []events.Position) ([]*putter, error) {
	putters := make([]*putter, l.shards)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(restoreShards)
	for n := range l.shards {
		group.Go(func() (err error) {
			putters[n], err = putBack(ctx, l.pool, redis.NewRestorer(client, l.prefix, n, fence), n, folded[n], func(events, messages int64) {
				if l.progress != nil {
					l.progress(n, events, messages)
				}
			})
			if err != nil {
				return fmt.Errorf("put shard %d back: %w", n, err)
			}
			return nil
		})
	}
	return putters, group.Wait() //nolint:wrapcheck // wrapped inside
}

// lockRepair returns once nobody else puts Redis back. The lock is a connection's: it ends
// with the process.
func (l *logStore) lockRepair(ctx context.Context) (own *pgx.Conn, unlock func(), err error) {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("lock the repair: %w", err)
	}
	own = conn.Hijack()
	unlock = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = own.Close(ctx)
	}
	for {
		var held bool
		if err := own.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('tallymq:repair:' || current_schema(), 0))`).Scan(&held); err != nil {
			unlock()
			return nil, nil, fmt.Errorf("lock the repair: %w", err)
		}
		if held {
			return own, unlock, nil
		}
		select {
		case <-ctx.Done():
			unlock()
			return nil, nil, fmt.Errorf("lock the repair: %w", ctx.Err())
		case <-time.After(repairLockRetry):
		}
	}
}

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
