package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/query"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/queries"
)

// queueState reads a queue's delivery from Redis and counts it as the API shows it.
func (s *service) queueState(ctx context.Context, q queries.Queue) (query.State, error) {
	live, err := s.log.TopicState(ctx, q.Shard, q.ID, q.PartitionCount)
	if err != nil {
		return query.State{}, unavailableState(err)
	}
	return countState(live), nil
}

func unavailableState(err error) error { return fmt.Errorf("%w: %w", query.ErrStateUnavailable, err) }

func countState(live redis.TopicState) query.State {
	out := query.State{Scheduled: live.Scheduled, Groups: []query.GroupState{}, Partitions: []query.PartitionState{}}
	groups := map[string]*query.GroupState{}
	group := func(name string) *query.GroupState {
		if groups[name] == nil {
			groups[name] = &query.GroupState{ConsumerGroup: name}
		}
		return groups[name]
	}
	held := int64(0)
	for n, p := range live.Partitions {
		shown := query.PartitionState{Partition: n, Published: p.NextOffset, Held: p.Held}
		held += p.Held
		for _, g := range p.Groups {
			of, lag := group(g.Group), lag(p, g)
			of.Lag += lag
			of.Pending += g.Pending
			of.OldestUnackedMs = older(of.OldestUnackedMs, age(live.NowMs, g.Unsettled))
			shown.Lag = max(shown.Lag, lag)
			shown.Pending += g.Pending
		}
		out.Partitions = append(out.Partitions, shown)
	}
	for _, r := range live.Retries {
		of := group(r.Group)
		of.Pending += r.Leased
		of.Retrying += r.Ready - r.Leased + r.Waiting
		of.Held += r.Held
		of.Lag += r.Held
		of.OldestUnackedMs = older(of.OldestUnackedMs, age(live.NowMs, r.First))
	}
	for _, g := range groups {
		out.Groups = append(out.Groups, *g)
		out.Depth = max(out.Depth, g.Lag+g.Pending+g.Retrying)
		out.Lag = max(out.Lag, g.Lag)
		out.Pending += g.Pending
		out.OldestUnackedMs = older(out.OldestUnackedMs, g.OldestUnackedMs)
	}
	if len(groups) == 0 {
		out.Depth = held
	}
	slices.SortFunc(out.Groups, func(a, b query.GroupState) int { return strings.Compare(a.ConsumerGroup, b.ConsumerGroup) })
	return out
}

// age is how long ago a message was published, nil where there is none.
func age(nowMs int64, published events.Position) *int64 {
	if published == 0 {
		return nil
	}
	ms := max(nowMs-published.Ms(), 0)
	return &ms
}

func older(a, b *int64) *int64 {
	if a == nil || (b != nil && *b > *a) {
		return b
	}
	return a
}
