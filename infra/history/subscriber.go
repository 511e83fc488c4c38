package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Limits, and what a [Config] has where it says nothing.
const (
	// BatchEventsDefault and BatchEventsMax are events read at once.
	BatchEventsDefault = 100
	BatchEventsMax     = 1000
	// BatchBytesMax bounds the payloads read at once; a single larger one still goes.
	BatchBytesMax = 8 << 20
	// PollIntervalDefault is how long a reader that has everything waits.
	PollIntervalDefault = 500 * time.Millisecond
	// AckDeadlineDefault and NackDelayDefault are those of watermill-sql.
	AckDeadlineDefault = 30 * time.Second
	NackDelayDefault   = time.Second
	// GroupLengthMax is the characters of a consumer group.
	GroupLengthMax = 200

	// retryInterval is the pause after an error.
	retryInterval = time.Second
	// statementTimeout bounds every statement of ours.
	statementTimeout = 30 * time.Second
	// settleTimeout bounds saving the offset when the caller has left.
	settleTimeout  = 5 * time.Second
	connectTimeout = 3 * time.Second
)

// Config says who reads what.
type Config struct {
	// DatabaseURL is TallyMQ's Postgres, as a user whom row-level security does not
	// fence in: the tables' owner.
	DatabaseURL string
	// Group is the consumer group. It has an offset for each shard, in the table
	// history_readers, which is made if need be.
	Group string
	// TenantID leaves only one tenant's events, "" all. A group has offsets for each.
	TenantID string
	// BatchEvents are read at once and their offset is saved at once, so that many at
	// most come again after a crash. 1 is slow; the default is 100.
	BatchEvents int
	// PollInterval is how long a reader that has everything waits until it looks again:
	// the projector does not notify.
	PollInterval time.Duration
	// AckDeadline is how long a message may be in hand: then it comes again, nacks and
	// all. NackDelay is the pause after a nack.
	AckDeadline, NackDelay time.Duration
	// OnGap is asked what to do where events are gone. Its error stops the shard's
	// reader, which asks again every second; nil goes on behind the gap. Without it, a
	// reader never goes on.
	OnGap  func(GapError) error
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Group == "" || utf8.RuneCountInString(c.Group) > GroupLengthMax {
		return c, fmt.Errorf("history: Group must have 1 to %d characters", GroupLengthMax)
	}
	if c.TenantID != "" {
		id, err := uuid.Parse(c.TenantID)
		if err != nil {
			return c, fmt.Errorf("history: TenantID must be a UUID: %w", err)
		}
		c.TenantID = id.String()
	}
	if c.BatchEvents == 0 {
		c.BatchEvents = BatchEventsDefault
	}
	if c.BatchEvents < 0 || c.BatchEvents > BatchEventsMax {
		return c, fmt.Errorf("history: BatchEvents must be 1 to %d", BatchEventsMax)
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"PollInterval", &c.PollInterval, PollIntervalDefault},
		{"AckDeadline", &c.AckDeadline, AckDeadlineDefault},
		{"NackDelay", &c.NackDelay, NackDelayDefault},
	} {
		if *d.value < 0 {
			return c, fmt.Errorf("history: %s must not be negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	if c.OnGap == nil {
		c.OnGap = func(g GapError) error { return g }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// Subscriber is a [message.Subscriber] of the event history. A message's id, metadata
// and payload are what events.ParseRecord reads, and what the log has.
type Subscriber struct {
	cfg    Config
	pool   *pgxpool.Pool
	shards int
	logger watermill.LoggerAdapter

	mu     sync.Mutex
	stops  []func() error
	closed bool
}

var _ message.Subscriber = (*Subscriber)(nil)

// Open connects to the history, with a connection for each of the store's shards and
// one more at most. Close it in the end.
func Open(ctx context.Context, cfg Config) (*Subscriber, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	pool, shards, err := connect(ctx, cfg.DatabaseURL)
	if err != nil {
		return nil, err
	}
	return &Subscriber{cfg: cfg, pool: pool, shards: shards, logger: watermill.NewSlogLogger(cfg.Logger)}, nil
}

// connect returns a pool with a connection for each of the store's shards.
func connect(ctx context.Context, url string) (*pgxpool.Pool, int, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, 0, fmt.Errorf("history: DatabaseURL: %w", err)
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = "tallymq history"
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, setUpSession)
		return err //nolint:wrapcheck // pgx says whose it is
	}
	cfg.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, 0, fmt.Errorf("history: %w", err)
	}
	shards, err := prepare(ctx, pool)
	pool.Close()
	if err != nil {
		return nil, 0, err
	}
	cfg.MaxConns = int32(shards) + 1 //nolint:gosec // 1 to 64
	if pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, 0, fmt.Errorf("history: %w", err)
	}
	return pool, shards, nil
}

