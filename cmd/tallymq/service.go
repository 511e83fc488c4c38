package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/delivery"
	"github.com/tallymq/tallymq/handlers/handover"
	"github.com/tallymq/tallymq/handlers/jobs"
	"github.com/tallymq/tallymq/handlers/retention"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/auth"
	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/cron"
	"github.com/tallymq/tallymq/infra/keyring"
	"github.com/tallymq/tallymq/infra/limits"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/infra/telemetry"
	"github.com/tallymq/tallymq/infra/webhook"
	"github.com/tallymq/tallymq/projections"
)

// Limits of the service.
const (
	apiPrefix         = "/api/v1/mq"
	readHeaderTimeout = 10 * time.Second
	// writeTimeout leaves room for the longest long poll.
	writeTimeout   = commands.PullWaitMsMax*time.Millisecond + 40*time.Second
	idleTimeout    = 2 * time.Minute
	headerBytesMax = 64 << 10
	// drainTimeout is how long a shutdown waits for requests under way.
	drainTimeout = 15 * time.Second
	// pullBytesMax bounds one pull's answer; a single larger message still goes.
	pullBytesMax = 8 << 20
	// idempotencyTTL is how long a repeated request is recognized.
	idempotencyTTL = 24 * time.Hour
	// logKeep is for how long the log keeps what is folded: what a Postgres that fails over
	// to a replica which was behind can have lost.
	logKeep = 10 * time.Second
	// partitionCheck is how often partitions are made and dropped.
	partitionCheck = time.Hour
	partitionRetry = time.Minute
	prepareRetry   = time.Second
	// telemetryTimeout is how long a shutdown waits for traces to be handed on.
	telemetryTimeout = 5 * time.Second
)

// service is the running parts of one instance.
type service struct {
	cfg    config.Config
	logger *slog.Logger
	pool   *pgxpool.Pool
	redis  *goredis.Client
	// readers is redis' client for those who wait for the log.
	readers *goredis.Client
	// instance names this process among those of the store.
	instance  string
	startedAt time.Time
	roles     roles
	// metrics and window are nil where METRICS_ENABLED is off; observer and tracing do
	// nothing then.
	metrics  *telemetry.Metrics
	window   *telemetry.Window
	observer *telemetry.Observer
	tracing  *telemetry.Tracing
	health   *health
	// handover is nil where this process does not hand on.
	handover *handover.Forwarder
	// keyring is nil where payloads are not encrypted.
	keyring *keyring.Keyring
	// handler is what answers requests: 503 until the stores are ready.
	handler atomic.Pointer[http.Handler]
	ready   atomic.Bool

	webhooks *webhook.Client
	pusher   *delivery.Pusher
	jobs     *jobs.Jobs

	// projectionVersion is that of the code that folds.
	projectionVersion int

	log        *redis.Log
	watch      *logWatch
	dispatcher *commands.Dispatcher
	keys       serviceKeys
	// headKey signs the heads of history's logs, once one was asked for.
	headKey atomic.Pointer[ed25519.PrivateKey]
	limiter *limits.Limiter
	// tokens verifies the auth service's tokens; nil where there is none.
	tokens *auth.Verifier
	// background ends with work's context; draining ends first, when no new work
	// is taken on any more.
	background sync.WaitGroup
	draining   context.Context //nolint:containedctx // a lifetime, not a call's
	drain      context.CancelFunc
}

// serviceKeys are the keys that every instance of a store shares.
type serviceKeys struct{ tokens, cursors, webhooks []byte }

// options is how a service is run.
type options struct {
	// host is where it listens.
	host string
	// token is what callers must present, "" for nothing.
	token string
	// roles are the parts to run, all where there are none.
	roles roles
	// projectionVersion is that of the code that folds, its own where it is 0.
	projectionVersion int
	// noop adds a route that does nothing, for bench to compare with.
	noop bool
	// onReady is called once, with the address.
	onReady func(addr string)
}

