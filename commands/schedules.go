package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Limits of recurring schedules.
const (
	ScheduleNameMax = 200
	CronMax         = 200
	TimeZoneMax     = 100
)

// Schedule is what decisions about a recurring schedule rest on.
type Schedule struct {
	TenantID string                `json:"tenantId"`
	Version  int64                 `json:"version"`
	Config   events.ScheduleConfig `json:"schedule"`
	// Queue is the queue's name.
	Queue string `json:"queue"`
	// Owner is who made it: it publishes as they do.
	Owner Owner `json:"owner"`
	// CreatedAtMs and ChangedAtMs are as in Topic.
	CreatedAtMs, ChangedAtMs int64 `json:"-"`
}

// DecodeSchedule reads the state that the log keeps of a schedule.
func DecodeSchedule(state []byte) (any, error) {
	var s Schedule
	if err := json.Unmarshal(state, &s); err != nil {
		return nil, fmt.Errorf("schedule state: %w", err)
	}
	return s, nil
}

// CreateSchedule asks for a message to be published regularly.
type CreateSchedule struct {
	// ID is the schedule's id, minted by the caller.
	ID    string
	Name  string
	Queue string
	// Cron has five fields, as in crontab(5), or is one of its @ words; it is meant in
	// TimeZone, an IANA name, UTC unless it is given.
	Cron, TimeZone string
	Status         string

	Payload       json.RawMessage
	Key           string
	Headers       map[string]string
	CorrelationID string
	ContentType   string
	TTLMs         *int64
}

// CreateSchedule creates a schedule and returns it, and when it ticks next.
func (d *Dispatcher) CreateSchedule(ctx context.Context, caller Caller, cmd CreateSchedule) (Schedule, Receipt, error) {
	for range decideAgainMax {
		s, receipt, err := d.createSchedule(ctx, caller, cmd)
		if !errors.Is(err, errStale) {
			return s, receipt, err
		}
	}
	return Schedule{}, Receipt{}, tooBusy()
}

func (d *Dispatcher) createSchedule(ctx context.Context, caller Caller, cmd CreateSchedule) (Schedule, Receipt, error) {
	fail := func(err error) (Schedule, Receipt, error) { return Schedule{}, Receipt{}, err }
	topic, shard, err := d.ownTopic(ctx, caller, cmd.Queue)
	if err != nil {
		return fail(err)
	}
	if !topic.mayProduce(caller) {
		return fail(refuse(CodeForbidden, "%q may not publish to queue %q", caller.Subject, cmd.Queue))
	}
	now := d.cfg.Now()
	cmd.TimeZone, cmd.Status = or(cmd.TimeZone, "UTC"), or(cmd.Status, StatusActive)
	next, err := d.decideSchedule(topic, cmd, now)
	if err != nil {
		return fail(err)
	}
	config := events.ScheduleConfig{
		ScheduleID: cmd.ID, TopicID: topic.Config.TopicID, Name: or(cmd.Name, cmd.ID), Cron: cmd.Cron, TimeZone: cmd.TimeZone, Key: cmd.Key,
		Headers: cmd.Headers, ContentType: cmd.ContentType, CorrelationID: cmd.CorrelationID, TTLMs: cmd.TTLMs, Payload: cmd.Payload, Status: cmd.Status,
	}
	if d.cfg.Seal != nil {
		sealed, err := d.cfg.Seal(ctx, topic.TenantID, config.TopicID, config.ScheduleID, config.Payload)
		if err != nil {
			return fail(unavailable(fmt.Errorf("encrypt a payload: %w", err)))
		}
		config.Sealed, config.Payload = true, sealed
	}
	s := Schedule{TenantID: caller.TenantID, Version: 1, Config: config, Queue: topic.Config.Name, Owner: OwnerOf(caller)}
	out, err := d.appendState(ctx, shard, s, events.Append{
		ID: cmd.ID, TenantID: caller.TenantID, Event: events.ScheduleCreated{ScheduleConfig: config}, Meta: d.meta(caller, d.fingerprint(caller, cmd)),
		Guard: events.Guard{TopicVersion: topic.Version}, Version: s.Version, NextMs: next,
	})
	if err != nil {
		return fail(err)
	}
	s.CreatedAtMs, s.ChangedAtMs = out.Position.Ms(), out.Position.Ms()
	switch out.Status {
	case events.StatusStale:
		d.store.Forget(topic.Config.TopicID)
		return fail(errStale)
	case events.StatusKeyReused:
		return fail(keyReused())
	case events.StatusFull:
		return fail(refuse(CodeConflict, "queue %q has as many schedules as it may", cmd.Queue))
	case events.StatusDuplicate:
		s, _, err = d.schedule(ctx, caller, out.ID)
		if isRefused(err, CodeScheduleNotFound) {
			err = refuse(CodeConflict, "the schedule that this request made has been deleted")
		}
		if err != nil {
			return fail(err)
		}
	default:
	}
	receipt, err := d.await(ctx, caller, shard, out)
	return s, receipt, err
}

