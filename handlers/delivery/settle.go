package delivery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tallymq/tallymq/commands"
)

const (
	// settleMax is how many outcomes are settled at once, and settleTime how long that
	// may take before it is tried again.
	settleMax  = 100
	settleTime = 10 * time.Second
)

// settle says how the attempt ended, until the log knows, the lease is over, or the target
// is. That another one settled it, or that it is gone, is fine.
func (a *attempt) settle(o commands.Outcome) error {
	err := a.t.insist(a.leaseEnd, func(ctx context.Context) error { return a.t.settler.settle(ctx, o) })
	if err != nil {
		return fmt.Errorf("settle message %s: %w", a.m.MessageID, err)
	}
	if o.OK {
		a.t.health.delivered.Add(1)
	}
	return nil
}

func (a *attempt) release() { a.t.release(a.leaseEnd, []commands.Pulled{a.m}) }

// release hands back what was not sent.
func (t *target) release(leaseEnd time.Time, pulled []commands.Pulled) {
	ackTokens := make([]string, len(pulled))
	for i, m := range pulled {
		ackTokens[i] = m.AckToken
	}
	err := t.insist(leaseEnd, func(ctx context.Context) error {
		return t.p.cfg.Commands.ReleaseTokens(ctx, t.id(), ackTokens, 0)
	})
	if err != nil {
		t.p.cfg.Logger.Warn("hand messages back: their leases run out", "subscriptionId", t.id(), "messages", len(pulled), "error", brief(err))
	}
}

// insist tries until it works or is refused, a lease is over, or the target is.
func (t *target) insist(leaseEnd time.Time, try func(context.Context) error) error {
	ctx, cancel := context.WithDeadline(t.settling.ctx, leaseEnd)
	defer cancel()
	b := newBackoff(t.p.pace.retryMin, t.p.pace.retryMax)
	for {
		err := try(ctx)
		if err == nil || isRefusal(err) {
			return nil
		}
		if !pause(ctx, b.next()) {
			return err
		}
	}
}

// settler settles what comes together in one go.
type settler struct {
	t *target

	mu      sync.Mutex
	waiting []settling
	isBusy  bool
}

type settling struct {
	outcome commands.Outcome
	done    chan error
}

// settle tries once.
func (s *settler) settle(ctx context.Context, o commands.Outcome) error {
	one := settling{outcome: o, done: make(chan error, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, one)
	if !s.isBusy {
		s.isBusy = true
		go s.run()
	}
	s.mu.Unlock()
	select {
	case err := <-one.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the log: %w", context.Cause(ctx))
	}
}

// run settles until nobody waits.
func (s *settler) run() {
	for {
		s.mu.Lock()
		batch := s.waiting[:min(len(s.waiting), settleMax)]
		s.waiting = s.waiting[len(batch):]
		if len(batch) == 0 {
			s.waiting, s.isBusy = nil, false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := s.batch(batch)
		for _, one := range batch {
			one.done <- err
		}
	}
}

func (s *settler) batch(batch []settling) error {
	outcomes := make([]commands.Outcome, len(batch))
	for i, one := range batch {
		outcomes[i] = one.outcome
	}
	ctx, cancel := context.WithTimeout(s.t.settling.ctx, settleTime)
	defer cancel()
	results, err := s.t.p.cfg.Commands.Settle(ctx, s.t.id(), outcomes)
	if err != nil {
		return fmt.Errorf("settle %d deliveries: %w", len(batch), err)
	}
	for _, r := range results {
		if r.Err != nil {
			s.t.p.cfg.Logger.Debug("a delivery was settled already", "subscriptionId", s.t.id(), "error", brief(r.Err))
		}
	}
	return nil
}
