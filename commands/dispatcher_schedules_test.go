package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// hourly is a clock for tests: "bad" is no cron, all others tick at each full hour.
func hourly(cron, _ string, after time.Time) (time.Time, error) {
	if cron == "bad" {
		return time.Time{}, errors.New("has one field")
	}
	return after.Truncate(time.Hour).Add(time.Hour), nil
}

func withCron(c *commands.Config) { c.NextTick = hourly }

func (i *instance) scheduleHourly(t testing.TB, change ...func(*commands.CreateSchedule)) commands.Schedule {
	t.Helper()
	cmd := commands.CreateSchedule{ID: newID(), Queue: "orders", Cron: "0 * * * *", Payload: json.RawMessage(`"tick"`)}
	for _, c := range change {
		c(&cmd)
	}
	s, _, err := i.CreateSchedule(t.Context(), async, cmd)
	require.NoError(t, err)
	return s
}

// next is when a schedule ticks next by the due set, 0 for never.
func (b *testBundle) next(t testing.TB, id string) int64 {
	t.Helper()
	at, _ := b.client.ZScore(t.Context(), fmt.Sprintf("%s{%d}:due", b.prefix, events.ShardOf(tenant, "orders", shards)), "c|"+id).Result()
	return int64(at)
}

// tickNow has a schedule's next tick be due, which is still that tick.
func (b *testBundle) tickNow(t testing.TB, id string) {
	t.Helper()
	require.NoError(t, b.client.ZIncrBy(t.Context(), fmt.Sprintf("%s{%d}:due", b.prefix, events.ShardOf(tenant, "orders", shards)), -1e12, "c|"+id).Err())
}

func TestATickIsPublishedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, withCron, reversing).run(t)
	i.queue(t, "orders", 2)
	id := i.subscribe(t, "orders", "g")
	s := i.scheduleHourly(t, func(c *commands.CreateSchedule) {
		c.Key, c.Headers, c.CorrelationID, c.ContentType, c.TTLMs = "k", map[string]string{"h": "v"}, "c", "text/plain", new(int64(60_000))
	})
	require.Equal(t, []any{s.Config.ScheduleID, "UTC", "active", true, `"kcit"`}, []any{s.Config.Name, s.Config.TimeZone, s.Config.Status, s.Config.Sealed, string(s.Config.Payload)})
	planned := time.Now().Truncate(time.Hour).Add(time.Hour).UnixMilli()
	require.Equal(t, planned, b.next(t, s.Config.ScheduleID))
	// given four instances, each of which gets to decide on it
	for range 3 {
		b.instance(t, withCron, reversing).run(t)
	}
	b.tickNow(t, s.Config.ScheduleID)
	m := i.pull(t, id, 5)
	require.Len(t, m, 1)
	require.Equal(t, []any{`"tick"`, "k", map[string]string{"h": "v"}, "c", "text/plain"}, []any{string(m[0].Payload), m[0].Meta.Key, m[0].Meta.Headers, m[0].Meta.CorrelationID, m[0].Meta.ContentType})
	records := i.all(t, b, "orders")
	require.Equal(t, s.Config.ScheduleID, records[len(records)-1].Event.(events.MessagePublished).ScheduleID)
	// and the next one is the next, however late this one was: those between are left out
	after := time.UnixMilli(planned).Add(time.Hour).UnixMilli()
	require.Eventually(t, func() bool { return b.next(t, s.Config.ScheduleID) == after }, soon, time.Millisecond)
	state, err := json.Marshal(s)
	require.NoError(t, err)
	next, err := i.Tick(t.Context(), 0, events.DueTick{ScheduleID: s.Config.ScheduleID, TickMs: planned - 5*time.Hour.Milliseconds(), State: state})
	require.NoError(t, err)
	require.Equal(t, time.Now().Truncate(time.Hour).Add(time.Hour).UnixMilli(), next)
	require.Len(t, i.pull(t, id, 5), 1)
	// whoever asks once more publishes nothing
	for range 3 {
		_, err = b.instance(t, withCron, reversing).Tick(t.Context(), 0, events.DueTick{ScheduleID: s.Config.ScheduleID, TickMs: planned, State: state})
		require.NoError(t, err)
	}
	i.requireNothing(t, id)
}

