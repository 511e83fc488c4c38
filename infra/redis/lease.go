package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vmihailenco/msgpack"

	"github.com/tallymq/tallymq/events"
)

// pollRecheck is when a long poll first looks for itself, then twice as long after, and so
// on up to pollRecheckMax: ten thousand that idle cost next to nothing. It is in case its wake-up was
// lost.
const (
	pollRecheck    = 5 * time.Second
	pollRecheckMax = time.Minute
)

// leaseStart rotates the partition from which leases start.
var leaseStart atomic.Uint32

// Lease leases messages to a consumer. Where there are none it waits for some, at
// most wait, and then answers with none; sooner where the queue or a subscription of
// the group changed meanwhile, as whoever asks may have to decide anew. ctx ends the
// wait early; messages that were leased before ctx ended are returned all the same.
func (l *Log) Lease(ctx context.Context, req events.LeaseRequest, wait time.Duration) ([]events.Leased, error) {
	deadline, recheck := time.Now().Add(wait), pollRecheck
	p := l.hub.enter(req.TopicID, req.Group)
	defer l.hub.leave(req.TopicID, req.Group, p)
	changes := l.hub.changes(p)
	for {
		seen := l.hub.seen(p)
		leased, more, err := l.leaseNow(ctx, req)
		if more && len(leased) == 0 && ctx.Err() == nil {
			continue // all it looked at is held behind other messages
		}
		if err != nil || len(leased) > 0 {
			if errors.Is(err, events.ErrStale) || more || isFull(req, leased) {
				l.hub.pass(p)
			}
			return leased, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, nil
		}
		l.hub.wait(ctx, p, seen, min(left, recheck))
		recheck = min(2*recheck, pollRecheckMax)
		if ctx.Err() != nil {
			// The consumer left: its turn, if it had one, is another's.
			l.hub.pass(p)
			return nil, nil
		}
		if l.hub.changes(p) != changes {
			return nil, nil
		}
	}
}

// isFull reports whether an answer ended at one of its limits, so that there may be
// more for another poll.
func isFull(req events.LeaseRequest, leased []events.Leased) bool {
	bytes := 0
	for _, m := range leased {
		bytes += len(m.Payload)
	}
	return len(leased) >= req.MessagesMax || bytes >= req.BytesMax
}

func (l *Log) leaseNow(ctx context.Context, req events.LeaseRequest) (leased []events.Leased, more bool, err error) {
	s := l.shards[req.Shard]
	// A script that began leasing cannot be called back, so a caller that hangs
	// up does not cancel it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	life := l.life.Load()
	v, err := l.run(ctx, life, leaseScript, s.keys.due(), []any{
		s.keys.prefix, req.TopicID, req.Group, req.Consumer, req.SubscriptionID, req.SubscriptionVersion,
		req.MessagesMax, req.For.Milliseconds(), req.BytesMax, leaseStart.Add(1), flag(req.Ordered), keptPerPartition,
	})
	if err != nil {
		if strings.Contains(err.Error(), "NOGROUP") {
			return nil, false, events.ErrStale
		}
		return nil, false, fmt.Errorf("lease: %w", err)
	}
	return l.readLeases(req, life, v)
}

// readLeased reads an entry of a partition's stream or of a retry stream. A fresh
// message's attempts are counted from attemptsBefore.
func readLeased(stream, entry string, fields []any, attemptsBefore int64) (events.Leased, error) {
	var r reply
	m := events.Leased{Attempt: int(attemptsBefore) + 1, AttemptsBefore: int(attemptsBefore)}
	var err error
	fail := func(what string, cause error) {
		if cause != nil && r.err == nil {
			r.err = fmt.Errorf("entry %s: %s: %w", entry, what, cause)
		}
	}
	m.EntryID = entry
	m.Stream, err = strconv.Atoi(stream)
	fail("stream", err)
	m.Partition = m.Stream
	_, seq, err := parseEntryID(entry)
	fail("id", err)
	m.Offset = seq - 1
	for i := 0; i+1 < len(fields); i += 2 {
		name, value := r.str(fields[i]), r.str(fields[i+1])
		err = nil
		switch name {
		case "_watermill_message_uuid":
			m.MessageID = value
		case "metadata":
			md := map[string]string{}
			if err = msgpack.Unmarshal([]byte(value), &md); err == nil {
				m.Meta, err = events.ParseDeliveryMeta(md)
			}
		case "payload":
			m.Payload = []byte(value)
		case "pos":
			m.Position, err = parsePosition(value)
		case "off":
			m.Offset, err = strconv.ParseInt(value, 10, 64)
		case "part":
			m.Partition, err = strconv.Atoi(value)
		case "att":
			m.Attempt, err = strconv.Atoi(value)
		case "unseen":
			m.Unseen, err = strconv.Atoi(value)
		case "base":
			m.AttemptsBefore, err = strconv.Atoi(value)
		}
		fail(name, err)
	}
	return m, r.err
}

// Extend moves the end of leases to d from now, by the log's clock. It returns
// that end in ms since 1970, and for each lease whether it was still held.
func (l *Log) Extend(ctx context.Context, shardNo int, topicID, group, subscriptionID string, leases []events.Lease, d time.Duration) (int64, []bool, error) {
	s := l.shards[shardNo]
	life := l.life.Load()
	args := make([]any, 0, 5+2*len(leases))
	args = append(args, s.keys.prefix, topicID, group, subscriptionID, d.Milliseconds())
	for _, lease := range leases {
		args = append(args, strconv.Itoa(lease.Stream), life.entryOf(lease))
	}
	v, err := l.run(ctx, life, extendScript, s.keys.due(), args)
	if err != nil {
		return 0, nil, fmt.Errorf("extend: %w", err)
	}
	var r reply
	answer := r.list(v)
	ends := r.int(r.at(answer, 0))
	held := make([]bool, len(leases))
	flags := r.list(r.at(answer, 1))
	for i := range held {
		held[i] = r.int(r.at(flags, i)) == 1
	}
	if r.err != nil {
		return 0, nil, fmt.Errorf("extend: %w", r.err)
	}
	s.nextDue.at(time.Now().Add(d))
	return ends, held, nil
}