// decideSchedule checks a schedule and returns when it ticks first, in ms since 1970, 0
// where it is paused.
func (d *Dispatcher) decideSchedule(topic Topic, cmd CreateSchedule, now time.Time) (int64, error) {
	var v check
	v.short(cmd.Name, "name", ScheduleNameMax)
	v.short(cmd.Cron, "cron", CronMax)
	v.short(cmd.TimeZone, "timeZone", TimeZoneMax)
	v.oneOf(cmd.Status, "status", StatusActive, StatusPaused)
	if cmd.TTLMs != nil {
		v.between(*cmd.TTLMs, 1, MessageTTLMsMax, "ttlMs")
	}
	if err := v.refusal(); err != nil {
		return 0, err
	}
	active := topic
	active.Config.Status = StatusActive // a paused queue may have schedules
	if _, err := decidePublish(active, Publish{
		ID: cmd.ID, Queue: cmd.Queue, Payload: cmd.Payload, Key: cmd.Key, Headers: cmd.Headers, CorrelationID: cmd.CorrelationID,
		ContentType: cmd.ContentType, TTLMs: cmd.TTLMs,
	}, now, d.cfg, 0); err != nil {
		return 0, err
	}
	next, err := d.cfg.NextTick(cmd.Cron, cmd.TimeZone, now)
	if err != nil {
		v.that(false, "cron", "five fields as in crontab(5) in timeZone, an IANA name", err.Error())
		return 0, v.refusal()
	}
	if cmd.Status == StatusPaused {
		return 0, nil
	}
	return next.UnixMilli(), nil
}

// schedule loads a tenant's schedule; another tenant's is as missing.
func (d *Dispatcher) schedule(ctx context.Context, caller Caller, id string) (Schedule, int, error) {
	a, err := d.store.Schedule(ctx, id)
	if err != nil && !isNone(err) {
		return Schedule{}, 0, unavailable(err)
	}
	missing := refuse(CodeScheduleNotFound, "no schedule %q", brief(id))
	if err != nil {
		return Schedule{}, 0, missing
	}
	s, ok := a.Value.(Schedule)
	if !ok {
		return Schedule{}, 0, fmt.Errorf("schedule %s: state is %T", a.ID, a.Value)
	}
	if s.TenantID != caller.TenantID {
		return Schedule{}, 0, missing
	}
	s.CreatedAtMs, s.ChangedAtMs = a.Created.Ms(), a.Changed.Ms()
	return s, a.Shard, nil
}

func isNone(err error) bool { return errors.Is(err, events.ErrNoAggregate) }

// PauseSchedule stops a schedule's ticks until it is resumed.
func (d *Dispatcher) PauseSchedule(ctx context.Context, caller Caller, id string, ifVersion *int64) (Schedule, Receipt, error) {
	return d.onSchedule(ctx, caller, id, ifVersion, StatusPaused, func(s Schedule) (events.Event, int64, error) {
		return events.SchedulePaused{ScheduleID: id, TopicID: s.Config.TopicID}, 0, nil
	})
}

// ResumeSchedule lets a schedule tick again, from its next time on.
func (d *Dispatcher) ResumeSchedule(ctx context.Context, caller Caller, id string, ifVersion *int64) (Schedule, Receipt, error) {
	return d.onSchedule(ctx, caller, id, ifVersion, StatusActive, func(s Schedule) (events.Event, int64, error) {
		next, err := d.cfg.NextTick(s.Config.Cron, s.Config.TimeZone, d.cfg.Now())
		if err != nil {
			return nil, 0, refuse(CodeConflict, "schedule: %s", err)
		}
		return events.ScheduleResumed{ScheduleID: id, TopicID: s.Config.TopicID}, next.UnixMilli(), nil
	})
}

