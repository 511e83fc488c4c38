package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
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
			if err := postgres.RaiseEpoch(ctx, l.pool, epoch, name, "Postgres had forgotten it"); err != nil {
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
