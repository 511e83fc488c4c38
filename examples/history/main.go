// Command history is an audit service that misses nothing: it reads every event that
// TallyMQ's Postgres has kept, from the beginning, and then follows. Each shard's events
// come in order, at least once, and however long it was away it goes on where it was.
// The audit example beside it follows the log in Redis instead, which has only what is
// not trimmed yet.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/history"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	group := "audit"
	if len(os.Args) > 1 {
		group = os.Args[1]
	}
	if err := audit(ctx, os.Getenv("DATABASE_URL"), group, os.Stdout); err != nil {
		slog.Error("history (DATABASE_URL is TallyMQ's)", "error", err)
	}
}

// audit writes events to out until ctx ends. What it could not write comes again.
func audit(ctx context.Context, url, group string, out io.Writer) error {
	// Warnings and errors: events that are gone, handlers that fail.
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	sub, err := history.Open(ctx, history.Config{DatabaseURL: url, Group: group, Logger: logger})
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	defer func() { _ = sub.Close() }()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NewSlogLogger(logger))
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	for _, topic := range sub.Topics() {
		router.AddConsumerHandler(topic, topic, sub, func(m *message.Message) error {
			r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload)
			if err != nil {
				return err //nolint:wrapcheck // says which
			}
			_, err = fmt.Fprintf(out, "%s %d/%d %s tenant=%s actor=%q id=%s %s\n",
				r.Position.Time().Format("2006-01-02T15:04:05.000Z"), r.Shard, r.Position, r.Event.Kind(), r.TenantID, r.Meta.Actor, r.ID, r.Data)
			return err //nolint:wrapcheck // it comes again
		})
	}
	return router.Run(ctx) //nolint:wrapcheck // says what it does
}
