package delivery

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// State is how deliveries of a subscription go.
type State string

const (
	// StateActive: messages are delivered as they come.
	StateActive State = "active"
	// StateResting: nothing is taken, as the endpoint fails or asked for that.
	StateResting State = "resting"
	// StateProbing: the endpoint failed, and single messages find out whether it is well.
	StateProbing State = "probing"
	// StateEnding: the subscription changed or is no longer active; what is under way ends.
	StateEnding State = "ending"
)

// TargetStatus is the state of one subscription's deliveries from this instance.
type TargetStatus struct {
	// SubscriptionID names it, TenantID whose it is, and Queue its queue, as its
	// subscriber names it.
	SubscriptionID, TenantID, Queue string
	State                           State
	// Since is when its handler began, or its last rest; Until when that rest ends.
	Since, Until time.Time
	// Failures are those since the last success, the first of them at FailingSince.
	Failures     int
	FailingSince time.Time
	// LastError is what last went wrong, also when it is over; LastErrorAt when.
	LastError   string
	LastErrorAt time.Time
	// InFlight is how many messages are on their way right now, Delivered how many the
	// endpoint has taken.
	InFlight  int
	Delivered int64
}

// Status returns the state of all subscriptions that are delivered, by their ids.
func (p *Pusher) Status() []TargetStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]TargetStatus, 0, len(p.targets))
	for _, t := range p.targets {
		out = append(out, t.status(time.Now()))
	}
	slices.SortFunc(out, func(a, b TargetStatus) int { return cmp.Compare(a.SubscriptionID, b.SubscriptionID) })
	return out
}

// status is the target's state; Pusher.mu is held.
func (t *target) status(now time.Time) TargetStatus {
	s := TargetStatus{
		SubscriptionID: t.id(), TenantID: t.sub.TenantID, Queue: t.sub.QueueName(),
		State: StateActive, Delivered: t.health.delivered.Load(),
	}
	t.health.mu.Lock()
	s.Since, s.Failures, s.FailingSince = t.health.since, t.health.failures, t.health.failingSince
	s.LastError, s.LastErrorAt = t.health.lastError, t.health.lastErrorAt
	t.health.mu.Unlock()
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	s.InFlight = t.gate.inFlight
	switch {
	case t.isRetiring:
		s.State = StateEnding
	case now.Before(t.gate.until):
		s.State, s.Since, s.Until = StateResting, t.gate.since, t.gate.until
	case t.gate.isProbing:
		s.State, s.Since = StateProbing, t.gate.until
	}
	return s
}

// brief is an error in one short line.
func brief(err error) string {
	if err == nil {
		return ""
	}
	text := []rune(strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "?")), " "))
	if len(text) > errorCharsMax {
		return string(text[:errorCharsMax-1]) + "…"
	}
	return string(text)
}
