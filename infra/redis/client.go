package redis

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Connection limits: the pool is 5 to 20 connections, and no command may take
// longer than commandTimeout, so that a Redis that hangs is an error and not a
// stuck request.
const (
	poolIdleMin    = 5
	poolMax        = 20
	commandTimeout = 5 * time.Second
)

// quiet drops what the client library prints on its own account: its errors come
// to us as errors, and are logged where it is known what they mean.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

var quieten = sync.OnceFunc(func() { goredis.SetLogger(quiet{}) })

// connectionsPerReader leaves room for readers that were left: each holds its
// connection until its last blocking read comes back.
const connectionsPerReader = 4

// OpenReaders returns a client like [Open]'s whose connections are for so many
// readers that wait: none of them keeps another, or a writer, waiting.
func OpenReaders(url string, readers int) (*goredis.Client, error) {
	return open(url, func(o *goredis.Options) { o.MinIdleConns, o.PoolSize = 0, connectionsPerReader*readers })
}

// Open returns a client for a redis:// or rediss:// URL. It never repeats a
// command by itself (a repeated XADD is a duplicate) and obeys its context's
// deadline. It does not connect yet: see [WaitReady].
func Open(url string) (*goredis.Client, error) {
	return open(url, func(o *goredis.Options) { o.MinIdleConns, o.PoolSize = poolIdleMin, poolMax })
}

func open(url string, pool func(*goredis.Options)) (*goredis.Client, error) {
	options, err := goredis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	quieten()
	options.MaxRetries = -1
	options.ContextTimeoutEnabled = true
	pool(options)
	options.PoolTimeout = commandTimeout
	options.DialTimeout = 2 * time.Second
	options.ReadTimeout = commandTimeout
	options.WriteTimeout = commandTimeout
	options.DisableIdentity = true
	return goredis.NewClient(options), nil
}

// WaitReady returns once Redis answers and has loaded its data, or with the
// context's error. It says once what it waits for and once that it is over.
func WaitReady(ctx context.Context, client goredis.UniversalClient, logger *slog.Logger) error {
	said := false
	for {
		err := client.Ping(ctx).Err()
		if err == nil {
			if said {
				logger.Info("Redis is ready")
			}
			return nil
		}
		if !said {
			said = true
			logger.Warn("waiting for Redis (REDIS_URL)", "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for Redis: %w (last: %w)", ctx.Err(), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}