// runService runs an instance until ctx ends, then lets what is under way finish.
func runService(ctx context.Context, cfg config.Config, logger *slog.Logger, o options) error {
	s := &service{cfg: cfg, logger: logger, instance: newID(), startedAt: time.Now(), roles: o.roles, projectionVersion: cmp.Or(o.projectionVersion, projections.Version)}
	if len(s.roles) == 0 {
		s.roles = allRoles()
	}
	s.health = &health{s: s}
	if err := s.startTelemetry(ctx); err != nil {
		return err
	}
	defer s.stopTelemetry()
	s.draining, s.drain = context.WithCancel(context.Background())
	defer s.drain()
	starting := http.Handler(s.edge(o, nil))
	s.handler.Store(&starting)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(o.host, strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("PORT: cannot listen (is another service there? PORT=… takes another): %w", err)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.handler.Load()).ServeHTTP(w, r) }),
		ReadHeaderTimeout: readHeaderTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerBytesMax, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	connections := limits.LimitConnections(listener, cfg.Connections, web.RawUnavailable("too many connections"))
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(connections) }()
	defer func() { _ = server.Close() }()

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer s.close(stopWork)
	if err := s.start(ctx, work); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	serving := http.Handler(s.edge(o, s.routes))
	s.handler.Store(&serving)
	s.ready.Store(true)
	if o.onReady != nil {
		o.onReady(listener.Addr().String())
	}
	select {
	case <-ctx.Done():
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	}
	return s.shutdown(server)
}

// shutdown takes no new work and lets requests finish: long polls come back empty,
// publishes wait for their folds, so projectors stop after them.
func (s *service) shutdown(server *http.Server) error {
	s.logger.Info("stopping: finishing what is under way")
	s.ready.Store(false)
	s.drain()
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close()
		return fmt.Errorf("stop: requests still under way after %s were cut off: %w", drainTimeout, err)
	}
	return nil
}

func (s *service) close(stopWork context.CancelFunc) {
	stopWork()
	s.background.Wait()
	if s.log != nil {
		s.log.Close()
	}
	if s.webhooks != nil {
		s.webhooks.Close()
	}
	if s.redis != nil {
		_ = s.redis.Close()
	}
	if s.readers != nil {
		_ = s.readers.Close()
	}
	if s.pool != nil {
		s.pool.Close()
	}
}

// start opens the stores, waits for them, and starts what runs in the background.
func (s *service) start(ctx, work context.Context) error {
	if err := s.openStores(ctx, work); err != nil {
		return err
	}
	if err := s.assemble(); err != nil {
		return err
	}
	s.runParts(work)
	return nil
}

// openStores returns once both stores are there and fit.
func (s *service) openStores(ctx, work context.Context) (err error) {
	if s.pool, err = postgres.Open(work, s.cfg.DatabaseURL); err != nil {
		return err //nolint:wrapcheck // names the variable
	}
	s.watch = newLogWatch(&logStore{pool: s.pool, databaseURL: s.cfg.DatabaseURL, redisURL: s.cfg.RedisURL, prefix: s.cfg.RedisKeyPrefix, shards: s.cfg.Shards, logger: s.logger})
	if s.redis, s.readers, err = redis.OpenGuarded(s.cfg.RedisURL, s.cfg.Shards, s.watch.guard); err != nil {
		return err //nolint:wrapcheck // names the variable
	}
	for {
		if err = s.prepare(ctx); err == nil {
			return nil
		}
		if ctx.Err() != nil || isFinal(err) {
			return err
		}
		s.logger.Warn("starting; trying again", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // asked to stop
		case <-time.After(prepareRetry):
		}
	}
}

// assemble puts together what works on the stores.
func (s *service) assemble() (err error) {
	s.log = redis.New(redis.Config{
		Client: s.redis, Readers: s.readers, Epoch: s.watch.run.epoch, Lost: s.watch.suspect, KeepFolded: logKeep, Prefix: s.cfg.RedisKeyPrefix, Shards: s.cfg.Shards, QueueLengthMax: s.cfg.QueueLengthMax, IdempotencyTTL: idempotencyTTL,
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule, Logger: s.logger,
		KeysDestroyed: s.forgetKeys,
	})
	allowed, err := s.cfg.AllowedNetworks()
	if err != nil {
		return err //nolint:wrapcheck // names the variable
	}
	s.webhooks = webhook.New(webhook.Config{Allow: allowed, UserAgent: "TallyMQ/" + version})
	seal := s.seal
	if s.keyring == nil {
		seal = nil
	}
	s.dispatcher = commands.NewDispatcher(s.log, commands.Config{
		Observer: s.observer, Traced: s.traced, Seal: seal, Open: s.open,
		Filter: compileFilter, NextTick: cron.Next, CheckWebhook: s.webhooks.CheckURL, CheckHeader: webhook.CheckHeader, PullMessages: s.cfg.PullMessages,
		Shards: s.cfg.Shards, AckTimeout: s.cfg.AckTimeout(), SessionTimeout: s.cfg.SessionTimeout(), MessageTTL: s.cfg.MessageTTL(),
		PayloadBytesMax: s.cfg.MessageSizeBytesMax, PullBytesMax: pullBytesMax, TokenKey: s.keys.tokens, Logger: s.logger,
		Now: time.Now, NewID: newID, Rand: chance,
	})
	s.jobs = s.newJobs()
	if s.pusher, err = s.newPusher(); err != nil {
		return err
	}
	s.limiter, err = limits.NewLimiter(limits.Rates{
		Requests: limits.Rate{PerSecond: s.cfg.TenantRequests}, Bytes: limits.Rate{PerSecond: s.cfg.TenantBytes},
		BodyBytesMax: max(command.BatchBodyMax, int64(s.cfg.MessageSizeBytesMax)),
	}, time.Now())
	if err != nil {
		return err //nolint:wrapcheck // checked when the configuration was read
	}
	return nil
}

