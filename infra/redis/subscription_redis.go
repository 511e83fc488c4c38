package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

//go:embed scripts/take.lua
var takeSource string

//go:embed scripts/hold.lua
var holdSource string

var (
	takeScript = goredis.NewScript(takeSource)
	holdScript = goredis.NewScript(holdSource)
)

// command returns a context for one command. It does not end with the subscription:
// an answer that was not waited for would leave entries pending that nobody has.
func (s *subscription) command(extra time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.work), commandTimeout+extra)
}

// isNoGroup recognizes that the group or the stream is missing, also where a script
// says so, or where the stream was deleted under a read that waited.
func isNoGroup(err error) bool {
	return strings.Contains(err.Error(), "NOGROUP") || strings.Contains(err.Error(), "UNBLOCKED")
}

func (s *subscription) createGroup() (created bool, err error) {
	ctx, cancel := s.command(0)
	defer cancel()
	return createGroup(ctx, s.cfg.Client, s.stream, s.cfg.Group, s.cfg.Start)
}

func (s *subscription) ack(entries []*groupEntry) error {
	ctx, cancel := s.command(0)
	defer cancel()
	if err := s.cfg.Client.XAck(ctx, s.stream, s.cfg.Group, ids(entries)...).Err(); err != nil {
		return fmt.Errorf("xack: %w", err)
	}
	return nil
}

// read reads what is new, and waits for it up to block.
func (s *subscription) read(count int, block time.Duration) ([]*groupEntry, error) {
	ctx, cancel := s.command(block)
	defer cancel()
	// The pipeline is not executed, it only makes the command: one whose read
	// timeout allows for block, as the package's own functions make it.
	cmd := onceRead{s.cfg.Client.Pipeline().XReadGroup(ctx, &goredis.XReadGroupArgs{
		Group: s.cfg.Group, Consumer: s.consumer, Streams: []string{s.stream, ">"},
		Count: int64(count), Block: max(block, time.Millisecond),
	})}
	err := s.cfg.Client.Process(ctx, cmd)
	if errors.Is(err, goredis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("xreadgroup: %w", err)
	}
	streams := cmd.Val()
	var entries []*groupEntry
	for _, one := range streams {
		for _, m := range one.Messages {
			entries = append(entries, &groupEntry{id: m.ID, values: m.Values, count: 1})
		}
	}
	return entries, nil
}

