package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/delivery"
	"github.com/tallymq/tallymq/handlers/jobs"
	"github.com/tallymq/tallymq/infra/filter"
	"github.com/tallymq/tallymq/infra/webhook"
)

// messageFilter is a compiled filter as commands know it.
type messageFilter struct{ *filter.Filter }

func (f messageFilter) Match(key string, headers map[string]string, payload []byte) (passes bool, why string) {
	v := f.Filter.Match(filter.Message{Key: key, Headers: headers, Payload: payload})
	return v.Matches, v.Why
}

func compileFilter(raw []byte) (commands.Filter, error) { //nolint:ireturn // it is what commands take
	f, err := filter.Compile(raw)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what is wrong, for the caller
	}
	return messageFilter{f}, nil
}

// secret derives a webhook's secret: it is stored nowhere.
func (s *service) secret(info string) string { return webhook.Secret(s.keys.webhooks, info) }

// sender sends what is pushed.
type sender struct{ client *webhook.Client }

func (s sender) Send(ctx context.Context, r delivery.Request) delivery.Result {
	out := s.client.Send(ctx, webhook.Request{
		URL: r.URL, Timeout: r.Timeout, ID: r.ID, Secrets: r.Secrets, ContentType: r.ContentType, Header: r.Header, Body: r.Body,
	})
	return delivery.Result{
		Status: out.Status, RetryAfter: out.RetryAfter, Err: out.Err,
		Sent: !errors.Is(out.Err, webhook.ErrNotAllowed) && !errors.Is(out.Err, webhook.ErrRequest),
	}
}

// push delivers messages of webhook subscriptions until ctx ends.
func (s *service) push(ctx context.Context) {
	if err := s.pusher.Run(ctx); err != nil && ctx.Err() == nil {
		s.logger.Error("push ended", "error", err)
	}
}

func (s *service) newPusher() (*delivery.Pusher, error) {
	p, err := delivery.New(delivery.Config{
		Commands: s.dispatcher, List: s.log.Pushed, Changed: s.log.Changed, Sender: sender{s.webhooks},
		Secrets: func(sub commands.Subscription, now time.Time) []string {
			var secrets []string
			for _, info := range sub.SecretInfos(now) {
				secrets = append(secrets, s.secret(info))
			}
			return secrets
		},
		Concurrency: s.cfg.ConcurrentConsumers, Timeout: s.cfg.ProcessingTimeout(), Logger: s.logger,
	})
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	return p, nil
}

func (s *service) newJobs() *jobs.Jobs {
	return jobs.New(jobs.Config{
		Pool: s.pool, Commands: s.dispatcher, Shards: s.cfg.Shards, Open: s.open, NewID: newID, Logger: s.logger,
		LogEnd: func(ctx context.Context, shard int) (int64, error) {
			lag, err := s.log.Lag(ctx, shard)
			return int64(lag.Last), err
		},
		Topic: func(ctx context.Context, tenantID, name string) (string, error) {
			a, err := s.log.Topic(ctx, tenantID, name)
			if errors.Is(err, events.ErrNoAggregate) {
				return "", &commands.Refusal{Code: commands.CodeQueueNotFound, Reason: fmt.Sprintf("no queue %q", name)}
			}
			if err != nil {
				return "", err //nolint:wrapcheck // says what it does
			}
			return a.ID, nil
		},
	})
}
