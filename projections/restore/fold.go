package restore

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/tallymq/tallymq/events"
)

// Statuses of subscriptions and schedules that events of their own set.
const (
	statusActive  = "active"
	statusPaused  = "paused"
	statusStopped = "stopped"
)

// Fold applies a record. Records come in the order of their shard's log.
func (s *State) Fold(r events.Record) error {
	s.Position = r.Position
	if err := s.apply(r); err != nil {
		return fmt.Errorf("fold event %s at %d/%d: %w", r.ID, r.Shard, r.Position, err)
	}
	return nil
}

func (s *State) apply(r events.Record) error {
	switch e := r.Event.(type) {
	case events.TopicCreated:
		s.createTopic(r, e.TopicConfig)
	case events.TopicUpdated:
		if t := s.Topics[e.TopicID]; t != nil {
			t.Config, t.Version, t.Changed = e.TopicConfig, r.Version, r.Position
			t.widen(e.PartitionCount)
		}
	case events.TopicPurged:
		if t := s.Topics[e.TopicID]; t != nil {
			t.purge()
		}
	case events.TopicRetained:
		if t := s.Topics[e.TopicID]; t != nil {
			t.retain(e)
		}
	case events.TopicDeleted:
		s.deleteTopic(e.TopicID)
	case events.SubscriptionCreated:
		s.subscribe(r, e)
	case events.SubscriptionUpdated:
		s.changeSubscription(r, e.SubscriptionID, func(sub *Subscription) { sub.Config = e.SubscriptionConfig })
	case events.SubscriptionPaused:
		s.changeSubscription(r, e.SubscriptionID, func(sub *Subscription) { sub.Config.Status = statusPaused })
	case events.SubscriptionResumed:
		s.changeSubscription(r, e.SubscriptionID, func(sub *Subscription) { sub.Config.Status = statusActive })
	case events.SubscriptionStopped:
		s.changeSubscription(r, e.SubscriptionID, func(sub *Subscription) { sub.Config.Status = statusStopped })
	case events.SubscriptionSought:
		s.seek(e)
	case events.SubscriptionDeleted:
		s.unsubscribe(e)
	case events.ScheduleCreated, events.SchedulePaused, events.ScheduleResumed, events.ScheduleDeleted:
		s.applySchedule(r)
	case events.MessagePublished, events.MessageScheduled, events.MessageReleased, events.MessageCancelled, events.MessageConsumed,
		events.MessageFailed, events.MessageDeadLettered, events.MessageFiltered, events.MessageExpired, events.MessageRedriven,
		events.MessageErased:
		return s.applyMessage(r)
	}
	return nil
}

func (s *State) applySchedule(r events.Record) {
	t := s.Topics[events.RefsOf(r.Event).TopicID]
	if t == nil {
		return
	}
	change := func(id, status string) {
		if sch := t.Schedules[id]; sch != nil {
			sch.Config.Status, sch.Version, sch.Changed = status, r.Version, r.Position
		}
	}
	switch e := r.Event.(type) { //nolint:gochecksumtype // the other ones have no schedule
	case events.ScheduleCreated:
		t.Schedules[e.ScheduleID] = &Schedule{
			Config: e.ScheduleConfig, TenantID: r.TenantID, Version: r.Version, Created: r.Position, Changed: r.Position,
			CreatedBy: r.Meta.Actor, ByPlatform: r.Meta.Platform,
		}
	case events.SchedulePaused:
		change(e.ScheduleID, statusPaused)
	case events.ScheduleResumed:
		change(e.ScheduleID, statusActive)
	case events.ScheduleDeleted:
		delete(t.Schedules, e.ScheduleID)
	}
}

func (s *State) applyMessage(r events.Record) error {
	refs := events.RefsOf(r.Event)
	t := s.Topics[refs.TopicID]
	if t == nil {
		return nil // it was deleted: nothing of it is delivered any more
	}
	id, err := uuid.Parse(refs.MessageID)
	if err != nil {
		return fmt.Errorf("message id: %w", err)
	}
	switch e := r.Event.(type) { //nolint:gochecksumtype // the other ones are of no message
	case events.MessagePublished:
		t.publish(e.Partition, e.Offset, Entry{ID: id, Position: r.Position})
		if sch := t.Schedules[e.ScheduleID]; sch != nil {
			sch.Ticked = r.Position
		}
	case events.MessageScheduled:
		t.Scheduled[id] = Scheduled{Position: r.Position, ReleaseAtMs: e.ReleaseAtMs}
	case events.MessageReleased:
		t.publish(e.Partition, e.Offset, Entry{ID: id, Position: r.Position, Accepted: t.Scheduled[id].Position})
		delete(t.Scheduled, id)
	case events.MessageCancelled:
		delete(t.Scheduled, id)
	case events.MessageConsumed:
		t.settle(id, e.Delivery)
	case events.MessageFiltered:
		t.settle(id, e.Delivery)
	case events.MessageExpired:
		t.settle(id, e.Delivery)
	case events.MessageDeadLettered:
		item := t.settle(id, e.Delivery)
		if sub := t.Subscriptions[e.SubscriptionID]; sub != nil && sub.Config.DeadLetterQueue != "" && r.Position >= s.forwardsFrom {
			item.Attempt = e.Attempt
			t.Forwards = append(t.Forwards, Forward{EventID: r.ID, Position: r.Position, Item: item})
		}
	case events.MessageFailed:
		t.fail(r, id, e)
	case events.MessageRedriven:
		t.redrive(r, id, e)
	case events.MessageErased:
		t.erase(r, id, s.forwardsFrom)
	}
	return nil
}

