package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/cron"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
	"github.com/tallymq/tallymq/projections/restore"
)

// restoreBatch is how many events are read at once.
const restoreBatch = 2000

// putter puts one shard of Redis back from what Postgres has.
type putter struct {
	pool  *pgxpool.Pool
	redis *redis.Restorer
	shard int
	// upTo is how far history goes.
	upTo events.Position
	// progress is told of events folded and messages put back.
	progress func(events, messages int64)

	state    *restore.State
	horizon  time.Time
	messages int64
	// lost counts what history has no more of what groups had not settled.
	lost int64
}

// putBack folds a shard's history and puts what it amounts to into Redis.
func putBack(ctx context.Context, pool *pgxpool.Pool, restorer *redis.Restorer, shard int, upTo events.Position, progress func(events, messages int64)) (*putter, error) {
	p := &putter{pool: pool, redis: restorer, shard: shard, upTo: upTo, progress: progress}
	if err := p.redis.Begin(ctx); err != nil {
		return nil, err //nolint:wrapcheck // says what it does
	}
	horizon, err := postgres.Setting(ctx, pool, postgres.HorizonSetting)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it does
	}
	if horizon != "" {
		if p.horizon, err = time.Parse(time.RFC3339, horizon); err != nil {
			return nil, fmt.Errorf("setting %s: %w", postgres.HorizonSetting, err)
		}
	}
	if err := p.fold(ctx); err != nil {
		return nil, err
	}
	for _, t := range p.state.Topics {
		if err := p.topic(ctx, t); err != nil {
			return nil, fmt.Errorf("put back queue %s: %w", t.Config.TopicID, err)
		}
	}
	return p, nil
}

// fold folds the shard's history. Idempotency keys are put back on the way.
func (p *putter) fold(ctx context.Context) error {
	remembered := events.MakePosition(max(time.Now().Add(-idempotencyTTL).UnixMilli(), 0), 0)
	p.state = restore.New(remembered)
	after, folded := events.Position(0), int64(0)
	for after < p.upTo {
		records, err := projections.ReadHistory(ctx, p.pool, p.shard, after, restoreBatch)
		if err != nil {
			return err //nolint:wrapcheck // says what it does
		}
		if len(records) == 0 {
			return nil
		}
		for _, r := range records {
			if r.Position > p.upTo {
				return nil
			}
			if err := p.state.Fold(r); err != nil {
				return err //nolint:wrapcheck // says what it does
			}
			if r.Position >= remembered {
				if err := p.redis.Remember(ctx, r, idempotencyTTL); err != nil {
					return err //nolint:wrapcheck // says what it does
				}
			}
		}
		after = records[len(records)-1].Position
		folded += int64(len(records))
		p.progress(folded, 0)
	}
	return nil
}

// topic puts a topic back with all that it has.
func (p *putter) topic(ctx context.Context, t *restore.Topic) error {
	published, next, err := p.counts(ctx, t)
	if err != nil {
		return err
	}
	for partition, offset := range next {
		t.Reach(partition, offset)
	}
	if err := p.aggregates(ctx, t); err != nil {
		return err
	}
	partitions, err := p.partitions(ctx, t)
	if err != nil {
		return err
	}
	scheduled, from, err := p.scheduled(ctx, t)
	if err != nil {
		return err
	}
	floor := published - (t.Published - t.Base)
	settled, isFirst := floor, true
	for name, g := range t.Groups {
		n, err := p.group(ctx, t, name, g, published)
		if err != nil {
			return fmt.Errorf("group %s: %w", name, err)
		}
		if isFirst || n < floor {
			floor, isFirst = n, false
		}
	}
	if err := p.forwards(ctx, t); err != nil {
		return err
	}
	for id, at := range t.Erasures {
		if err := p.redis.Erased(ctx, id.String(), at, idempotencyTTL); err != nil {
			return err //nolint:wrapcheck // says what it does
		}
	}
	state, err := commands.TopicState(t.TenantID, t.Version, t.Config)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	return p.redis.Topic(ctx, redis.RestoredTopic{ //nolint:wrapcheck // says what it does
		ID: t.Config.TopicID, TenantID: t.TenantID, Name: t.Config.Name, Version: t.Version, State: state, Created: t.Created, Changed: t.Changed,
		Published: published, Settled: settled, Floor: floor, Scheduled: scheduled, ScheduledFrom: from, Partitions: partitions,
	})
}