// runParts starts what runs in the background.
func (s *service) runParts(work context.Context) {
	if s.cfg.AuthURL != "" {
		s.tokens = auth.New(auth.Config{URL: s.cfg.AuthURL, Issuer: s.cfg.Issuer(), Audience: s.cfg.AuthAudience, Logger: s.logger})
		s.background.Go(func() { s.tokens.Run(work) })
	}
	s.background.Go(func() { s.watch.follow(work, s.log) })
	s.background.Go(func() { s.log.Run(work) })
	s.background.Go(func() { s.postMeasures(work) })
	if s.roles.has(roleDelivery) {
		s.background.Go(func() {
			s.log.RunDue(work, redis.DueWork{Expired: s.dispatcher.ExpireLeases, Tick: s.dispatcher.Tick, Forward: s.dispatcher.ForwardDeadLetter})
		})
		s.background.Go(func() { s.makePlatformQueues(work) })
		s.handover = s.newHandover()
		s.background.Go(func() { s.handover.Run(work) })
		s.background.Go(func() { s.jobs.Run(work) })
		s.background.Go(func() { s.push(work) })
	}
	s.background.Go(func() { s.health.run(work, s.cfg.HealthInterval()) })
	if s.roles.has(roleProjector) {
		s.background.Go(func() { s.keepPartitions(work) })
		keeper := retention.New(retention.Config{Pool: s.pool, Commands: s.dispatcher, Now: time.Now, Logger: s.logger})
		s.background.Go(func() { keeper.Run(work) })
		s.background.Go(func() { s.keepProjections(work) })
		for shard := range s.cfg.Shards {
			s.background.Go(func() { s.project(work, shard) })
		}
	}
}

// project folds a shard until ctx ends.
func (s *service) project(ctx context.Context, shard int) {
	projections.New(projections.Config{
		Shard: shard, Version: s.projectionVersion, Run: s.watch.token,
		Stale:   s.watch.suspect,
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, s.cfg.DatabaseURL) },
		Source: func(after events.Position) (message.Subscriber, string) {
			return s.log.Reader(shard, after), redis.LogStream(s.cfg.RedisKeyPrefix, shard)
		},
		Committed: func(upTo events.Position) { s.log.Announce(shard, upTo) },
		Folded:    func(records []events.Record) { s.folded(shard, records) },
		Active: func(isActive bool) {
			if s.metrics != nil {
				s.metrics.SetProjectionActive(shard, isActive)
			}
		},
		Logger: s.logger,
	}).Run(ctx)
}

// keepPartitions makes partitions ahead of time and drops expired ones.
func (s *service) keepPartitions(ctx context.Context) {
	ticker := time.NewTicker(partitionCheck)
	defer ticker.Stop()
	for {
		err := postgres.EnsurePartitions(ctx, s.pool, time.Now())
		if keep := s.cfg.Retention(); err == nil && keep > 0 {
			err = postgres.DropExpired(ctx, s.pool, time.Now(), keep, s.logger)
		}
		ticker.Reset(partitionCheck)
		if err != nil && ctx.Err() == nil {
			s.logger.Warn("partitions; trying again in a minute", "error", err)
			ticker.Reset(partitionRetry)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// stopTelemetry hands on what is still to be told.
func (s *service) stopTelemetry() {
	ctx, cancel := context.WithTimeout(context.Background(), telemetryTimeout)
	defer cancel()
	if err := s.tracing.Shutdown(ctx); err != nil {
		s.logger.Warn("traces that were not handed on", "error", err)
	}
}

// newID mints a UUIDv7 (RFC 9562, section 5.7). It panics where the system has no
// randomness left, which Go does for itself since 1.24.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// chance is uniform over [0, 1).
func chance() float64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	const bits = 53
	return float64(binary.BigEndian.Uint64(b[:])>>(64-bits)) / (1 << bits)
}

// isStopped reports whether err only says that the program was asked to stop.
func isStopped(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, context.Canceled)
}
