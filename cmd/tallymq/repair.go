package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

func repairCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Put back into REDIS_URL what it has lost of what DATABASE_URL knows",
		Long: `Finds out whether Redis has the log that Postgres has folded, and puts back what it has
lost: queues, consumer groups, retries, schedules and idempotency keys. A service that runs
does this by itself. With --force it does it although nothing is missing, once all that the
log has is folded. Writes are refused meanwhile, and whoever holds a message has lost it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRepair(cmd, force) },
	}
	cmd.Flags().BoolVar(&force, "force", false, "although nothing is missing")
	return cmd
}

// openRepair returns the store that the environment names.
func openRepair(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) (*logStore, error) {
	cfg, err := loadConfig(false)
	if err != nil {
		return nil, err
	}
	if cfg.RedisURL == "" {
		return nil, errors.New("REDIS_URL: is not set")
	}
	text, err := postgres.Setting(ctx, pool, "shards")
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it does
	}
	shards, err := strconv.Atoi(text)
	if err != nil {
		return nil, errors.New("repair: no service has used this database yet")
	}
	prefix, err := postgres.Setting(ctx, pool, prefixSetting)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it does
	}
	return &logStore{pool: pool, databaseURL: cfg.DatabaseURL, redisURL: cfg.RedisURL, prefix: prefix, shards: shards, logger: logger}, nil
}

func runRepair(cmd *cobra.Command, force bool) error {
	ctx, logger := cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
	pool, err := openDatabase(ctx, logger)
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := openRepair(ctx, pool, logger)
	if err != nil {
		return err
	}
	client, err := redis.OpenOne(store.redisURL)
	if err != nil {
		return err //nolint:wrapcheck // names the variable
	}
	defer func() { _ = client.Close() }()
	if err := redis.WaitReady(ctx, client, logger); err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	bar := progress(cmd.ErrOrStderr(), -1, "putting back", "messages")
	count := newCounter(store.shards)
	store.progress = func(shard int, events, messages int64) {
		folded, put := count.add(shard, events, messages)
		bar.Describe(fmt.Sprintf("%d events folded, putting back", folded))
		_ = bar.Set64(put)
	}
	before, err := postgres.FixEpoch(ctx, pool, newID())
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	began := time.Now()
	run, err := store.byHand(ctx, client, force)
	_ = bar.Clear()
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	return printRepair(cmd, run.epoch == before, run.epoch, count, time.Since(began))
}

func printRepair(cmd *cobra.Command, isWhole bool, epoch string, count *counter, took time.Duration) error {
	if isWhole {
		_, _ = fmt.Fprintln(cmd.OutOrStdout(), "Nothing is missing: Redis has the log that Postgres has folded. (--force puts it back all the same.)")
		return nil
	}
	folded, put := count.add(0, 0, 0)
	_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%d events folded, %d messages put back in %s. The log is known by epoch %s now.\n",
		folded, put, took.Round(time.Millisecond), epoch)
	return nil
}

// counter adds up what the shards report.
type counter struct {
	mu               sync.Mutex
	events, messages []int64
}

func newCounter(shards int) *counter {
	return &counter{events: make([]int64, shards), messages: make([]int64, shards)}
}

// add notes how far a shard is, where it is further, and returns how far all are.
func (c *counter) add(shard int, events, messages int64) (allEvents, allMessages int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events[shard], c.messages[shard] = max(c.events[shard], events), max(c.messages[shard], messages)
	for n := range c.events {
		allEvents += c.events[n]
		allMessages += c.messages[n]
	}
	return allEvents, allMessages
}

// byHand repairs once nobody can see the log elsewhere any more.
func (l *logStore) byHand(ctx context.Context, client *goredis.Client, force bool) (logRun, error) {
	if force {
		return l.repair(ctx, client, true)
	}
	for ends := time.Now().Add(3 * logSeenFor); ; {
		run, err := l.admit(ctx)
		if !errors.Is(err, errElsewhere) || time.Now().After(ends) {
			return run, err
		}
		if err := pauseAccount(ctx); err != nil {
			return run, err
		}
	}
}