func (s *State) createTopic(r events.Record, config events.TopicConfig) {
	t := &Topic{
		Config: config, TenantID: r.TenantID, Version: r.Version, Created: r.Position, Changed: r.Position,
		Groups: map[string]*Group{}, Subscriptions: map[string]*Subscription{}, Schedules: map[string]*Schedule{}, Scheduled: map[uuid.UUID]Scheduled{}, Erasures: map[uuid.UUID]events.Position{},
	}
	t.widen(config.PartitionCount)
	s.Topics[config.TopicID] = t
}

func (s *State) deleteTopic(id string) {
	t := s.Topics[id]
	if t == nil {
		return
	}
	for sub := range t.Subscriptions {
		delete(s.topicOf, sub)
	}
	delete(s.Topics, id)
}

// widen adds partitions. Groups have new ones from their beginning.
func (t *Topic) widen(partitions int) {
	for len(t.Partitions) < partitions {
		t.Partitions = append(t.Partitions, &Partition{})
		for _, g := range t.Groups {
			g.places = append(g.places, newPlace(0))
		}
	}
}

func (t *Topic) purge() {
	t.Base = t.Published
	t.Scheduled = map[uuid.UUID]Scheduled{}
	for i, p := range t.Partitions {
		p.First, p.Entries, p.erased = p.Next, nil, nil
		for _, g := range t.Groups {
			g.places[i] = newPlace(p.Next)
		}
	}
	for _, g := range t.Groups {
		g.items = map[itemKey]Item{}
	}
}

// erase takes a message from whoever has not settled it.
func (t *Topic) erase(r events.Record, id uuid.UUID, since events.Position) {
	delete(t.Scheduled, id)
	for _, g := range t.Groups {
		for key := range g.items {
			if key.id == id {
				delete(g.items, key)
			}
		}
	}
	t.Forwards = slices.DeleteFunc(t.Forwards, func(f Forward) bool { return f.Item.ID == id })
	if r.Position >= since {
		t.Erasures[id] = r.Position
	}
	// Erasures are few: each may look through what is held.
	for _, p := range t.Partitions {
		i := slices.IndexFunc(p.Entries, func(e Entry) bool { return e.ID == id })
		if i >= 0 && !p.Entries[i].Erased {
			p.Entries[i].Erased = true
			p.erased = append(p.erased, p.First+int64(i))
		}
	}
}

// retain forgets what the topic does not keep any longer, which every group is done with.
func (t *Topic) retain(e events.TopicRetained) {
	var held int64
	for _, p := range t.Partitions {
		for len(p.Entries) > 0 {
			first := p.Entries[0]
			if id := first.ID.String(); first.Position.Ms() >= e.BeforeMs || id < e.From || id > e.UpTo {
				break
			}
			p.Entries = p.Entries[1:]
			p.First++
		}
		held += p.Next - p.First - p.erasedFrom(p.First)
	}
	if len(t.Groups) == 0 {
		t.Base = max(t.Base, t.Published-held)
	}
}

func (s *State) subscribe(r events.Record, e events.SubscriptionCreated) {
	t := s.Topics[e.TopicID]
	if t == nil {
		return
	}
	group := e.Joined.Group
	if group == "" {
		group = e.ConsumerGroup
	}
	t.Subscriptions[e.SubscriptionID] = &Subscription{
		Config: e.SubscriptionConfig, TenantID: r.TenantID, Version: r.Version, Created: r.Position, Changed: r.Position,
		Group: group, CreatedBy: r.Meta.Actor, ByPlatform: r.Meta.Platform,
	}
	s.topicOf[e.SubscriptionID] = t
	if t.Groups[group] != nil && !e.Joined.Began {
		return
	}
	g := &Group{Highest: 1, items: map[itemKey]Item{}}
	left := e.Joined.Backlog // of an event that does not say where
	for i, p := range t.Partitions {
		var start int64
		if i < len(e.Joined.Offsets) {
			start = e.Joined.Offsets[i]
		} else {
			n := min(left, p.Next-p.First)
			start, left = p.Next-n, left-n
		}
		g.places = append(g.places, newPlace(start))
	}
	t.Groups[group] = g
}

func (s *State) changeSubscription(r events.Record, id string, change func(*Subscription)) {
	if t := s.topicOf[id]; t != nil {
		sub := t.Subscriptions[id]
		change(sub)
		sub.Version, sub.Changed = r.Version, r.Position
	}
}

