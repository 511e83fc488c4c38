package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// Limits of putting a shard back.
const (
	// restoreCommandsMax and restoreBytesMax are what goes in one round trip.
	restoreCommandsMax = 500
	restoreBytesMax    = 4 << 20
	// restoreTimeout bounds one round trip.
	restoreTimeout = time.Minute
)

// Restorer puts back what Redis holds of a shard, from what history says. While it does,
// the shard has no epoch, so that whatever else is asked of it is refused. The state stays
// void until [Restorer.Finish].
type Restorer struct {
	client *goredis.Client
	k      keys
	// fence is what the shard's epoch must be while it is put back, and flushes counts round
	// trips: Redis counts them too, so that nothing can have been lost in between.
	fence   string
	flushes int
	// pending is what goes with the next round trip.
	pending  goredis.Pipeliner
	commands int
	bytes    int
	nowMs    int64
	// busy are keys of ordered groups' messages of which one is out.
	busy map[string]bool
}

// NewRestorer returns a restorer of a shard.
// fence is what [Fence] was given.
func NewRestorer(client *goredis.Client, prefix string, shard int, fence string) *Restorer {
	return &Restorer{client: client, k: shardKeys(prefix, shard), fence: Restoring + fence, pending: client.Pipeline(), busy: map[string]bool{}}
}

// Restoring stands before the epoch of a shard that is being put back: whatever is asked
// under any epoch is refused.
const Restoring = "restoring "

// Fence makes the shard refuse whatever is asked of it, until a restorer has finished. fence
// is the epoch that is left and, behind a space, the restorer's own name.
func Fence(ctx context.Context, client goredis.UniversalClient, prefix string, shard int, fence string) error {
	if err := client.Set(ctx, shardKeys(prefix, shard).epoch(), Restoring+fence, 0).Err(); err != nil {
		return fmt.Errorf("fence shard %d: %w", shard, err)
	}
	return nil
}

// Unfence lets a shard be used again with which nothing was done since [Fence].
func Unfence(ctx context.Context, client goredis.UniversalClient, prefix string, shard int, epoch string) error {
	if err := client.Set(ctx, shardKeys(prefix, shard).epoch(), epoch, 0).Err(); err != nil {
		return fmt.Errorf("open shard %d: %w", shard, err)
	}
	return nil
}

// Begin removes whatever the shard holds, but for its log: who follows that with a consumer
// group of its own keeps its place.
func (r *Restorer) Begin(ctx context.Context) error {
	now, err := r.client.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.nowMs = now.UnixMilli()
	r.pending.Unlink(ctx, r.k.restoring())
	if err := r.sent(ctx, 0); err != nil {
		return err
	}
	var cursor uint64
	for {
		names, next, err := r.client.Scan(ctx, cursor, escapeGlob(r.k.prefix)+"*", 1000).Result()
		if err != nil {
			return fmt.Errorf("restore: look for what is there: %w", err)
		}
		for _, name := range names {
			if name != r.k.log() && name != r.k.epoch() && name != r.k.restoring() {
				r.pending.Unlink(ctx, name)
				if err := r.sent(ctx, len(name)); err != nil {
					return err
				}
			}
		}
		if cursor = next; cursor == 0 {
			return r.flush(ctx)
		}
	}
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// sent counts a command and sends what is pending where it is enough for a round trip.
func (r *Restorer) sent(ctx context.Context, bytes int) error {
	r.commands++
	r.bytes += bytes
	if r.commands >= restoreCommandsMax || r.bytes >= restoreBytesMax {
		return r.flush(ctx)
	}
	return nil
}

func (r *Restorer) flush(ctx context.Context) error {
	if r.commands == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	commands := r.pending.Cmds()
	r.pending, r.commands, r.bytes = r.client.Pipeline(), 0, 0
	r.flushes++
	err := r.client.Watch(ctx, func(tx *goredis.Tx) error {
		epoch, err := tx.Get(ctx, r.k.epoch()).Result()
		if err == nil && epoch != r.fence {
			err = errNotMine
		}
		if err != nil {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p goredis.Pipeliner) error {
			for _, cmd := range commands {
				_ = p.Process(ctx, cmd)
			}
			p.HIncrBy(ctx, r.k.restoring(), r.fence, 1)
			return nil
		})
		return err //nolint:wrapcheck // wrapped below
	}, r.k.epoch())
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// errNotMine reports a shard that somebody else puts back, or that was lost anew.
var errNotMine = errors.New("the shard is not being put back by this one any more")

// Finish sends what is left and opens the shard, under an epoch: its log goes on behind a
// position, up to which it is folded.
func (r *Restorer) Finish(ctx context.Context, position events.Position, epoch string) error {
	if err := r.flush(ctx); err != nil {
		return err
	}
	opened, err := openScript.Run(ctx, r.client, []string{r.k.log()}, r.k.prefix, entryID(position), epoch, r.fence, r.flushes).Int()
	if err == nil && opened == 0 {
		err = errNotMine
	}
	if err != nil {
		return fmt.Errorf("restore: open the log: %w", err)
	}
	return nil
}

// openScript lets a log go on behind an entry, which may be of a clock that went faster.
var openScript = goredis.NewScript(`
local log, prefix, id = KEYS[1], ARGV[1], ARGV[2]
if redis.call('GET', prefix .. 'epoch') ~= ARGV[4] then return 0 end
if (redis.call('HGET', prefix .. 'restoring', ARGV[4]) or '0') ~= ARGV[5] then return 0 end
redis.call('DEL', prefix .. 'restoring')
if redis.call('EXISTS', log) == 0 then
  redis.call('XGROUP', 'CREATE', log, 'made', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', log, 'made')
end
-- What history does not have is of a log that was lost.
while true do
  local page = redis.call('XRANGE', log, '(' .. id, '+', 'COUNT', 500)
  if #page == 0 then break end
  for _, entry in ipairs(page) do redis.call('XDEL', log, entry[1]) end
end
redis.pcall('XSETID', log, id) -- refused where it was further: then it goes on from there
redis.call('SET', prefix .. 'folded', id)
redis.call('SET', prefix .. 'trimmed', id)
redis.call('SET', prefix .. 'epoch', ARGV[3])
return 1`)
