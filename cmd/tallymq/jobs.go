package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/jobs"
	"github.com/tallymq/tallymq/handlers/web"
)

// jobDesk starts and cancels jobs for the API.
type jobDesk struct{ s *service }

var _ command.Jobs = jobDesk{}

func (d jobDesk) Redrive(ctx context.Context, caller commands.Caller, subscriptionID string, f command.RedriveFilter) (web.Job, error) {
	if _, err := d.s.dispatcher.Consumable(ctx, caller, subscriptionID); err != nil {
		return web.Job{}, err //nolint:wrapcheck // says what it does
	}
	return d.start(ctx, caller, jobs.KindRedrive, jobs.Spec{
		SubscriptionID: subscriptionID, MessageIDs: f.MessageIDs, Reason: f.Reason, From: timeOrNil(f.From), To: timeOrNil(f.To),
	})
}

func (d jobDesk) Replay(ctx context.Context, caller commands.Caller, r command.Replay) (web.Job, error) {
	queue, err := d.s.dispatcher.OwnQueue(ctx, caller, r.Queue)
	if err != nil {
		return web.Job{}, err //nolint:wrapcheck // says what it does
	}
	spec := jobs.Spec{
		Queue: r.Queue, SubscriptionID: r.SubscriptionID, TargetQueue: r.TargetQueue, Speed: r.Speed, From: timeOrNil(r.From), To: timeOrNil(r.To),
	}
	if r.SubscriptionID != "" {
		sub, err := d.s.dispatcher.Consumable(ctx, caller, r.SubscriptionID)
		if err != nil {
			return web.Job{}, err //nolint:wrapcheck // says what it does
		}
		if sub.Config.TopicID != queue.Config.TopicID {
			return web.Job{}, &commands.Refusal{
				Code: commands.CodeValidationFailed, Reason: "subscriptionId is of another queue; allowed: one of the queue's subscriptions",
				Problems: []commands.Problem{{Field: "subscriptionId", Limit: "one of the queue's subscriptions", Text: "is of another queue"}},
			}
		}
	}
	if r.TargetQueue != "" {
		if err := d.s.dispatcher.Producible(ctx, caller, r.TargetQueue); err != nil {
			return web.Job{}, err //nolint:wrapcheck // says what it does
		}
	}
	return d.start(ctx, caller, jobs.KindReplay, spec)
}

// Older starts the part of a seek that only history has: what each partition had before
// the first message that Redis holds.
func (d jobDesk) Older(ctx context.Context, caller commands.Caller, sub commands.Subscription, to string) (web.Job, error) {
	shard := events.ShardOf(sub.QueueTenantID, sub.Queue, d.s.cfg.Shards)
	topic, err := d.s.log.TopicByID(ctx, sub.Config.TopicID)
	if err != nil {
		return web.Job{}, err //nolint:wrapcheck // says what it does
	}
	value, ok := topic.Value.(commands.Topic)
	if !ok {
		return web.Job{}, fmt.Errorf("topic %s: state is %T", topic.ID, topic.Value)
	}
	live, err := d.s.log.TopicState(ctx, shard, sub.Config.TopicID, value.Config.PartitionCount)
	if err != nil {
		return web.Job{}, err //nolint:wrapcheck // says what it does
	}
	spec := jobs.Spec{SubscriptionID: sub.Config.SubscriptionID, Before: make([]int64, len(live.Partitions))}
	for n, p := range live.Partitions {
		spec.Before[n] = p.FirstOffset
	}
	if at, err := time.Parse(time.RFC3339Nano, to); err == nil {
		spec.From = &at
	}
	if offset, err := strconv.ParseInt(to, 10, 64); err == nil {
		spec.FromOffset = offset
	}
	return d.start(ctx, caller, jobs.KindSeek, spec)
}

func (d jobDesk) Cancel(ctx context.Context, caller commands.Caller, jobID string) (web.Job, error) {
	j, err := d.s.jobs.Cancel(ctx, caller.TenantID, jobID)
	switch {
	case errors.Is(err, jobs.ErrNone):
		return web.Job{}, &commands.Refusal{Code: commands.CodeJobNotFound, Reason: fmt.Sprintf("no job %q", jobID)}
	case errors.Is(err, jobs.ErrEnded):
		return web.Job{}, &commands.Refusal{Code: commands.CodeConflict, Reason: "the job is " + j.Status}
	case err != nil:
		return web.Job{}, fmt.Errorf("%w: %w", commands.ErrUnavailable, err)
	}
	return showJob(j)
}

func (d jobDesk) start(ctx context.Context, caller commands.Caller, kind string, spec jobs.Spec) (web.Job, error) {
	j, err := d.s.jobs.Start(ctx, caller.TenantID, commands.OwnerOf(caller), kind, caller.IdempotencyKey, spec)
	if err != nil {
		if _, refused := errors.AsType[*commands.Refusal](err); refused {
			return web.Job{}, err //nolint:wrapcheck // for the caller
		}
		return web.Job{}, fmt.Errorf("%w: %w", commands.ErrUnavailable, err)
	}
	return showJob(j)
}

func showJob(j jobs.Job) (web.Job, error) {
	spec, err := json.Marshal(j.Spec)
	if err != nil {
		return web.Job{}, fmt.Errorf("job %s: %w", j.ID, err)
	}
	return web.Job{
		ID: j.ID, Kind: j.Kind, Status: j.Status, Spec: web.Raw(spec), Done: j.Done, Failed: j.Failed, Total: j.Total, Error: j.Error,
		CreatedBy: j.CreatedBy, CreatedAt: web.Time(j.CreatedAt), UpdatedAt: web.Time(j.UpdatedAt), FinishedAt: web.TimePtr(j.FinishedAt),
	}, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