func (s *State) unsubscribe(e events.SubscriptionDeleted) {
	t := s.topicOf[e.SubscriptionID]
	if t == nil {
		return
	}
	delete(t.Subscriptions, e.SubscriptionID)
	delete(s.topicOf, e.SubscriptionID)
	// Only a group's last subscription discards what the group had.
	for group := range e.Discarded.Groups {
		if g := t.Groups[group]; g != nil {
			t.Base = max(t.Base, t.Published-g.Unsettled(t))
			delete(t.Groups, group)
		}
	}
}

func (s *State) seek(e events.SubscriptionSought) {
	t := s.Topics[e.TopicID]
	if t == nil || t.Groups[e.Moved.Group] == nil {
		return
	}
	g := t.Groups[e.Moved.Group]
	clear(g.items)
	g.Base = max(e.Moved.AttemptsBefore, g.Highest)
	g.Highest = g.Base + 1
	left := e.Moved.After
	for i, p := range t.Partitions {
		var start int64
		if i < len(e.Moved.Offsets) {
			start = e.Moved.Offsets[i]
		} else {
			n := min(left, p.Next-p.First)
			start, left = p.Next-n, left-n
		}
		g.places[i] = newPlace(start)
	}
}

func (t *Topic) publish(partition int, offset int64, e Entry) {
	t.widen(partition + 1)
	p := t.Partitions[partition]
	if offset < p.Next {
		return // two of one offset: history is not one log's
	}
	t.Reach(partition, offset)
	p.Entries = append(p.Entries, e)
	p.Next++
	t.Published++
	p.settled++
	t.forget(partition)
}

// forgetStep is after how many messages a partition looks for what it need not keep.
const forgetStep = 4096

// forget drops what every group is done with, but for the newest.
func (t *Topic) forget(partition int) {
	p := t.Partitions[partition]
	if p.settled < forgetStep {
		return
	}
	p.settled = 0
	if len(t.Groups) == 0 {
		return
	}
	// Redis trims by and by, and so a little later.
	low := p.Next - KeptPerPartition - forgetStep
	for _, g := range t.Groups {
		low = min(low, g.places[partition].low)
	}
	if gone := low - p.First; gone > int64(len(p.Entries))/4 {
		p.Entries = append(make([]Entry, 0, int64(len(p.Entries))-gone+forgetStep), p.Entries[gone:]...)
		p.First = low
		p.erased = slices.DeleteFunc(p.erased, func(offset int64) bool { return offset < low })
	}
}

// at returns a message of a partition, the zero Entry but for its id where history has it no
// more.
func (t *Topic) at(id uuid.UUID, partition int, offset int64) Entry {
	if partition < len(t.Partitions) {
		if p := t.Partitions[partition]; offset >= p.First && offset < p.Next {
			return p.Entries[offset-p.First]
		}
	}
	return Entry{ID: id}
}

// settle ends a message's life in a group, and returns what it was.
func (t *Topic) settle(id uuid.UUID, d events.Delivery) Item {
	fresh := Item{Entry: t.at(id, d.Partition, d.Offset), Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt, Base: d.AttemptsBefore}
	g := t.Groups[d.ConsumerGroup]
	if g == nil {
		return fresh
	}
	key := itemKey{id, d.AttemptsBefore}
	if item, outside := g.items[key]; outside {
		delete(g.items, key)
		return item
	}
	if d.Offset >= 0 && d.Partition < len(t.Partitions) && d.Offset >= t.Partitions[d.Partition].Next {
		t.Reach(d.Partition, d.Offset+1) // it was published before what history has
		return fresh
	}
	if d.AttemptsBefore == g.Base && d.Partition < len(g.places) {
		g.places[d.Partition].settle(d.Offset)
		t.Partitions[d.Partition].settled++
		t.forget(d.Partition)
	}
	return fresh
}

func (t *Topic) fail(r events.Record, id uuid.UUID, e events.MessageFailed) {
	g := t.Groups[e.ConsumerGroup]
	if g == nil {
		return
	}
	key := itemKey{id, e.AttemptsBefore}
	item, outside := g.items[key]
	if !outside {
		item = t.settle(id, e.Delivery)
		item.Arrived = item.Position
		if item.Position == 0 {
			item.Arrived = r.Position
		}
	}
	item.Attempt, item.DueAtMs, item.DelayMs = e.Attempt+1, r.Position.Ms()+e.RetryDelayMs, e.RetryDelayMs
	if e.Reason == events.ReasonReleased {
		item.Unseen++
	}
	g.items[key] = item
	g.Highest = max(g.Highest, item.Attempt)
}

func (t *Topic) redrive(r events.Record, id uuid.UUID, e events.MessageRedriven) {
	g := t.Groups[e.ConsumerGroup]
	if g == nil {
		return
	}
	g.items[itemKey{id, e.Attempt - 1}] = Item{
		Entry: t.at(id, e.Partition, e.Offset), Partition: e.Partition, Offset: e.Offset, Attempt: e.Attempt, Base: e.Attempt - 1,
		Arrived: r.Position, Redriven: true,
	}
	g.Highest = max(g.Highest, e.Attempt)
}
