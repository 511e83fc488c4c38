// Command audit is an audit service in thirty lines: it reads every event from
// TallyMQ's logs with the stock subscriber of watermill-redisstream and writes it down,
// at least once. The log keeps what the group "audit" has not acknowledged. Each shard's
// events come in order, but for what a service that ended had in its hands: that comes
// later, after MaxIdleTime. Payloads are encrypted where TallyMQ encrypts them.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	shards, err := strconv.Atoi(os.Getenv("SHARDS"))
	if err == nil {
		err = audit(ctx, os.Getenv("REDIS_URL"), os.Getenv("REDIS_KEY_PREFIX"), shards, os.Stdout)
	}
	if err != nil {
		slog.Error("audit (REDIS_URL, REDIS_KEY_PREFIX and SHARDS are TallyMQ's)", "error", err)
	}
}

// audit writes events to out until ctx ends. What it could not write comes again.
func audit(ctx context.Context, url, prefix string, shards int, out io.Writer) error {
	options, err := redis.ParseURL(url)
	if err != nil {
		return fmt.Errorf("REDIS_URL: %w", err)
	}
	logger := watermill.NewSlogLogger(slog.Default())
	sub, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
		Client: redis.NewClient(options), ConsumerGroup: "audit", MaxIdleTime: 5 * time.Second, DisableIndefiniteInitialBlock: true,
	}, logger)
	if err != nil {
		return fmt.Errorf("subscriber: %w", err)
	}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	for shard := range shards {
		stream := fmt.Sprintf("%s{%d}:log", prefix, shard)
		router.AddConsumerHandler(stream, stream, sub, func(m *message.Message) error {
			_, err := fmt.Fprintf(out, "%s tenant=%s actor=%q id=%s %s\n", m.Metadata["kind"], m.Metadata["tenant"], m.Metadata["actor"], m.UUID, m.Payload)
			return err //nolint:wrapcheck // the router logs it with the message
		})
	}
	return router.Run(ctx) //nolint:wrapcheck // says what it does
}