// counts returns how many messages a topic was ever given, and what each of its partitions
// gives next: history may have dropped what was published.
func (p *putter) counts(ctx context.Context, t *restore.Topic) (published int64, next []int64, err error) {
	next = make([]int64, len(t.Partitions))
	rows, err := p.pool.Query(ctx, `
SELECT -1, published FROM topic_counts WHERE topic_id = $1::text::uuid
UNION ALL SELECT partition_id, next_offset FROM topic_offsets WHERE topic_id = $1::text::uuid`, t.Config.TopicID)
	if err != nil {
		return 0, nil, fmt.Errorf("counts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var partition int
		var n int64
		if err := rows.Scan(&partition, &n); err != nil {
			return 0, nil, fmt.Errorf("counts: %w", err)
		}
		switch {
		case partition < 0:
			published = n
		case partition < len(next):
			next[partition] = n
		}
	}
	if err := rows.Err(); err != nil {
		return 0, nil, fmt.Errorf("counts: %w", err)
	}
	return published, next, nil
}

// aggregates puts a topic's subscriptions and schedules back.
func (p *putter) aggregates(ctx context.Context, t *restore.Topic) error {
	for id, s := range t.Subscriptions {
		owner := commands.Owner{Subject: s.CreatedBy, Platform: s.ByPlatform}
		state, err := commands.SubscriptionState(s.TenantID, s.Version, s.Config, t.Config.Name, t.TenantID, owner)
		if err == nil {
			err = p.redis.Subscription(ctx, redis.RestoredAggregate{
				ID: id, TopicID: t.Config.TopicID, Version: s.Version, State: state, Created: s.Created, Changed: s.Changed,
			}, s.Group, s.Config.ConsumerName, commands.IsPushed(s.Config))
		}
		if err != nil {
			return fmt.Errorf("subscription %s: %w", id, err)
		}
	}
	for id, s := range t.Schedules {
		owner := commands.Owner{Subject: s.CreatedBy, Platform: s.ByPlatform}
		state, err := commands.ScheduleState(s.TenantID, s.Version, s.Config, t.Config.Name, owner)
		var next int64
		if err == nil && s.Config.Status == commands.StatusActive {
			// A tick that is in history is not ticked again; one that is due comes late.
			after := max(s.Ticked, s.Changed).Time()
			if after.Before(p.horizon) {
				after = p.horizon
			}
			var at time.Time
			if at, err = cron.Next(s.Config.Cron, s.Config.TimeZone, after); err == nil {
				next = at.UnixMilli()
			}
		}
		if err == nil {
			err = p.redis.Schedule(ctx, redis.RestoredAggregate{
				ID: id, TopicID: t.Config.TopicID, Version: s.Version, State: state, Created: s.Created, Changed: s.Changed,
			}, next)
		}
		if err != nil {
			return fmt.Errorf("schedule %s: %w", id, err)
		}
	}
	return nil
}

// partitions puts back what stands in a topic's partitions.
func (p *putter) partitions(ctx context.Context, t *restore.Topic) ([]redis.RestoredPartition, error) {
	out := make([]redis.RestoredPartition, len(t.Partitions))
	for i, part := range t.Partitions {
		low := t.Low(i)
		one := redis.RestoredPartition{Next: part.Next}
		if low > part.First {
			one.TrimmedMs = part.Entries[low-1-part.First].Position.Ms()
		}
		if err := p.redis.Holes(ctx, t.Config.TopicID, i, part.Erased(low)); err != nil {
			return nil, err //nolint:wrapcheck // says what it does
		}
		entries := part.Entries[low-part.First:]
		sources := make([]events.Position, len(entries))
		for n, e := range entries {
			sources[n] = e.Source()
			if e.Accepted == 0 {
				continue
			}
			if one.ReleasedFrom == 0 || e.Accepted < one.ReleasedFrom {
				one.ReleasedFrom = e.Accepted
			}
			one.ReleasedOffset = low + int64(n)
		}
		err := restore.Load(ctx, p.pool, p.shard, sources, func(n int, m restore.Message) error {
			if entries[n].Erased || m.ErasedSHA256 != "" {
				return nil // it is not to be delivered any more
			}
			p.put()
			return p.redis.Entry(ctx, t.Config.TopicID, i, low+int64(n), restored(entries[n], m, false))
		})
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", i, err)
		}
		out[i] = one
	}
	return out, nil
}