func TestASchedulesLife(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, withCron).run(t)
	topic := i.queue(t, "orders", 1)
	sub := i.subscribe(t, "orders", "g")
	paused := i.scheduleHourly(t, func(c *commands.CreateSchedule) { c.Status, c.Name = commands.StatusPaused, "n" })
	id := paused.Config.ScheduleID
	require.Zero(t, b.next(t, id))
	_, err := i.DeleteSchedule(t.Context(), commands.Caller{TenantID: otherTenant}, id, nil)
	requireRefusal(t, err, commands.CodeScheduleNotFound)
	_, _, err = i.ResumeSchedule(t.Context(), async, id, new(int64(9)))
	requireRefusal(t, err, commands.CodeVersionMismatch)
	for range 2 { // again is nothing
		s, _, err := i.ResumeSchedule(t.Context(), async, id, nil)
		require.NoError(t, err)
		require.Equal(t, []any{"active", int64(2)}, []any{s.Config.Status, s.Version})
	}
	require.NotZero(t, b.next(t, id))
	s, _, err := i.PauseSchedule(t.Context(), async, id, new(int64(2)))
	require.NoError(t, err)
	require.Equal(t, int64(3), s.Version)
	require.Zero(t, b.next(t, id))
	// a tick that was being decided on meanwhile does not bring it back
	_, _, err = i.ResumeSchedule(t.Context(), async, id, nil)
	require.NoError(t, err)
	b.tickNow(t, id)
	require.Equal(t, `"tick"`, string(i.pull(t, sub, 1)[0].Payload))
	_, err = i.DeleteSchedule(t.Context(), async, id, nil)
	require.NoError(t, err)
	require.Zero(t, b.next(t, id))
	b.requireNoKeys(t, id)
	_, _, err = i.PauseSchedule(t.Context(), async, id, nil)
	requireRefusal(t, err, commands.CodeScheduleNotFound)
	var kinds []events.Kind
	for _, r := range i.all(t, b, "orders")[2:] {
		kinds = append(kinds, r.Event.Kind())
	}
	require.Equal(t, []events.Kind{
		events.KindScheduleCreated, events.KindScheduleResumed, events.KindSchedulePaused, events.KindScheduleResumed, events.KindMessagePublished, events.KindScheduleDeleted,
	}, kinds)
	// with its queue it is gone
	last := i.scheduleHourly(t).Config.ScheduleID
	i.deleteQueue(t)
	b.requireNoKeys(t, topic.Config.TopicID, last)
	require.Zero(t, b.next(t, last))
	_, _, err = i.PauseSchedule(t.Context(), async, last, nil)
	requireRefusal(t, err, commands.CodeScheduleNotFound)
}

// A queue that does not take a tick lets it pass; a store that is away has it come again.
func TestATickThatCannotBePublished(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var isAway atomic.Bool
	i := b.bounded(t, 1)
	i.Dispatcher = dispatcher(i.log, withCron, func(c *commands.Config) {
		reversing(c)
		open := c.Open
		c.Open = func(ctx context.Context, tenantID, topicID, id string, payload []byte) ([]byte, error) {
			if isAway.Load() {
				return nil, errors.New("away")
			}
			return open(ctx, tenantID, topicID, id, payload)
		}
	})
	i.queue(t, "orders", 1)
	s := i.scheduleHourly(t)
	state, err := json.Marshal(s)
	require.NoError(t, err)
	tick := events.DueTick{ScheduleID: s.Config.ScheduleID, TickMs: b.next(t, s.Config.ScheduleID), State: state}
	isAway.Store(true)
	_, err = i.Tick(t.Context(), 0, tick)
	require.ErrorIs(t, err, commands.ErrUnavailable)
	isAway.Store(false)
	require.NoError(t, i.publishBatch(t, async, false, message("orders", "1"))[0].Err)
	next, err := i.Tick(t.Context(), 0, tick) // the queue is full
	require.NoError(t, err)
	require.Equal(t, tick.TickMs+time.Hour.Milliseconds(), next)
	i.deleteQueue(t)
	_, err = i.Tick(t.Context(), 0, tick)
	require.NoError(t, err)
	require.Zero(t, b.due(t))
}

func TestWhatASchedulesConfigurationMayBe(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, withCron)
	i.queue(t, "orders", 1)
	for field, change := range map[string]func(*commands.CreateSchedule){
		"cron":     func(c *commands.CreateSchedule) { c.Cron = "bad" },
		"name":     func(c *commands.CreateSchedule) { c.Name = strings.Repeat("n", commands.ScheduleNameMax+1) },
		"timeZone": func(c *commands.CreateSchedule) { c.TimeZone = strings.Repeat("z", commands.TimeZoneMax+1) },
		"status":   func(c *commands.CreateSchedule) { c.Status = commands.StatusStopped },
		"ttlMs":    func(c *commands.CreateSchedule) { c.TTLMs = new(int64(0)) },
		"payload":  func(c *commands.CreateSchedule) { c.Payload = nil },
		"key":      func(c *commands.CreateSchedule) { c.Key = strings.Repeat("k", commands.MessageKeyMax+1) },
	} {
		cmd := commands.CreateSchedule{ID: newID(), Queue: "orders", Cron: "0 * * * *", Payload: json.RawMessage(`1`)}
		change(&cmd)
		_, _, err := i.CreateSchedule(t.Context(), async, cmd)
		require.Equal(t, field, refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field)
	}
	cmd := commands.CreateSchedule{ID: newID(), Queue: "none", Cron: "0 * * * *", Payload: json.RawMessage(`1`)}
	_, _, err := i.CreateSchedule(t.Context(), async, cmd)
	requireRefusal(t, err, commands.CodeQueueNotFound)
	// the same request is the same schedule
	cmd.Queue = "orders"
	first, _, err := i.CreateSchedule(t.Context(), under("k"), cmd)
	require.NoError(t, err)
	cmd.ID = newID()
	again, receipt, err := i.CreateSchedule(t.Context(), under("k"), cmd)
	require.NoError(t, err)
	require.True(t, receipt.Duplicate)
	require.Equal(t, first.Config.ScheduleID, again.Config.ScheduleID)
	cmd.Cron = "1 * * * *"
	_, _, err = i.CreateSchedule(t.Context(), under("k"), cmd)
	requireRefusal(t, err, commands.CodeIdempotencyKeyReused)
}