// pending lists this consumer's pending entries from a place on.
func (s *subscription) pending(from string, count int) ([]string, error) {
	ctx, cancel := s.command(0)
	defer cancel()
	list, err := s.cfg.Client.XPendingExt(ctx, &goredis.XPendingExtArgs{
		Stream: s.stream, Group: s.cfg.Group, Consumer: s.consumer, Start: from, End: "+", Count: int64(count),
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("xpending: %w", err)
	}
	pending := make([]string, len(list))
	for i, p := range list {
		pending[i] = p.ID
	}
	return pending, nil
}

// claim makes entries that showed no sign of life for ClaimIdle this consumer's, and
// returns their ids and where to go on, "0-0" at the end.
func (s *subscription) claim(from string, count int) (claimed []string, next string, err error) {
	ctx, cancel := s.command(0)
	defer cancel()
	cmd := onceDo{goredis.NewCmd(ctx, "XAUTOCLAIM", s.stream, s.cfg.Group, s.consumer,
		s.cfg.ClaimIdle.Milliseconds(), from, "COUNT", count, "JUSTID")}
	if err := s.cfg.Client.Process(ctx, cmd); err != nil {
		return nil, "", fmt.Errorf("xautoclaim: %w", err)
	}
	var r reply
	answer := r.list(cmd.Val())
	next = r.str(r.at(answer, 0))
	for _, id := range r.list(r.at(answer, 1)) {
		claimed = append(claimed, r.str(id))
	}
	var deleted []string
	for _, id := range r.list(r.at(answer, 2)) {
		deleted = append(deleted, r.str(id))
	}
	if r.err != nil {
		return nil, "", fmt.Errorf("xautoclaim: %w", r.err)
	}
	s.reportDeleted(deleted)
	return claimed, next, nil
}

// take reads pending entries of this consumer for one more delivery. It leaves out,
// and logs, what was deleted from the stream and what is another consumer's by now.
func (s *subscription) take(ids []string) ([]*groupEntry, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ctx, cancel := s.command(0)
	defer cancel()
	args := []any{s.cfg.Group, s.consumer}
	for _, id := range ids {
		args = append(args, id)
	}
	v, err := takeScript.Run(ctx, s.cfg.Client, []string{s.stream}, args...).Result()
	if err != nil {
		return nil, fmt.Errorf("take script: %w", err)
	}
	var r reply
	answer := r.list(v)
	var entries []*groupEntry
	var deleted, lost []string
	for i, id := range ids {
		one := r.list(r.at(answer, i))
		switch count := r.int(r.at(one, 0)); {
		case count > 0:
			entries = append(entries, &groupEntry{id: id, values: r.fields(r.at(one, 1)), count: count})
		case count < 0:
			deleted = append(deleted, id)
		default:
			lost = append(lost, id)
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("take script: %w", r.err)
	}
	s.reportDeleted(deleted)
	s.reportLost(lost)
	return entries, nil
}

// fields reads an entry's names and values.
func (r *reply) fields(v any) map[string]any {
	list := r.list(v)
	fields := make(map[string]any, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		fields[r.str(list[i])] = list[i+1]
	}
	return fields
}

func (s *subscription) reportDeleted(ids []string) {
	if len(ids) > 0 {
		s.logger.Error("entries were deleted from the stream before their messages were settled", "entries", ids)
	}
}

func (s *subscription) reportLost(ids []string) {
	if len(ids) > 0 {
		s.logger.Warn("entries are no longer this consumer's: others may be given their messages too", "entries", ids)
	}
}

// holdAll resets the idle time of everything this consumer has.
func (s *subscription) holdAll() error {
	inFlight, aside := s.window.all()
	for batch := range slices.Chunk(inFlight, batchMax) {
		held, err := s.setIdle(ids(batch), nil)
		if err != nil {
			return err
		}
		var lost []string
		for i, e := range batch {
			if !held[i] && !e.acked.Load() && e.lost.CompareAndSwap(false, true) {
				lost = append(lost, e.id)
			}
		}
		s.reportLost(lost)
	}
	for batch := range slices.Chunk(aside, batchMax) {
		held, err := s.setIdle(batch, nil)
		if err != nil {
			return err
		}
		for i, id := range batch {
			if !held[i] {
				s.window.dropAside(id)
			}
		}
	}
	return nil
}

// release gives entries back, for other consumers to have: at once those that were
// not handed out, and without counting that delivery; those that were nacked when
// their delay is over.
func (s *subscription) release(entries []*groupEntry, nacked bool) {
	for batch := range slices.Chunk(entries, batchMax) {
		_, err := s.setIdle(ids(batch), func(i int) (time.Duration, any) {
			if nacked {
				return s.cfg.ClaimIdle - nackDelay(s.cfg.NackDelay, s.cfg.NackDelayMax, batch[i].count), ""
			}
			return s.cfg.ClaimIdle, batch[i].count - 1
		})
		if err != nil {
			s.logger.Warn("entries could not be given back: they can be had after ClaimIdle", "error", err)
		}
	}
	s.window.remove(entries...)
}

// setIdle sets idle times, and delivery counts where it is told them, and says which
// of the entries are still this consumer's.
func (s *subscription) setIdle(ids []string, to func(i int) (idle time.Duration, count any)) ([]bool, error) {
	ctx, cancel := s.command(0)
	defer cancel()
	args := []any{s.cfg.Group, s.consumer}
	for i, id := range ids {
		idle, count := time.Duration(0), any("")
		if to != nil {
			idle, count = to(i)
		}
		args = append(args, id, max(idle, 0).Milliseconds(), count)
	}
	v, err := holdScript.Run(ctx, s.cfg.Client, []string{s.stream}, args...).Result()
	if err != nil {
		return nil, fmt.Errorf("hold script: %w", err)
	}
	var r reply
	answer := r.list(v)
	held := make([]bool, len(ids))
	for i := range held {
		held[i] = r.int(r.at(answer, i)) == 1
	}
	if r.err != nil {
		return nil, fmt.Errorf("hold script: %w", r.err)
	}
	return held, nil
}
