package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

// Ledgers are balanced while a service goes on that is never quiet.
func TestLedgersBalanceWhileMessagesCome(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.QueueLengthMax = 0
	i := start(t, cfg, "")
	i.queue("orders", "")
	i.subscription("orders", "g", "")
	pool, err := postgres.Open(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	client, err := redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	log := redis.New(redis.Config{
		Client: client, Prefix: cfg.RedisKeyPrefix, Shards: cfg.Shards, Logger: slog.New(slog.DiscardHandler),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	t.Cleanup(log.Close)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	for range 4 {
		go func() {
			n := 0
			defer func() { ended <- n }()
			for ; ctx.Err() == nil; n++ {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url+apiPrefix+"/publish", strings.NewReader(`{"queue":"orders","payload":1}`))
				if err != nil {
					return
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Prefer", "respond-async")
				if res, err := http.DefaultClient.Do(req); err == nil {
					_ = res.Body.Close()
				}
			}
		}()
	}
	for range 10 {
		groups, wrong, err := verifyLedgers(ctx, pool, log)
		require.NoError(t, err)
		require.Equal(t, 1, groups)
		require.Empty(t, wrong)
	}
	stop()
	for range 4 {
		require.Positive(t, <-ended)
	}
}
