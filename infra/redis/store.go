package redis

import (
	"context"
	"errors"
	"fmt"

	goredis "github.com/redis/go-redis/v9"
)

// ErrForeignLog reports a Redis that does not hold the log which Postgres has
// folded: it is empty, was flushed, or belongs to another store.
var ErrForeignLog = errors.New("this Redis does not hold the log that Postgres has folded")

// CheckEpoch makes sure that Redis and Postgres belong together. epoch is the
// log's name as Postgres knows it; folded says whether Postgres has folded
// anything of it. A Redis without a log takes the epoch on if nothing was folded
// yet; otherwise the answer is ErrForeignLog, because going on would renumber
// what consumers have seen.
func CheckEpoch(ctx context.Context, client goredis.UniversalClient, prefix, epoch string, folded bool) error {
	key := prefix + "epoch"
	if !folded {
		if err := client.SetNX(ctx, key, epoch, 0).Err(); err != nil {
			return fmt.Errorf("log epoch: %w", err)
		}
	}
	stored, err := client.Get(ctx, key).Result()
	if errors.Is(err, goredis.Nil) {
		return fmt.Errorf("log epoch: %w: it is empty", ErrForeignLog)
	}
	if err != nil {
		return fmt.Errorf("log epoch: %w", err)
	}
	if stored != epoch {
		return fmt.Errorf("log epoch: %w: it has epoch %s, Postgres has %s", ErrForeignLog, stored, epoch)
	}
	return nil
}
