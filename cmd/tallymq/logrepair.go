package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
)

// Limits of putting Redis back.
const (
	// repairLockRetry is how often one looks whether another one has put Redis back.
	repairLockRetry = 200 * time.Millisecond
	// foldRestMax is how long it may take to fold what is not folded yet.
	foldRestMax = 10 * time.Minute
	// repairMemoryBytes is how much memory the program is to take meanwhile.
	repairMemoryBytes = 160 << 20
	// restoreShards is how many shards are put back at once.
	restoreShards = 2
)

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