// DeleteSchedule ends a schedule.
func (d *Dispatcher) DeleteSchedule(ctx context.Context, caller Caller, id string, ifVersion *int64) (Receipt, error) {
	_, receipt, err := d.onSchedule(ctx, caller, id, ifVersion, "", func(s Schedule) (events.Event, int64, error) {
		return events.ScheduleDeleted{ScheduleID: id, TopicID: s.Config.TopicID}, 0, nil
	})
	return receipt, err
}

// onSchedule appends what changes a schedule's status, and decides again where it changed
// meanwhile. One that has the status is left as it is.
func (d *Dispatcher) onSchedule(ctx context.Context, caller Caller, id string, ifVersion *int64, status string, decide func(Schedule) (events.Event, int64, error)) (Schedule, Receipt, error) {
	for range decideAgainMax {
		s, shard, err := d.schedule(ctx, caller, id)
		if err != nil {
			return s, Receipt{}, err
		}
		if err := checkVersion(ifVersion, s.Version); err != nil {
			return s, Receipt{}, err
		}
		if s.Config.Status == status {
			return s, Receipt{Folded: !caller.Async}, nil
		}
		event, next, err := decide(s)
		if err != nil {
			return s, Receipt{}, err
		}
		before := s.Version
		s.Config.Status, s.Version = status, before+1
		receipt, err := d.appendAdmin(ctx, caller, shard, events.Append{
			ID: d.cfg.NewID(), TenantID: s.TenantID, Event: event, Meta: d.adminMeta(caller), Version: s.Version, NextMs: next,
			Guard: events.Guard{ScheduleID: id, ScheduleVersion: before},
		}, s)
		if !errors.Is(err, errStale) {
			s.ChangedAtMs = receipt.Position.Ms()
			return s, receipt, err
		}
	}
	return Schedule{}, Receipt{}, tooBusy()
}

// Tick publishes a tick of a schedule, once however often it is asked (for 24 hours), and
// returns when the next one is, in ms since 1970. Where its owner may not publish any more
// it is left out. Where ticks were missed this one comes
// late and the others not at all. A queue that does not take it makes it pass: it is
// logged, and the next one is tried.
func (d *Dispatcher) Tick(ctx context.Context, _ int, tick events.DueTick) (int64, error) {
	value, err := DecodeSchedule(tick.State)
	if err != nil {
		return 0, err
	}
	s, _ := value.(Schedule)
	c := s.Config
	payload := []byte(c.Payload)
	if c.Sealed {
		if payload, err = d.openSealed(ctx, s.TenantID, c.TopicID, c.ScheduleID, payload); err != nil && !errors.Is(err, ErrUnreadable) {
			return 0, unavailable(err)
		}
	}
	if err == nil {
		var out []Published
		out, err = d.Publish(ctx, s.Owner.Caller(s.TenantID), []Publish{{
			ID: d.cfg.NewID(), Queue: s.Queue, Payload: payload, Key: c.Key, Headers: c.Headers, CorrelationID: c.CorrelationID, ContentType: c.ContentType,
			TTLMs: c.TTLMs, ScheduleID: c.ScheduleID, EventKey: fmt.Sprintf("tick %s %d", c.ScheduleID, tick.TickMs),
		}}, false)
		if err == nil {
			err = out[0].Err
		}
	}
	if IsUnavailable(err) || isRefused(err, CodeUnavailable) {
		return 0, err
	}
	if err != nil {
		d.cfg.Logger.Warn("schedule's tick is left out", "schedule", c.ScheduleID, "tickMs", tick.TickMs, "error", err)
	}
	next, err := d.cfg.NextTick(c.Cron, c.TimeZone, later(d.cfg.Now(), time.UnixMilli(tick.TickMs)))
	if err != nil {
		return 0, fmt.Errorf("next tick: %w", err)
	}
	return next.UnixMilli(), nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (d *Dispatcher) openSealed(ctx context.Context, tenantID, topicID, id string, payload []byte) ([]byte, error) {
	if d.cfg.Open == nil {
		return nil, ErrUnreadable
	}
	return d.cfg.Open(ctx, tenantID, topicID, id, payload)
}
