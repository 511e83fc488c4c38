package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// store is a write side in memory: a queue of messages per subscription, a failed one
// comes again after retryAfter, and leases run out.
type store struct {
	retryAfter time.Duration

	mu       sync.Mutex
	subs     map[string]commands.Subscription
	ready    map[string][]commands.Pulled
	leases   map[string]*lease
	changed  chan struct{}
	wake     chan struct{}
	outcomes []commands.Outcome
	released []string
	expired  []string
	calls    []string // of Suspend and Stop
	// takes counts calls of Take by subscription, and waiting those under way.
	takes   map[string]int
	waiting int
	// taken are when Take gave something, and the most that it was asked for.
	mostAsked int
	// away makes everything fail, panics the next Take panic.
	away, panics bool
	tokens       int
}

type lease struct {
	id      string
	m       commands.Pulled
	expires *time.Timer
}

func newStore() *store {
	return &store{
		retryAfter: time.Second, subs: map[string]commands.Subscription{}, ready: map[string][]commands.Pulled{},
		leases: map[string]*lease{}, changed: make(chan struct{}), wake: make(chan struct{}), takes: map[string]int{},
	}
}

// put creates or changes a subscription.
func (s *store) put(id string, hook map[string]any, changes ...func(*commands.Subscription)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := json.Marshal(hook)
	if err != nil {
		panic(err)
	}
	sub := commands.Subscription{
		TenantID: tenant, QueueTenantID: tenant, Queue: "orders", Version: s.subs[id].Version + 1,
		Config: events.SubscriptionConfig{
			SubscriptionID: id, SubscriptionType: commands.TypeWebhook, Status: commands.StatusActive,
			SessionTimeoutMs: 30_000, HandlerConfig: raw,
		},
	}
	for _, change := range changes {
		change(&sub)
	}
	s.subs[id] = sub
	s.tell()
}

func (s *store) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subs, id)
	s.tell()
}

func withStatus(status string) func(*commands.Subscription) {
	return func(s *commands.Subscription) { s.Config.Status = status }
}

// tell wakes whoever waits; s.mu is held.
func (s *store) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
	s.ring()
}

func (s *store) ring() {
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *store) publish(id string, messages ...commands.Pulled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready[id] = append(s.ready[id], messages...)
	s.ring()
}

// messages are n messages with ids that start alike.
func messages(prefix string, n int) []commands.Pulled {
	out := make([]commands.Pulled, n)
	for i := range out {
		out[i].MessageID = fmt.Sprintf("%s%d", prefix, i)
		out[i].Payload = []byte(`{"n":` + fmt.Sprint(i) + `}`)
		out[i].Attempt = 1
	}
	return out
}

func (s *store) list(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errAway
	}
	ids := make([]string, 0, len(s.subs))
	for id := range s.subs {
		ids = append(ids, id)
	}
	return ids, nil
}

func (s *store) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *store) Load(_ context.Context, id string) (commands.Subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return commands.Subscription{}, errAway
	}
	sub, ok := s.subs[id]
	if !ok {
		return sub, &commands.Refusal{Code: commands.CodeSubscriptionNotFound}
	}
	return sub, nil
}

func (s *store) Take(ctx context.Context, id string, most int, wait time.Duration) ([]commands.Pulled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes[id]++
	s.mostAsked = max(s.mostAsked, most)
	if s.panics {
		s.panics = false
		panic("as the test asked for")
	}
	first := s.subs[id]
	late := time.After(wait)
	for {
		sub, ok := s.subs[id]
		switch {
		case s.away:
			return nil, errAway
		case !ok || sub.Config.Status != commands.StatusActive:
			return nil, &commands.Refusal{Code: commands.CodeConsumerError, Reason: "not active"}
		case sub.Version != first.Version:
			return nil, nil
		case len(s.ready[id]) > 0:
			return s.lease(id, sub, min(most, len(s.ready[id]))), nil
		}
		wake := s.wake
		s.waiting++
		s.mu.Unlock()
		isLate := false
		select {
		case <-wake:
		case <-late:
			isLate = true
		case <-ctx.Done():
			isLate = true
		}
		s.mu.Lock()
		s.waiting--
		if isLate {
			return nil, nil
		}
	}
}

func (s *store) lease(id string, sub commands.Subscription, n int) []commands.Pulled {
	out := slices.Clone(s.ready[id][:n])
	s.ready[id] = s.ready[id][n:]
	for i := range out {
		s.tokens++
		token := fmt.Sprint(s.tokens)
		out[i].AckToken = token
		l := &lease{id: id, m: out[i]}
		l.expires = time.AfterFunc(time.Duration(sub.Config.SessionTimeoutMs)*time.Millisecond, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if _, ok := s.leases[token]; ok {
				s.expired = append(s.expired, l.m.MessageID)
				s.again(token, 0)
			}
		})
		s.leases[token] = l
	}
	return out
}

// again puts a message back; s.mu is held.
func (s *store) again(token string, delay time.Duration) {
	l := s.leases[token]
	delete(s.leases, token)
	l.expires.Stop()
	m := l.m
	m.Attempt++
	if delay == 0 {
		s.ready[l.id] = append(s.ready[l.id], m)
		s.ring()
		return
	}
	time.AfterFunc(delay, func() { s.publish(l.id, m) })
}

func (s *store) Settle(_ context.Context, id string, outcomes []commands.Outcome) ([]commands.Settled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errAway
	}
	out := make([]commands.Settled, len(outcomes))
	for i, o := range outcomes {
		l, ok := s.leases[o.AckToken]
		if !ok || l.id != id {
			out[i].Err = &commands.Refusal{Code: commands.CodeLeaseLost}
			continue
		}
		s.outcomes = append(s.outcomes, o)
		if o.OK || o.Dead {
			l.expires.Stop()
			delete(s.leases, o.AckToken)
		} else {
			s.again(o.AckToken, max(s.retryAfter, time.Duration(o.NotBeforeMs)*time.Millisecond))
		}
	}
	return out, nil
}

func (s *store) ReleaseTokens(_ context.Context, _ string, ackTokens []string, _ int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	for _, token := range ackTokens {
		if l, ok := s.leases[token]; ok {
			s.released = append(s.released, l.m.MessageID)
			s.again(token, 0)
		}
	}
	return nil
}

func (s *store) Suspend(_ context.Context, id, reason string) error {
	return s.end(id, "suspend", commands.StatusPaused, reason)
}

func (s *store) Stop(_ context.Context, id, reason string) error {
	return s.end(id, "stop", commands.StatusStopped, reason)
}

func (s *store) end(id, what, status, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	s.calls = append(s.calls, what+" "+id+": "+reason)
	sub := s.subs[id]
	sub.Version++
	sub.Config.Status = status
	s.subs[id] = sub
	s.tell()
	return nil
}

// settled returns a copy of all outcomes so far.
func (s *store) settled() []commands.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.outcomes)
}

// said returns the calls of Suspend and Stop, back what was handed back, lapsed the leases
// that ran out, and asked how often a subscription's messages were asked for.
func (s *store) said() []string { return locked(s, func() []string { return slices.Clone(s.calls) }) }

func (s *store) back() []string {
	return locked(s, func() []string { return slices.Clone(s.released) })
}

func (s *store) lapsed() []string {
	return locked(s, func() []string { return slices.Clone(s.expired) })
}

func (s *store) asked(id string) int {
	return locked(s, func() int { return s.takes[id] })
}

func locked[T any](s *store, get func() T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return get()
}

func (s *store) do(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}
