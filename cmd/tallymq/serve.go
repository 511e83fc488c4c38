package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/telemetry"
)

const noopPath = "/bench/noop"

func serveCommand() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the service with the Redis and Postgres that the environment names",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(true)
			if err != nil {
				return err
			}
			parts, err := parseRoles(role)
			if err != nil {
				return err
			}
			logger := slog.New(telemetry.NewTraceHandler(telemetry.NewSampler(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.Level()}))))
			tuneMemory()
			return runService(cmd.Context(), cfg, logger, options{
				token: cfg.ServiceToken, roles: parts,
				onReady: func(addr string) {
					logger.Info("ready", "addr", addr, "version", version, "shards", cfg.Shards, "roles", parts.names())
				},
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", strings.Join(allRoles(), ","), "the parts to run in this process")
	return cmd
}

// Limits of memory. What is live is little and short-lived, so the collector may let
// garbage grow to several times that, and hurries only near the limit.
const (
	gcPercent        = 400
	memoryLimitBytes = 440 << 20
)

// tuneMemory sets the collector up, unless GOGC and GOMEMLIMIT do.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimitBytes)
	}
}

func loadConfig(serving bool) (config.Config, error) {
	cfg, err := config.Load(os.Environ())
	if err == nil && serving {
		err = cfg.Serving()
	}
	if err != nil {
		return cfg, fmt.Errorf("configuration:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return cfg, nil
}

// devNetworks are where `dev` lets webhooks be: on the developer's own machine.
const devNetworks = "127.0.0.0/8,::1/128"

func devCommand() *cobra.Command {
	var dir string
	var bench bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the service on loopback, without tokens, with private Redis and Postgres",
		Long: `Runs the service on 127.0.0.1, without tokens. DATABASE_URL and REDIS_URL are used
where they are set; otherwise private servers are started on free ports, with data
in --data that outlive them. While they run, the file env there says where they are:

  (set -a; . .tallymq/env; tallymq verify)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(false)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if bench {
				ctx = untilEnd(ctx, cmd.InOrStdin())
			}
			return runDev(ctx, cfg, dir, bench, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "data", ".tallymq", "directory for the private servers' data")
	cmd.Flags().BoolVar(&bench, "bench", false, "for bench: add a route that does nothing, and end with standard input")
	_ = cmd.Flags().MarkHidden("bench")
	return cmd
}

// untilEnd is ctx, which also ends with a stream: a parent holds the other end, and
// however it dies, its child goes too.
func untilEnd(ctx context.Context, in io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in)
	}()
	return ctx
}

func runDev(ctx context.Context, cfg config.Config, dir string, noop bool, out io.Writer) (err error) {
	level := slog.LevelWarn
	if os.Getenv("LOG_LEVEL") != "" {
		level = cfg.Level()
	}
	logger := slog.New(telemetry.NewSampler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	tuneMemory()
	if noop || os.Getenv("TENANT_REQUESTS_PER_SECOND") == "" {
		cfg.TenantRequests = 0
	}
	if noop || os.Getenv("TENANT_BYTES_PER_SECOND") == "" {
		cfg.TenantBytes = 0
	}
	if noop {
		cfg.QueueLengthMax = 0
	}
	if cfg.WebhookAllow == "" {
		cfg.WebhookAllow = devNetworks
	}
	named := cfg
	stop, err := startStack(ctx, &cfg, dir)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return err
	}
	unshare, err := shareAddresses(dir, named, cfg)
	if err != nil {
		return err
	}
	defer unshare()
	return runService(ctx, cfg, logger, options{
		host: "127.0.0.1", noop: noop,
		onReady: func(addr string) {
			_, _ = fmt.Fprintf(out, "TallyMQ is ready. Type in another terminal:  curl -H content-type:application/json -d '{\"name\":\"orders\"}' http://%s%s/queues\n", addr, apiPrefix)
			_, _ = fmt.Fprintf(out, "Data are in %s, and how other programs reach them in %s; Ctrl-C ends the service and keeps the data.\n", dir, filepath.Join(dir, addressesFile))
		},
	})
}

// startStack starts what the environment does not name. stop is never nil.
func startStack(ctx context.Context, cfg *config.Config, dir string) (stop func() error, err error) {
	var stops []func(context.Context) error
	stop = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var errs []error
		for _, s := range stops {
			errs = append(errs, s(ctx))
		}
		return errors.Join(errs...)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return stop, fmt.Errorf("--data: %w", err)
	}
	if cfg.RedisURL == "" {
		r, err := devstack.StartRedis(ctx, devstack.RedisOptions{Dir: filepath.Join(dir, "redis")})
		if err != nil {
			return stop, fmt.Errorf("private Redis: %w", err)
		}
		stops = append(stops, r.Stop)
		cfg.RedisURL = r.URL()
	}
	if cfg.DatabaseURL == "" {
		p, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{Dir: filepath.Join(dir, "postgres")})
		if err != nil {
			return stop, fmt.Errorf("private Postgres: %w", err)
		}
		stops = append(stops, p.Stop)
		cfg.DatabaseURL = p.URL()
	}
	return stop, nil
}

func migrateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema of DATABASE_URL up to date (serve does it by itself)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			pool, err := openDatabase(cmd.Context(), logger)
			if err != nil {
				return err
			}
			defer pool.Close()
			if err := postgres.Migrate(cmd.Context(), pool, logger); err != nil {
				return err //nolint:wrapcheck // says what it does
			}
			return postgres.EnsurePartitions(cmd.Context(), pool, time.Now())
		},
	}
}

func openDatabase(ctx context.Context, logger *slog.Logger) (*pgxpool.Pool, error) {
	cfg, err := loadConfig(false)
	if err != nil {
		return nil, err
	}
	if cfg.DatabaseURL == "" {
		return nil, errors.New("DATABASE_URL: is not set")
	}
	pool, err := postgres.Open(ctx, cfg.DatabaseURL)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the variable
	}
	if err := postgres.WaitReady(ctx, pool, logger); err != nil {
		pool.Close()
		return nil, err //nolint:wrapcheck // says what it does
	}
	return pool, nil
}

func healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Exit with 0 if the service on this machine's PORT is ready, else with 1",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(false)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port))+"/readyz", nil)
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			defer func() { _ = resp.Body.Close() }()
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("not ready: %s", strings.TrimSpace(string(text)))
			}
			return nil
		},
	}
}