// setUpSession has the server end a session whose machine fell silent, so that another
// reads on, and has pages read from the index always: a plan is kept for long, and one
// made while a partition is small would sort it when it has grown. Offsets alone do not
// wait for the disk, see [tx.ExecContext].
const setUpSession = `
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
SET synchronous_commit = off`

// prepare makes sure that this is a history that can be read as a whole, and returns
// its shards.
func prepare(ctx context.Context, pool *pgxpool.Pool) (shards int, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var fenced bool
	var setting string
	err = pool.QueryRow(ctx, `SELECT row_security_active('event_history'), coalesce((SELECT value FROM store_settings WHERE name = 'shards'), '')`).
		Scan(&fenced, &setting)
	switch {
	case err != nil:
		return 0, fmt.Errorf("history: look at the store of DatabaseURL: %w", err)
	case fenced:
		return 0, errors.New("history: DatabaseURL: row-level security lets its user see a part of the history only; use the tables' owner")
	case setting == "":
		return 0, errors.New("history: DatabaseURL: no TallyMQ has used this store yet")
	}
	if shards, err = strconv.Atoi(setting); err != nil {
		return 0, fmt.Errorf("history: the store's shards: %w", err)
	}
	if _, err = pool.Exec(ctx, createReaders); err != nil {
		return 0, fmt.Errorf("history: make the table of offsets: %w", err)
	}
	return shards, nil
}

// topicPrefix is before the shard in a topic's name.
const topicPrefix = "history-"

// Topic is the topic of a shard's events.
func Topic(shard int) string { return topicPrefix + strconv.Itoa(shard) }

func shardOf(topic string) (int, error) {
	number, named := strings.CutPrefix(topic, topicPrefix)
	shard, err := strconv.Atoi(number)
	if err != nil || !named || shard < 0 || topic != Topic(shard) {
		return 0, fmt.Errorf("history: topic %q: must be %s0 or another shard's", topic, topicPrefix)
	}
	return shard, nil
}

// Topics are the topics of the store, one for each shard: together they are all of it.
// All events of a queue and of its messages are in one of them.
func (s *Subscriber) Topics() []string {
	topics := make([]string, s.shards)
	for shard := range topics {
		topics[shard] = Topic(shard)
	}
	return topics
}

// Subscribe delivers a shard's events behind the group's offset, one at a time, until
// ctx ends or the subscriber is closed: then the channel is closed too. What is in hand
// at that moment comes again to who subscribes next.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	shard, err := shardOf(topic)
	if err != nil {
		return nil, err
	}
	if shard >= s.shards {
		return nil, fmt.Errorf("history: topic %q: the store has %d shards", topic, s.shards)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("history: the subscriber is closed")
	}
	r := reader{group: s.cfg.Group, tenantID: s.cfg.TenantID, shard: shard}
	sub, err := sql.NewSubscriber(beginner{pool: s.pool, reader: r, onGap: s.cfg.OnGap, logger: s.cfg.Logger}, sql.SubscriberConfig{
		ConsumerGroup: s.cfg.Group, AckDeadline: &s.cfg.AckDeadline, ResendInterval: s.cfg.NackDelay,
		BackoffManager: backoff{poll: s.cfg.PollInterval}, SchemaAdapter: schema{reader: r, eventsMax: s.cfg.BatchEvents}, OffsetsAdapter: offsets{reader: r},
	}, s.logger)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	out, err := sub.Subscribe(ctx, topic)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("history: subscribe to %s: %w", topic, err)
	}
	s.stops = append(s.stops, func() error {
		cancel()
		return sub.Close()
	})
	return out, nil
}

// Close ends all subscriptions, saves what was acked, and disconnects.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	for _, stop := range s.stops {
		errs = append(errs, stop())
	}
	s.pool.Close()
	return errors.Join(errs...)
}

// backoff says how long to wait after a look at the history.
type backoff struct{ poll time.Duration }

// HandleError implements [sql.BackoffManager].
func (b backoff) HandleError(logger watermill.LoggerAdapter, noMsg bool, err error) time.Duration {
	switch {
	case errors.Is(err, errStandby):
		return b.poll
	case errors.Is(err, context.Canceled):
		return 0 // it ends
	case err != nil:
		logger.Error("History is not read; trying again", err, watermill.LogFields{"in": retryInterval})
		return retryInterval
	case noMsg:
		return b.poll
	default:
		return 0
	}
}