func (p *putter) put() {
	p.messages++
	p.progress(0, p.messages)
}

func restored(e restore.Entry, m restore.Message, isRedriven bool) redis.RestoredMessage {
	position := e.Position
	if position == 0 {
		position = m.Position
	}
	return redis.RestoredMessage{ID: m.MessageID, Meta: m.Meta(isRedriven), Payload: m.Payload, Position: position, Accepted: e.Accepted}
}

// scheduled puts back what waits to be released.
func (p *putter) scheduled(ctx context.Context, t *restore.Topic) (n int, from events.Position, err error) {
	var sources []events.Position
	for _, s := range t.Scheduled {
		sources = append(sources, s.Position)
		if from == 0 || s.Position < from {
			from = s.Position
		}
	}
	err = restore.Load(ctx, p.pool, p.shard, sources, func(_ int, m restore.Message) error {
		n++
		p.put()
		return p.redis.Scheduled(ctx, t.Config.TopicID, m.Partition, m.ReleaseAtMs, restored(restore.Entry{}, m, false))
	})
	if err != nil {
		return 0, 0, fmt.Errorf("scheduled messages: %w", err)
	}
	return n, from, nil
}

// group puts a consumer group back, and returns how many of the topic's messages it is done
// with.
func (p *putter) group(ctx context.Context, t *restore.Topic, name string, g *restore.Group, published int64) (settled int64, err error) {
	items := g.Items(t)
	if err := p.findSources(ctx, items); err != nil {
		return 0, err
	}
	ordered := false
	for _, s := range t.Subscriptions {
		ordered = ordered || (s.Group == name && commands.IsOrdered(s.Config))
	}
	reserved, err := p.reserved(ctx, t, name)
	if err != nil {
		return 0, err
	}
	r := redis.RestoredGroup{TopicID: t.Config.TopicID, Group: name, Base: g.Base, Highest: max(g.Highest, reserved), Ordered: ordered}
	for i := range t.Partitions {
		r.Places = append(r.Places, g.Fresh(t, i))
	}
	sources := make([]events.Position, len(items))
	for i, item := range items {
		sources[i] = item.Source()
		if at := item.Source(); at != 0 && (r.Oldest == 0 || at < r.Oldest) {
			r.Oldest = at
		}
	}
	unsettled := g.Unsettled(t)
	r.Settled = published - unsettled
	if err := p.redis.Group(ctx, r); err != nil {
		return 0, err //nolint:wrapcheck // says what it does
	}
	there := 0
	err = restore.Load(ctx, p.pool, p.shard, sources, func(n int, m restore.Message) error {
		there++
		p.put()
		return p.redis.Item(ctx, restoredItem(t, name, items[n], ordered), restored(items[n].Entry, m, items[n].Redriven))
	})
	if err != nil {
		return 0, err //nolint:wrapcheck // says what it does
	}
	// Of those history has no more nobody can be given anything.
	if missing := int64(len(items) - there); missing > 0 {
		p.lost += missing
		r.Settled += missing
		if err := p.redis.Missing(ctx, r.TopicID, name, missing); err != nil {
			return 0, err //nolint:wrapcheck // says what it does
		}
	}
	return r.Settled, nil
}

