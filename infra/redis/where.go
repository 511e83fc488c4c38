package redis

import (
	"context"
	"fmt"

	"github.com/tallymq/tallymq/events"
)

// Place is where a message is for a consumer group at one moment.
type Place struct {
	// State is waiting, in_flight, retrying, held, or empty where the group does not have
	// the message.
	State string
	NowMs int64
	// OverMs is when its lease or its wait for another attempt is over, in ms since 1970;
	// 0 for unknown.
	OverMs int64
	// Ahead is how many messages come before it, -1 for unknown.
	Ahead int64
	// Last is the last position of the shard's log at that moment.
	Last events.Position
}

// Where looks for a message of a topic among those of a group, in one round trip. It
// looks through a bounded number of retries.
func (l *Log) Where(ctx context.Context, shardNo int, topicID, group, messageID string, partition int, offset int64) (Place, error) {
	k := l.shards[shardNo].keys
	v, err := l.run(ctx, l.life.Load(), whereScript, k.due(), []any{k.prefix, topicID, group, messageID, partition, offset})
	if err != nil {
		return Place{}, fmt.Errorf("where a message is: %w", err)
	}
	var r reply
	a := r.list(v)
	p := Place{State: r.str(r.at(a, 0)), NowMs: r.int(r.at(a, 1)), OverMs: r.int(r.at(a, 2)), Ahead: r.int(r.at(a, 3)), Last: r.position(r.at(a, 4))}
	if r.err != nil {
		return Place{}, fmt.Errorf("where a message is: %w", r.err)
	}
	return p, nil
}
