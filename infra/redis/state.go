package redis

import (
	"context"
	"fmt"

	"github.com/tallymq/tallymq/events"
)

// TopicState is a topic's delivery at one moment, from Redis.
type TopicState struct {
	// NowMs is the moment, in ms since 1970, by the log's clock.
	NowMs      int64
	Partitions []PartitionState
	Retries    []RetryState
}

// PartitionState is one partition's stream.
type PartitionState struct {
	// Held is how many messages Redis still holds, finished ones included.
	Held       int64
	NextOffset int64
	// First is where the oldest held message stands in the log, 0 for none.
	First  events.Position
	Groups []GroupState
}

// GroupState is a consumer group's place in a partition.
type GroupState struct {
	Group string
	// Delivered is how many messages were handed out, settled or not.
	Delivered int64
	Pending   int64
	// Unsettled is where the oldest message stands that the group has not
	// settled, 0 for none.
	Unsettled events.Position
}

// RetryState is what a consumer group has to try again.
type RetryState struct {
	Group string
	// Ready counts retries that can be leased or are, Leased those that are, and
	// Waiting those whose time has not come.
	Ready, Leased, Waiting int64
	// First is where the oldest ready message stands in the log, 0 for none.
	First events.Position
}

// TopicState returns a topic's live state, in one round trip.
func (l *Log) TopicState(ctx context.Context, shardNo int, topicID string, partitions int) (TopicState, error) {
	k := l.shards[shardNo].keys
	v, err := stateScript.Run(ctx, l.client, []string{k.due()}, k.prefix, topicID, partitions).Result()
	if err != nil {
		return TopicState{}, fmt.Errorf("topic state: %w", err)
	}
	var r reply
	answer := r.list(v)
	s := TopicState{NowMs: r.int(r.at(answer, 0))}
	for _, v := range r.list(r.at(answer, 1)) {
		f := r.list(v)
		p := PartitionState{Held: r.int(r.at(f, 0)), NextOffset: r.int(r.at(f, 1)), First: r.position(r.at(f, 2))}
		for _, v := range r.list(r.at(f, 3)) {
			g := r.list(v)
			p.Groups = append(p.Groups, GroupState{
				Group: r.str(r.at(g, 0)), Delivered: r.int(r.at(g, 1)), Pending: r.int(r.at(g, 2)), Unsettled: r.position(r.at(g, 3)),
			})
		}
		s.Partitions = append(s.Partitions, p)
	}
	for _, v := range r.list(r.at(answer, 2)) {
		f := r.list(v)
		s.Retries = append(s.Retries, RetryState{
			Group: r.str(r.at(f, 0)), Ready: r.int(r.at(f, 1)), Leased: r.int(r.at(f, 2)),
			Waiting: r.int(r.at(f, 3)), First: r.position(r.at(f, 4)),
		})
	}
	if r.err != nil {
		return TopicState{}, fmt.Errorf("topic state: %w", r.err)
	}
	return s, nil
}

func (r *reply) position(v any) events.Position {
	id := r.str(v)
	if r.err != nil || id == "" {
		return 0
	}
	p, err := parsePosition(id)
	if err != nil {
		r.err = err
	}
	return p
}