// reserved is the highest number of an attempt that a job has reserved which may not have used
// it yet.
func (p *putter) reserved(ctx context.Context, t *restore.Topic, group string) (attempt int, err error) {
	var members []string
	for id, s := range t.Subscriptions {
		if s.Group == group {
			members = append(members, id)
		}
	}
	err = p.pool.QueryRow(ctx, `SELECT coalesce(max((state->>'attempt')::int), 0) FROM delivery_jobs
		WHERE status IN ('waiting', 'running') AND spec->>'subscriptionId' = ANY ($1::text[])`, members).Scan(&attempt)
	if err != nil {
		return 0, fmt.Errorf("attempts reserved by jobs: %w", err)
	}
	return attempt, nil
}

func restoredItem(t *restore.Topic, group string, i restore.Item, ordered bool) redis.RestoredItem {
	return redis.RestoredItem{
		TopicID: t.Config.TopicID, Group: group, Partition: i.Partition, Offset: i.Offset, Attempt: i.Attempt, Base: i.Base,
		Unseen: i.Unseen, DueAtMs: i.DueAtMs, DelayMs: i.DelayMs, Ordered: ordered,
	}
}

// findSources finds where messages stand in history that are not in a partition any more.
func (p *putter) findSources(ctx context.Context, items []restore.Item) error {
	missing := map[string][]int{}
	var ids []string
	for i, item := range items {
		if item.Position == 0 {
			id := item.ID.String()
			if missing[id] == nil {
				ids = append(ids, id)
			}
			missing[id] = append(missing[id], i)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := p.pool.Query(ctx, `SELECT message_id, position FROM message_records WHERE message_id = ANY ($1::text[])`, ids)
	if err != nil {
		return fmt.Errorf("look for messages: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var position int64
		if err := rows.Scan(&id, &position); err != nil {
			return fmt.Errorf("look for messages: %w", err)
		}
		for _, i := range missing[id] {
			items[i].Position = events.Position(position)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("look for messages: %w", err)
	}
	return nil
}

// forwards puts back dead letters that may still have to be published to another queue.
func (p *putter) forwards(ctx context.Context, t *restore.Topic) error {
	for letters := range slices.Chunk(t.Forwards, restore.LoadMessagesMax) {
		if err := p.forward(ctx, t, letters); err != nil {
			return err
		}
	}
	return nil
}

func (p *putter) forward(ctx context.Context, t *restore.Topic, forwards []restore.Forward) error {
	items, sources := make([]restore.Item, len(forwards)), make([]events.Position, len(forwards))
	letters := make([]int64, len(forwards))
	for i, f := range forwards {
		items[i], letters[i] = f.Item, int64(f.Position)
	}
	if err := p.findSources(ctx, items); err != nil {
		return err
	}
	for i, item := range items {
		sources[i] = item.Source()
	}
	data := map[int64][]byte{}
	rows, err := p.pool.Query(ctx, `SELECT position, data::text FROM event_history WHERE shard = $1 AND scope = 'message' AND position = ANY ($2)
		AND position BETWEEN $3 AND $4`, p.shard, letters, letters[0], letters[len(letters)-1])
	if err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var position int64
		var event []byte
		if err := rows.Scan(&position, &event); err != nil {
			return fmt.Errorf("dead letters: %w", err)
		}
		data[position] = event
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	err = restore.Load(ctx, p.pool, p.shard, sources, func(n int, m restore.Message) error {
		item := restoredItem(t, "", items[n], false)
		return p.redis.Forward(ctx, forwards[n].EventID, data[letters[n]], item, restored(items[n].Entry, m, false))
	})
	if err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	return nil
}
