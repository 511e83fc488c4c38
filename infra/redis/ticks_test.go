package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// schedule makes a recurring schedule that ticks next at nextMs.
func (f topicFixture) schedule(t testing.TB, nextMs int64) (id string) {
	t.Helper()
	id = newID(t)
	out := f.b.append(t, f.shard, f.scheduleCreated(id, nextMs))
	require.Equal(t, events.StatusAppended, out[0].Status)
	return id
}

func (f topicFixture) scheduleCreated(id string, nextMs int64) events.Append {
	return events.Append{
		ID: id, TenantID: tenant, Version: 1, State: []byte(`{"name":"s"}`), NextMs: nextMs, Guard: events.Guard{TopicVersion: 1},
		Event: events.ScheduleCreated{ScheduleConfig: events.ScheduleConfig{ScheduleID: id, TopicID: f.id, Payload: json.RawMessage(`1`)}},
	}
}

func (f topicFixture) next(t testing.TB, id string) int64 {
	t.Helper()
	return int64(f.b.client.ZScore(t.Context(), f.b.log.shards[f.shard].keys.due(), "c|"+id).Val())
}

func TestATickMovesOnOnceItIsDone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	past := time.Now().Add(-time.Hour).UnixMilli()
	id := topic.schedule(t, past)
	next := time.Now().Add(time.Hour).UnixMilli()
	var ticks []events.DueTick
	work := func(err error) DueWork {
		return DueWork{Tick: func(_ context.Context, shard int, tick events.DueTick) (int64, error) {
			require.Equal(t, topic.shard, shard)
			ticks = append(ticks, tick)
			return next, err
		}}
	}
	// one that fails is tried again, in a while, as the same tick
	topic.moveDue(t, work(errors.New("away")))
	topic.moveDue(t, work(nil))
	require.Len(t, ticks, 1)
	require.InDelta(t, time.Now().Add(dueAside).UnixMilli(), topic.next(t, id), 2000)
	topic.makeDue(t)
	topic.moveDue(t, work(nil))
	require.Equal(t, []events.DueTick{{ScheduleID: id, TickMs: past, State: []byte(`{"name":"s"}`)}}, ticks[1:])
	require.Equal(t, next, topic.next(t, id))
	// whoever is late moves nothing
	s := b.log.shards[topic.shard]
	moved, err := tickScript.Run(t.Context(), b.client, []string{s.keys.due()}, s.keys.prefix, id, past, past+1, "").Int()
	require.NoError(t, err)
	require.Zero(t, moved)
	require.Equal(t, next, topic.next(t, id))
	a, err := b.log.Schedule(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []any{id, topic.shard, int64(1), state{Name: "s"}}, []any{a.ID, a.Shard, a.Version, a.Value})
}

// A pause, a resumption and an end count for a tick that is being decided on.
func TestWhatChangesWhileATickIsDecidedOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	past := time.Now().Add(-time.Hour).UnixMilli()
	later := time.Now().Add(2 * time.Hour).UnixMilli()
	for name, change := range map[string]struct {
		event events.Event
		next  int64
		want  int64
	}{
		"paused":  {event: events.SchedulePaused{}},
		"resumed": {event: events.ScheduleResumed{}, next: later, want: later},
		"deleted": {event: events.ScheduleDeleted{}},
		"none":    {want: later + 1},
	} {
		id := topic.schedule(t, past)
		topic.moveDue(t, DueWork{Tick: func(context.Context, int, events.DueTick) (int64, error) {
			a := events.Append{
				ID: newID(t), TenantID: tenant, Version: 2, State: []byte(`{}`), NextMs: change.next, Event: change.event,
				Guard: events.Guard{ScheduleID: id, ScheduleVersion: 1},
			}
			if e, ok := change.event.(events.ScheduleDeleted); ok {
				e.ScheduleID, e.TopicID = id, topic.id
				a.Event = e
			}
			if change.event != nil {
				require.Equal(t, events.StatusAppended, b.append(t, topic.shard, a)[0].Status, name)
				require.Equal(t, events.StatusStale, b.append(t, topic.shard, a)[0].Status, name)
			}
			return later + 1, nil
		}})
		require.Equal(t, change.want, topic.next(t, id), name)
	}
}

func TestAQueueHasSoManySchedules(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	batch := make([]events.Append, 0, schedulesMax)
	for range schedulesMax {
		batch = append(batch, topic.scheduleCreated(newID(t), 0))
	}
	for _, out := range b.append(t, topic.shard, batch...) {
		require.Equal(t, events.StatusAppended, out.Status)
	}
	require.Equal(t, events.StatusFull, b.append(t, topic.shard, topic.scheduleCreated(newID(t), 0))[0].Status)
	// one that goes makes room
	e := events.ScheduleDeleted{ScheduleID: batch[0].ID, TopicID: topic.id}
	out := b.append(t, topic.shard, events.Append{ID: newID(t), TenantID: tenant, Version: 2, Event: e, Guard: events.Guard{ScheduleID: batch[0].ID, ScheduleVersion: 1}})
	require.Equal(t, events.StatusAppended, out[0].Status)
	topic.schedule(t, 0)
	b.append(t, topic.shard, events.Append{ID: newID(t), TenantID: tenant, Version: 2, Guard: events.Guard{TopicVersion: 1}, Event: events.TopicDeleted{TopicID: topic.id, Name: "orders"}})
	require.Empty(t, b.client.Keys(t.Context(), fmt.Sprintf("%s*schedule*", b.prefix)).Val())
}
