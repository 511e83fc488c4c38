package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
	"github.com/tallymq/tallymq/projections/restore"
)

// Limits of holding what Redis holds against history.
const (
	// deliveryTopicsMax is how many queues of a shard are looked at.
	deliveryTopicsMax = 10_000
	// deliveryFaultsShown is how many faults are shown of a queue.
	deliveryFaultsShown = 20
	// deliveryWait is how long history may take to have what the log has.
	deliveryWait = 30 * time.Second
)

// deliveryReport is what holding Redis against history found.
type deliveryReport struct {
	queues, messages int
	// faults are in words; skipped says what could not be compared.
	faults, skipped []string
}

// heldTopic is what Redis holds of a topic.
type heldTopic struct {
	id      string
	holding redis.Holding
	// lost are offsets of which the partitions' streams have no entry.
	lost map[int][]int64
}

// verifyDelivery compares, message by message, what every consumer group has not settled as
// Redis holds it with what history amounts to at the same position of the log.
func verifyDelivery(ctx context.Context, pool *pgxpool.Pool, log *redis.Log, shards int, progress func(events int64)) (deliveryReport, error) {
	var report deliveryReport
	for shard := range shards {
		if err := report.shard(ctx, pool, log, shard, progress); err != nil {
			return report, fmt.Errorf("delivery of shard %d: %w", shard, err)
		}
	}
	return report, nil
}

func (r *deliveryReport) shard(ctx context.Context, pool *pgxpool.Pool, log *redis.Log, shard int, progress func(events int64)) error {
	topics, err := holdings(ctx, pool, log, shard)
	if err != nil {
		return err
	}
	if len(topics) == 0 {
		return nil
	}
	slices.SortFunc(topics, func(a, b heldTopic) int { return int(min(max(a.holding.Last-b.holding.Last, -1), 1)) })
	if err := waitHistory(ctx, pool, shard, topics[len(topics)-1].holding.Last, deliveryWait); err != nil {
		return err
	}
	// Dead letters on their way are not looked at.
	state, after, folded := restore.New(math.MaxInt64), events.Position(0), int64(0)
	for len(topics) > 0 {
		records, err := projections.ReadHistory(ctx, pool, shard, after, restoreBatch)
		if err != nil {
			return err //nolint:wrapcheck // says what it does
		}
		for _, record := range records {
			for len(topics) > 0 && topics[0].holding.Last < record.Position {
				r.topic(state, topics[0])
				topics = topics[1:]
			}
			if err := state.Fold(record); err != nil {
				return err //nolint:wrapcheck // says what it does
			}
			after = record.Position
		}
		if folded += int64(len(records)); progress != nil {
			progress(folded)
		}
		if len(records) == 0 {
			for _, t := range topics {
				r.topic(state, t)
			}
			return nil
		}
	}
	return nil
}

// holdings looks at what Redis holds of every queue of a shard.
func holdings(ctx context.Context, pool *pgxpool.Pool, log *redis.Log, shard int) ([]heldTopic, error) {
	rows, err := pool.Query(ctx, `SELECT id::text, partition_count FROM message_topics WHERE shard = $1 AND status <> 'archived' ORDER BY id LIMIT $2`, shard, deliveryTopicsMax)
	if err != nil {
		return nil, fmt.Errorf("queues: %w", err)
	}
	defer rows.Close()
	partitions := map[string]int{}
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return nil, fmt.Errorf("queues: %w", err)
		}
		partitions[id] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("queues: %w", err)
	}
	topics := make([]heldTopic, 0, len(partitions))
	for id, n := range partitions {
		holding, err := log.Held(ctx, shard, id, n)
		if err != nil {
			return nil, fmt.Errorf("queue %s: %w", id, err)
		}
		t := heldTopic{id: id, holding: holding, lost: map[int][]int64{}}
		for i, p := range holding.Partitions {
			if p.Held == p.Next-p.First-p.Erased {
				continue
			}
			if t.lost[i], err = log.Lost(ctx, shard, id, i, p.Next, deliveryFaultsShown+int(p.Erased)); err != nil {
				return nil, fmt.Errorf("queue %s: %w", id, err)
			}
		}
		topics = append(topics, t)
	}
	return topics, nil
}

// waitHistory returns once history has a position of the log.
func waitHistory(ctx context.Context, pool *pgxpool.Pool, shard int, position events.Position, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		var at int64
		err := pool.QueryRow(ctx, `SELECT coalesce(max(position), 0) FROM projection_checkpoints WHERE projection = $1 AND shard = $2`, projections.Name, shard).Scan(&at)
		if err != nil {
			return fmt.Errorf("where history ends: %w", err)
		}
		if at >= int64(position) {
			return nil
		}
		if err := pauseAccount(ctx); err != nil {
			return fmt.Errorf("%w: the log ends at %d, and history at %d", errNotYet, position, at)
		}
	}
}

