package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// ErrLogLost reports that Redis does not hold the log that the caller knows: it lost its
// data, or they were put back since. Nothing was done.
var ErrLogLost = errors.New("the log is lost, or being put back")

// life is the log's, from one loss of Redis' data to the next.
type life struct {
	// epoch is what the log is known by, empty for whatever it is.
	epoch string
	// number is the epoch's, as leases have it; 0 for no epoch.
	number int64
	// run counts on this instance how often it went on with a Redis that may have lost
	// something.
	run uint64
}

func newLife(epoch string, run uint64) *life {
	f := &life{epoch: epoch, run: run}
	if epoch != "" {
		h := fnv.New64a()
		_, _ = h.Write([]byte(epoch))
		f.number = int64(h.Sum64() >> 1)
	}
	return f
}

// noEntry is the id of no entry.
const noEntry = "0-0"

// entryOf is a lease's entry, or that of none where the lease is of another life: entries of
// its name may have come again.
func (f *life) entryOf(lease events.Lease) string {
	if lease.Life != f.number {
		return noEntry
	}
	return lease.EntryID
}

// run runs a script that stands behind the fence. key says which shard's server it is for.
func (l *Log) run(ctx context.Context, f *life, script *goredis.Script, key string, args []any) (any, error) {
	v, err := script.Run(ctx, l.client, []string{key}, append(args, f.epoch)...).Result()
	if err != nil {
		return nil, l.lost(err)
	}
	return v, nil
}

// lost says so where an error means that Redis lost its data.
func (l *Log) lost(err error) error {
	if err == nil || !strings.HasPrefix(err.Error(), "EPOCH ") {
		return err
	}
	if l.cfg.Lost != nil {
		l.cfg.Lost()
	}
	return ErrLogLost
}

// Known returns [ErrLogLost] unless every shard has the epoch that the log is known by: what
// is missing may be lost.
func (l *Log) Known(ctx context.Context) error {
	f := l.life.Load()
	if f.epoch == "" {
		return nil
	}
	stored := make([]*goredis.StringCmd, len(l.shards))
	_, err := l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for n, s := range l.shards {
			stored[n] = p.Get(ctx, s.keys.epoch())
		}
		return nil
	})
	if err != nil && !errors.Is(err, goredis.Nil) {
		return fmt.Errorf("log epoch: %w", err)
	}
	for _, cmd := range stored {
		if cmd.Val() != f.epoch {
			return l.lost(errors.New("EPOCH "))
		}
	}
	return nil
}

// missing is [events.ErrNoAggregate], unless what is missing may be lost, or was lost by
// another life than the one in which it was looked for.
func (l *Log) missing(ctx context.Context, f *life) error {
	if err := l.Known(ctx); err != nil {
		return err
	}
	if l.life.Load() != f {
		return ErrLogLost
	}
	return events.ErrNoAggregate
}

// Renew goes on with a Redis that was found to hold, or was given back, the log that is
// known by an epoch. What was not folded may be lost: whoever waits for that is told.
// Whatever was remembered of Redis is forgotten.
func (l *Log) Renew(epoch string) {
	f := newLife(epoch, l.life.Load().run+1)
	l.life.Store(f)
	for _, s := range l.shards {
		s.folded.renew(f.number)
	}
	l.aggregates.dropAll()
	l.hub.wakeAll()
	l.changed.raise()
}
