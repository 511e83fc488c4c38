package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack"

	"github.com/tallymq/tallymq/events"
)

// Limits of the log reader.
const (
	// readCountMax is how many entries one read asks for at most; more is not
	// faster. readBytesWish is what a read should weigh: the heavier the entries,
	// the fewer are asked for, but for the first read that meets them.
	readCountMax  = 32
	readCountMin  = 4
	readBytesWish = 8 << 20
	readBlock     = 2 * time.Second
)

// LogReader follows a shard's log from a position, as a Watermill subscriber. It
// uses no consumer group: whoever follows keeps its own position, so acks mean
// nothing here and many messages are under way at once. Each message carries
// events.MetaShard and events.MetaPosition.
type LogReader struct {
	client  goredis.UniversalClient
	shard   int
	after   events.Position
	trimmed string
	logger  *slog.Logger
}

// ErrTrimmed reports that the log no longer holds what comes after a position.
var ErrTrimmed = errors.New("the log was trimmed past the position to read from")

var _ message.Subscriber = (*LogReader)(nil)

// Reader returns a subscriber to a shard's log that starts after a position.
// Subscribe it to [LogStream].
func (l *Log) Reader(shardNo int, after events.Position) *LogReader {
	client := l.cfg.Readers
	if client == nil {
		client = l.client
	}
	return &LogReader{client: client, shard: shardNo, after: after, trimmed: l.shards[shardNo].keys.trimmed(), logger: l.cfg.Logger}
}

// Subscribe follows the stream until ctx ends; then the channel is closed. While
// Redis is away it waits and goes on. ErrTrimmed says that there would be a gap: the
// log was folded further than the reader knows, so what it keeps its position in has
// lost something (a Postgres restored from a backup).
func (r *LogReader) Subscribe(ctx context.Context, stream string) (<-chan *message.Message, error) {
	trimmed, err := storedPosition(ctx, r.client, r.trimmed)
	if err != nil {
		return nil, fmt.Errorf("read the log of shard %d: %w", r.shard, err)
	}
	if trimmed > r.after {
		return nil, fmt.Errorf("read the log of shard %d after %d: %w, up to %d", r.shard, r.after, ErrTrimmed, trimmed)
	}
	// No buffer: whoever reads ahead knows what it can hold.
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		last, count := entryID(r.after), readCountMin
		for ctx.Err() == nil {
			entries, err := r.read(ctx, stream, last, count)
			if err != nil {
				if ctx.Err() == nil {
					r.logger.Warn("read the log", "shard", r.shard, "error", err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(250 * time.Millisecond):
				}
				continue
			}
			count = nextCount(count, entries)
			for _, entry := range entries {
				select {
				case out <- r.message(ctx, entry):
				case <-ctx.Done():
					return
				}
				last = entry.ID
			}
		}
	}()
	return out, nil
}

// Close does nothing: a subscription ends with its context.
func (r *LogReader) Close() error { return nil }

// nextCount is how many entries to ask for after a read: what weighs readBytesWish
// if the next are like these, and at most twice as many as before.
func nextCount(count int, entries []goredis.XMessage) int {
	if len(entries) == 0 {
		return count
	}
	bytes := 1
	for _, entry := range entries {
		payload, _ := entry.Values[fieldPayload].(string)
		bytes += len(payload)
	}
	fit := readBytesWish * len(entries) / bytes
	return max(readCountMin, min(fit, 2*count, readCountMax))
}

func (r *LogReader) read(ctx context.Context, stream, last string, count int) ([]goredis.XMessage, error) {
	streams, err := r.client.XRead(ctx, &goredis.XReadArgs{
		Streams: []string{stream, last}, Count: int64(count), Block: readBlock,
	}).Result()
	if errors.Is(err, goredis.Nil) || len(streams) == 0 {
		if errors.Is(err, goredis.Nil) {
			err = nil
		}
		return nil, err
	}
	return streams[0].Messages, err
}

// message never fails: an entry that cannot be read becomes a message without a
// kind, which the fold refuses loudly. Skipping it would be a silent loss.
func (r *LogReader) message(ctx context.Context, entry goredis.XMessage) *message.Message {
	id, _ := entry.Values[fieldUUID].(string)
	payload, _ := entry.Values[fieldPayload].(string)
	packed, _ := entry.Values[fieldMetadata].(string)
	md := make(map[string]string, 8)
	if err := msgpack.Unmarshal([]byte(packed), &md); err != nil {
		r.logger.Error("log entry with unreadable metadata", "shard", r.shard, "entry", entry.ID, "error", err)
		md = map[string]string{}
	}
	md[events.MetaShard] = strconv.Itoa(r.shard)
	if p, err := parsePosition(entry.ID); err == nil {
		md[events.MetaPosition] = strconv.FormatInt(int64(p), 10)
	}
	m := message.NewMessage(id, []byte(payload))
	m.Metadata = md
	m.SetContext(ctx)
	return m
}
