package redis

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tallymq/tallymq/events"
)

// keys names a shard's keys. All of them carry the shard's hash tag.
type keys struct{ prefix string }

func shardKeys(prefix string, shard int) keys {
	return keys{prefix: fmt.Sprintf("%s{%d}:", prefix, shard)}
}

func (k keys) log() string                   { return k.prefix + "log" }
func (k keys) due() string                   { return k.prefix + "due" }
func (k keys) names() string                 { return k.prefix + "names" }
func (k keys) topic(id string) string        { return k.prefix + "topic:" + id }
func (k keys) subscription(id string) string { return k.prefix + "sub:" + id }
func (k keys) subscriptions(topicID string) string {
	return k.prefix + "subs:" + topicID
}
func (k keys) schedule(id string) string { return k.prefix + "schedule:" + id }
func (k keys) scheduled() string         { return k.prefix + "scheduled" }
func (k keys) outbox() string            { return k.prefix + "outbox" }
func (k keys) push() string              { return k.prefix + "push" }
func (k keys) folded() string            { return k.prefix + "folded" }
func (k keys) trimmed() string           { return k.prefix + "trimmed" }
func (k keys) wake() string              { return k.prefix + "wake" }
func (k keys) epoch() string             { return k.prefix + "epoch" }
func (k keys) restoring() string         { return k.prefix + "restoring" }
func (k keys) queue(topicID string, partition int) string {
	return k.prefix + "q:" + topicID + ":" + strconv.Itoa(partition)
}

func (k keys) retry(topicID, group string) string {
	return k.prefix + "retry:" + topicID + ":" + group
}

// QueueStream is the key of the stream that holds a topic's partition. Entries
// are in watermill-redisstream's format, so a stock subscriber can read them.
func QueueStream(prefix string, shard int, topicID string, partition int) string {
	return fmt.Sprintf("%sq:%s:%d", shardKeys(prefix, shard).prefix, topicID, partition)
}

// LogStream is the key of a shard's log, in the same format.
func LogStream(prefix string, shard int) string { return shardKeys(prefix, shard).log() }

// parseEntryID splits a stream entry's id.
func parseEntryID(id string) (ms, seq int64, err error) {
	left, right, ok := strings.Cut(id, "-")
	if ok {
		if ms, err = strconv.ParseInt(left, 10, 64); err == nil {
			if seq, err = strconv.ParseInt(right, 10, 64); err == nil {
				return ms, seq, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("stream entry id %q: not <ms>-<seq>", id)
}

func parsePosition(id string) (events.Position, error) {
	ms, seq, err := parseEntryID(id)
	if err != nil {
		return 0, err
	}
	if !events.IsPosition(ms, seq) {
		return 0, fmt.Errorf("log entry id %q does not fit a position", id)
	}
	return events.MakePosition(ms, seq), nil
}

func entryID(p events.Position) string { return fmt.Sprintf("%d-%d", p.Ms(), p.Seq()) }