// topic compares a topic at the position at which it was looked at.
func (r *deliveryReport) topic(state *restore.State, held heldTopic) {
	t := state.Topics[held.id]
	if t == nil {
		return // it was deleted meanwhile
	}
	if len(t.Partitions) != len(held.holding.Partitions) {
		r.skipped = append(r.skipped, fmt.Sprintf("queue %s of tenant %s changed its partitions meanwhile", t.Config.Name, t.TenantID))
		return
	}
	r.queues++
	faults := 0
	fault := func(format string, args ...any) {
		if faults++; faults <= deliveryFaultsShown {
			r.faults = append(r.faults, fmt.Sprintf("queue %s of tenant %s: ", t.Config.Name, t.TenantID)+fmt.Sprintf(format, args...))
		}
	}
	for i, p := range held.holding.Partitions {
		if known := t.Partitions[i].Next; p.Next != known && known > 0 {
			fault("partition %d: the next offset is %d in Redis, and %d by history", i, p.Next, known)
		}
		for _, offset := range held.lost[i] {
			if part := t.Partitions[i]; offset >= part.First && offset < part.Next {
				if part.Entries[offset-part.First].Erased {
					continue
				}
				fault("partition %d: the stream has lost the entry of offset %d, message %s", i, offset, part.Entries[offset-part.First].ID)
			} else {
				fault("partition %d: the stream has lost the entry of offset %d", i, offset)
			}
		}
	}
	there := map[string]bool{}
	for _, g := range held.holding.Groups {
		there[g.Group] = true
		if known := t.Groups[g.Group]; known == nil {
			fault("group %s is in Redis and not in history", g.Group)
		} else {
			r.group(t, known, g, held.holding.Partitions, fault)
		}
	}
	for name := range t.Groups {
		if !there[name] {
			fault("group %s is in history and not in Redis", name)
		}
	}
	r.scheduled(t, held.holding.Scheduled, fault)
	if faults > deliveryFaultsShown {
		r.faults = append(r.faults, fmt.Sprintf("queue %s of tenant %s: and %d more", t.Config.Name, t.TenantID, faults-deliveryFaultsShown))
	}
}

// group compares what a group has not settled.
func (r *deliveryReport) group(t *restore.Topic, known *restore.Group, g redis.HeldGroup, partitions []redis.HeldPartition, fault func(string, ...any)) {
	if !g.IsWhole {
		r.skipped = append(r.skipped, fmt.Sprintf("group %s of queue %s of tenant %s has too much to be tried again to be compared", g.Group, t.Config.Name, t.TenantID))
		return
	}
	want := map[redis.HeldItem]bool{}
	for _, item := range known.All(t) {
		want[redis.HeldItem{MessageID: item.ID.String(), Attempt: item.Attempt, Base: item.Base}] = true
	}
	r.messages += len(want)
	have := map[redis.HeldItem]int{}
	for _, item := range g.Items {
		have[item]++
	}
	for i, place := range g.Places {
		part := t.Partitions[i]
		holds := func(offset int64) {
			if offset < part.First {
				return // history has it no more
			}
			if offset < part.Next && !part.Entries[offset-part.First].Erased {
				have[redis.HeldItem{MessageID: part.Entries[offset-part.First].ID.String(), Attempt: known.Base + 1, Base: known.Base}]++
			}
		}
		for _, offset := range place.Pending {
			holds(offset)
		}
		for offset := max(place.Fresh, partitions[i].First); place.Fresh >= 0 && offset < partitions[i].Next; offset++ {
			holds(offset)
		}
	}
	for item := range want {
		if have[item] == 0 {
			fault("group %s: message %s is not settled by history (attempt %d is next), and Redis does not hold it", g.Group, item.MessageID, item.Attempt)
		}
	}
	for item, n := range have {
		if !want[item] {
			fault("group %s: Redis holds message %s (attempt %d is next), which is settled by history", g.Group, item.MessageID, item.Attempt)
		}
		if n > 1 {
			fault("group %s: Redis holds message %s (attempt %d is next) %d times", g.Group, item.MessageID, item.Attempt, n)
		}
	}
}

func (r *deliveryReport) scheduled(t *restore.Topic, held []string, fault func(string, ...any)) {
	there := map[string]bool{}
	for _, id := range held {
		there[id] = true
	}
	r.messages += len(held)
	for id := range t.Scheduled {
		if !there[id.String()] {
			fault("message %s waits to be released by history, and Redis does not hold it", id)
		}
		delete(there, id.String())
	}
	for id := range there {
		fault("Redis holds message %s to be released, which does not wait by history", id)
	}
}

// printDelivery says what was found, and returns whether Redis agrees with history.
func printDelivery(w io.Writer, r deliveryReport) bool {
	for _, text := range r.faults {
		_, _ = fmt.Fprintf(w, "    %s\n", text)
	}
	for _, text := range r.skipped {
		_, _ = fmt.Fprintf(w, "    not compared: %s\n", text)
	}
	verdict := "as history says"
	if len(r.faults) > 0 {
		verdict = fmt.Sprintf("DIFFERENT: %d", len(r.faults))
	}
	_, _ = fmt.Fprintf(w, "%-22s %9d messages that are not settled, in %d queues: %s\n", "delivery (Redis)", r.messages, r.queues, verdict)
	return len(r.faults) == 0
}
