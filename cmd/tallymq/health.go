package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tallymq/tallymq/handlers/handover"
	"github.com/tallymq/tallymq/handlers/monitor"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/redis"
)

// Limits of health: past them a component works, but badly.
const (
	// checkTimeout bounds the look at one component.
	checkTimeout = 2 * time.Second
	// slowAfter is how long a store may take to answer.
	slowAfter = 250 * time.Millisecond
	// foldLateAfter is for how long events may wait to be folded.
	foldLateAfter = 10 * time.Second
	// healthFresh is for how long a look stands for who asks meanwhile.
	healthFresh = time.Second
)

// health looks at the components, at most once in healthFresh.
type health struct {
	s *service

	mu   sync.Mutex
	last monitor.Health
	at   time.Time
}

// now returns the components' health.
func (h *health) now() monitor.Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) < healthFresh {
		return h.last
	}
	h.last, h.at = h.look(), time.Now()
	return h.last
}

// run looks every interval until ctx ends, so that metrics are fresh though nobody asks.
func (h *health) run(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	was := ""
	for {
		if now := h.now(); now.Status != was {
			if was != "" {
				h.s.logger.Warn("health changed", "from", was, "to", now.Status, "why", reasons(now))
			}
			was = now.Status
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func reasons(h monitor.Health) string {
	var out []string
	for name, c := range h.Components {
		if c.Reason != "" {
			out = append(out, name+": "+c.Reason)
		}
	}
	return strings.Join(out, "; ")
}

func (h *health) look() monitor.Health {
	out := monitor.Health{Status: monitor.StateUp, CheckedAt: web.Time(time.Now()), Components: map[string]monitor.Component{}}
	checks := map[string]func(context.Context) monitor.Component{
		"redis": h.redis, "database": h.database, "queues": h.queues, "consumers": h.consumers,
	}
	if h.s.tokens != nil {
		checks["auth"] = h.auth
	}
	if h.s.handover != nil && len(h.s.handover.Status()) > 0 {
		checks["handover"] = h.handover
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, check := range checks {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
			defer cancel()
			c := check(ctx)
			mu.Lock()
			defer mu.Unlock()
			out.Components[name] = c
		})
	}
	wg.Wait()
	for _, c := range out.Components {
		if c.Status == monitor.StateDown || (c.Status == monitor.StateDegraded && out.Status == monitor.StateUp) {
			out.Status = c.Status
		}
	}
	return out
}

func (h *health) redis(ctx context.Context) monitor.Component {
	c := timed("Redis", func() error { return h.s.redis.Ping(ctx).Err() })
	if reason := h.s.watch.reason(); reason != "" {
		c = monitor.Component{Status: monitor.StateDown, Reason: "its log cannot be used: " + reason}
	}
	if h.s.metrics != nil {
		h.s.metrics.SetRedisUp(c.Status != monitor.StateDown)
	}
	return c
}

func (h *health) database(ctx context.Context) monitor.Component {
	c := timed("Postgres", func() error { return h.s.pool.Ping(ctx) })
	if h.s.metrics != nil {
		h.s.metrics.SetPostgresUp(c.Status != monitor.StateDown)
	}
	return c
}

// timed is the component that answers, or does not.
func timed(name string, ask func() error) monitor.Component {
	began := time.Now()
	err := ask()
	took := time.Since(began)
	if err != nil {
		return monitor.Component{Status: monitor.StateDown, Reason: name + " does not answer"}
	}
	ms := float64(took.Microseconds()) / 1000
	c := monitor.Component{Status: monitor.StateUp, LatencyMs: &ms}
	if took > slowAfter {
		c.Status, c.Reason = monitor.StateDegraded, fmt.Sprintf("%s took %s to answer", name, took.Round(time.Millisecond))
	}
	return c
}

// queues are well while what happens to them is folded soon.
func (h *health) queues(ctx context.Context) monitor.Component {
	c := monitor.Component{Status: monitor.StateUp}
	for shard := range h.s.cfg.Shards {
		lag, err := h.s.log.Lag(ctx, shard)
		if err != nil {
			return monitor.Component{Status: monitor.StateDown, Reason: "the logs cannot be read"}
		}
		if h.s.metrics != nil {
			h.s.metrics.SetProjectionLag(shard, lag.Events, lag.Age)
		}
		if late := lateness(lag); late > foldLateAfter {
			c.Status = monitor.StateDegraded
			c.Reason = fmt.Sprintf("shard %d: %d events wait to be folded, since %s", shard, lag.Events, late.Round(time.Second))
		}
	}
	return c
}

// lateness is for how long events have waited to be folded.
func lateness(lag redis.Lag) time.Duration {
	if lag.Events == 0 {
		return 0
	}
	return lag.Age
}

// consumers are well while leases are given and what is due moves, which both need a
// log that takes scripts.
func (h *health) consumers(ctx context.Context) monitor.Component {
	if err := h.s.log.Check(ctx); err != nil {
		return monitor.Component{Status: monitor.StateDown, Reason: "messages cannot be leased"}
	}
	return monitor.Component{Status: monitor.StateUp}
}

func (h *health) auth(context.Context) monitor.Component {
	if err := h.s.tokens.Ready(); err != nil {
		return monitor.Component{Status: monitor.StateDegraded, Reason: "no keys of the auth service yet: tokens cannot be verified"}
	}
	if err := h.s.tokens.Degraded(); err != nil {
		return monitor.Component{Status: monitor.StateDegraded, Reason: "the auth service does not answer; its last keys are in use"}
	}
	return monitor.Component{Status: monitor.StateUp}
}

// handover is well while the platform's services take what is handed on to them.
func (h *health) handover(context.Context) monitor.Component {
	for _, target := range h.s.handover.Status() {
		if target.State == handover.StateFailing {
			return monitor.Component{Status: monitor.StateDegraded, Reason: target.Name + " is not taken since " + target.Since.UTC().Format(time.RFC3339)}
		}
	}
	return monitor.Component{Status: monitor.StateUp}
}

// status is what runs here.
func (s *service) status() monitor.Status {
	return monitor.Status{
		Service: "tallymq", Version: version, Instance: s.instance, Roles: s.roles.names(), Shards: s.cfg.Shards,
		StartedAt: web.Time(s.startedAt), UptimeMs: time.Since(s.startedAt).Milliseconds(), IsReady: s.ready.Load(),
	}
}
