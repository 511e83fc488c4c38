package redis

import (
	"context"
	"fmt"
	"slices"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// TopicState is a topic's delivery at one moment, from Redis.
type TopicState struct {
	// NowMs is the moment, in ms since 1970, by the log's clock.
	NowMs      int64
	Partitions []PartitionState
	Retries    []RetryState
	// Scheduled is how many messages wait to be released.
	Scheduled int64
	// Unsettled is how many messages each group has not settled.
	Unsettled map[string]int64
	// Last is the last position of the shard's log at that moment.
	Last events.Position
}

// PartitionState is one partition's stream.
type PartitionState struct {
	// Held is how many messages Redis still holds, finished ones included.
	Held       int64
	NextOffset int64
	// First is where the oldest held message stands in the log, 0 for none.
	First events.Position
	// FirstOffset is that message's offset, the next one for none.
	FirstOffset int64
	Groups      []GroupState
}

// GroupState is a consumer group's place in a partition.
type GroupState struct {
	Group string
	// Delivered is how many messages were handed out, settled or not.
	Delivered int64
	Pending   int64
	// Missing is how many of those that were not handed out are gone, as their payloads
	// were erased.
	Missing int64
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
	// Active is how many of the group's consumers got messages within the last minute.
	Active int64
	// Held is how many messages of an ordered group wait for one of their key.
	Held int64
}

// TopicRef names a topic for [Log.TopicStates].
type TopicRef struct {
	Shard, Partitions int
	TopicID           string
}

// topicStatesMax is how many topics one round trip asks about.
const topicStatesMax = 100

// TopicStates returns many topics' live states, in order, a hundred in a round trip.
func (l *Log) TopicStates(ctx context.Context, topics []TopicRef) ([]TopicState, error) {
	states := make([]TopicState, 0, len(topics))
	for chunk := range slices.Chunk(topics, topicStatesMax) {
		calls := make([]*goredis.Cmd, len(chunk))
		epoch := l.life.Load().epoch
		_, err := l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for i, t := range chunk {
				k := l.shards[t.Shard].keys
				calls[i] = stateScript.Eval(ctx, p, []string{k.due()}, k.prefix, t.TopicID, t.Partitions, epoch)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("states of %d topics: %w", len(chunk), l.lost(err))
		}
		for i, call := range calls {
			s, err := readTopicState(call.Val())
			if err != nil {
				return nil, fmt.Errorf("state of topic %s: %w", chunk[i].TopicID, err)
			}
			states = append(states, s)
		}
	}
	return states, nil
}

// TopicState returns a topic's live state, in one round trip.
func (l *Log) TopicState(ctx context.Context, shardNo int, topicID string, partitions int) (TopicState, error) {
	k := l.shards[shardNo].keys
	v, err := l.run(ctx, l.life.Load(), stateScript, k.due(), []any{k.prefix, topicID, partitions})
	if err != nil {
		return TopicState{}, fmt.Errorf("topic state: %w", err)
	}
	s, err := readTopicState(v)
	if err != nil {
		return TopicState{}, fmt.Errorf("topic state: %w", err)
	}
	return s, nil
}

func readTopicState(v any) (TopicState, error) {
	var r reply
	answer := r.list(v)
	s := TopicState{NowMs: r.int(r.at(answer, 0))}
	for _, v := range r.list(r.at(answer, 1)) {
		f := r.list(v)
		p := PartitionState{Held: r.int(r.at(f, 0)), NextOffset: r.int(r.at(f, 1)), First: r.position(r.at(f, 2)), FirstOffset: r.int(r.at(f, 4))}
		for _, v := range r.list(r.at(f, 3)) {
			g := r.list(v)
			p.Groups = append(p.Groups, GroupState{
				Group: r.str(r.at(g, 0)), Delivered: r.int(r.at(g, 1)), Pending: r.int(r.at(g, 2)), Unsettled: r.position(r.at(g, 3)), Missing: r.int(r.at(g, 4)),
			})
		}
		s.Partitions = append(s.Partitions, p)
	}
	for _, v := range r.list(r.at(answer, 2)) {
		f := r.list(v)
		s.Retries = append(s.Retries, RetryState{
			Group: r.str(r.at(f, 0)), Ready: r.int(r.at(f, 1)), Leased: r.int(r.at(f, 2)),
			Waiting: r.int(r.at(f, 3)), First: r.position(r.at(f, 4)), Active: r.int(r.at(f, 5)),
			Held: r.int(r.at(f, 6)),
		})
	}
	s.Scheduled, s.Last, s.Unsettled = r.int(r.at(answer, 3)), r.position(r.at(answer, 5)), map[string]int64{}
	for _, v := range r.list(r.at(answer, 4)) {
		g := r.list(v)
		s.Unsettled[r.str(r.at(g, 0))] = r.int(r.at(g, 1))
	}
	return s, r.err
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
