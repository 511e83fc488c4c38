package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tallymq/tallymq/commands"
)

// follow keeps handlers as subscriptions are, until ctx ends.
func (p *Pusher) follow(ctx context.Context) {
	b := newBackoff(p.pace.retryMin, p.pace.retryMax)
	for ctx.Err() == nil {
		// Asked for before looking: a change in between is not missed.
		changed := p.cfg.Changed()
		began := time.Now()
		next := p.pace.recheck
		if err := p.reconcile(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Logger.Warn("look at webhook subscriptions; trying again", "error", brief(err))
			next = b.next()
		} else {
			b.reset()
		}
		took := time.Since(began)
		timer := time.NewTimer(next)
		select {
		case <-changed:
		case <-p.nudged:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		// However often something changes, looking takes a fifth of the time at most.
		pause(ctx, max(p.pace.debounce, 4*took))
	}
}

// nudge asks for a look at the subscriptions.
func (p *Pusher) nudge() {
	select {
	case p.nudged <- struct{}{}:
	default:
	}
}

// reconcile starts and ends handlers. Where the store does not answer, those there are
// stay as they are.
func (p *Pusher) reconcile(ctx context.Context) error {
	ids, err := p.cfg.List(ctx)
	if err != nil {
		return fmt.Errorf("list webhook subscriptions: %w", err)
	}
	active := make(map[string]commands.Subscription, len(ids))
	for _, id := range ids {
		s, err := p.cfg.Commands.Load(ctx, id)
		if isRefusal(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("load subscription %s: %w", id, err)
		}
		if s.Config.Status == commands.StatusActive && s.Config.SubscriptionType == commands.TypeWebhook {
			active[id] = s
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, t := range p.targets {
		if s, ok := active[id]; !ok || s.Version != t.sub.Version || t.isOver() {
			p.retire(t)
		}
	}
	var added []*target
	for _, id := range slices.Sorted(maps.Keys(active)) {
		// The one before, if any, ends first: their requests together would be too many.
		if _, ok := p.targets[id]; !ok {
			if t := p.add(ctx, active[id]); t != nil {
				added = append(added, t)
			}
		}
	}
	maps.DeleteFunc(p.unreadable, func(id string, _ int64) bool { _, ok := active[id]; return !ok })
	if len(added) == 0 {
		return nil
	}
	// Once for all of them: it looks at every handler.
	if err := p.router.RunHandlers(context.WithoutCancel(ctx)); err != nil {
		for _, t := range added {
			delete(p.targets, t.id())
		}
		return fmt.Errorf("run handlers: %w", err)
	}
	return nil
}

// add makes a handler for a subscription; p.mu is held.
func (p *Pusher) add(ctx context.Context, s commands.Subscription) *target {
	id := s.Config.SubscriptionID
	hook, err := s.Webhook()
	if err != nil {
		if p.unreadable[id] != s.Version {
			p.unreadable[id] = s.Version
			p.cfg.Logger.Error("a subscription's webhook cannot be read; nothing is delivered", "subscriptionId", id, "error", brief(err))
		}
		return nil
	}
	delete(p.unreadable, id)
	p.started++
	t := newTarget(context.WithoutCancel(ctx), p, s, hook)
	name := fmt.Sprintf("%s/%d/%d", id, s.Version, p.started)
	t.handler = p.router.AddConsumerHandler(name, id, t, t.chain())
	p.targets[id] = t
	return t
}

// retire ends a handler, in its own time; p.mu is held.
func (p *Pusher) retire(t *target) {
	if t.isRetiring {
		return
	}
	t.isRetiring = true
	p.retirements.Go(func() {
		t.stop()
		p.mu.Lock()
		delete(p.targets, t.id())
		p.mu.Unlock()
		p.nudge()
	})
}

// isRefusal reports that asking again brings the same answer.
func isRefusal(err error) bool {
	r, ok := errors.AsType[*commands.Refusal](err)
	return ok && r.Code != commands.CodeUnavailable
}
