package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
)

// Limits of reading the state of queues for a scrape.
const (
	// GaugesEvery is how long a reading, or the failure to read, is kept.
	GaugesEvery = 5 * time.Second
	// GaugesTimeout bounds a reading, and how long a scrape waits for one.
	GaugesTimeout = 2 * time.Second
)

// QueueGauge is the state of a queue or topic.
type QueueGauge struct {
	TenantID, Queue string
	// DepthMessages are not settled yet, whoever they wait for.
	DepthMessages int64
	Groups        []GroupGauge
}

// GroupGauge is the state of a queue's consumer group.
type GroupGauge struct {
	Group string
	// OldestUnacked is the age of the oldest message the group has not settled; 0
	// for none.
	OldestUnacked time.Duration
	// LagMessages were not delivered to the group yet.
	LagMessages int64
	// PendingMessages are leased and not settled.
	PendingMessages int64
}

// gauges collects the state of queues when a scrape asks for it.
type gauges struct {
	cfg    Config
	bounds *bounds

	oldest, lag, pending, depth *prometheus.Desc
	errors                      prometheus.Counter

	// reading is shared by the scrapes that wait for it. One that outlives its
	// scrape is waited for by the next, so there is never a second.
	reading singleflight.Group
	mu      sync.Mutex
	readAt  time.Time
	read    []QueueGauge
	readErr error
}

func newGauges(cfg Config, b *bounds) *gauges {
	group := []string{"tenant", "topic", "group"}
	return &gauges{
		cfg: cfg, bounds: b,
		oldest:  prometheus.NewDesc("mq_subscription_oldest_unacked_seconds", "Age of the oldest message that a consumer group has not settled; 0 for none.", group, nil),
		lag:     prometheus.NewDesc("mq_subscription_lag_messages", "Messages not delivered to a consumer group yet.", group, nil),
		pending: prometheus.NewDesc("mq_subscription_pending_messages", "Messages that a consumer group holds leases of.", group, nil),
		depth:   prometheus.NewDesc("mq_queue_depth_messages", "Messages not settled yet.", []string{"tenant", "topic"}, nil),
		errors:  prometheus.NewCounter(prometheus.CounterOpts{Name: "mq_scrape_errors_total", Help: "Readings of the state of queues that failed; their scrapes leave it out."}),
	}
}

// Describe is part of prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.oldest, g.lag, g.pending, g.depth, g.errors.Desc()} {
		out <- d
	}
}

// Collect is part of prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	queues, groups := g.sums(g.queues())
	for labels, depth := range queues {
		out <- prometheus.MustNewConstMetric(g.depth, prometheus.GaugeValue, float64(depth), labels.tenant, labels.topic)
	}
	for labels, v := range groups {
		for desc, value := range map[*prometheus.Desc]float64{
			g.oldest: v.OldestUnacked.Seconds(), g.lag: float64(v.LagMessages), g.pending: float64(v.PendingMessages),
		} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels.tenant, labels.topic, labels.group)
		}
	}
	// last, so that this scrape's own failure is in it
	out <- g.errors
}

// sums adds up what has the same labels, so that none appears twice.
func (g *gauges) sums(read []QueueGauge) (map[pair]int64, map[triple]GroupGauge) {
	queues, groups := map[pair]int64{}, map[triple]GroupGauge{}
	for _, q := range read {
		queues[g.bounds.pair(pair{q.TenantID, q.Queue})] += q.DepthMessages
		for _, v := range q.Groups {
			labels := g.bounds.triple(triple{q.TenantID, q.Queue, v.Group})
			sum := groups[labels]
			sum.OldestUnacked = max(sum.OldestUnacked, v.OldestUnacked)
			sum.LagMessages += v.LagMessages
			sum.PendingMessages += v.PendingMessages
			groups[labels] = sum
		}
	}
	return queues, groups
}

// queues returns the state of queues; none if it cannot be had in time.
func (g *gauges) queues() []QueueGauge {
	result := g.reading.DoChan("", func() (any, error) {
		return g.refreshed(), nil
	})
	timeout := time.NewTimer(g.cfg.GaugesTimeout)
	defer timeout.Stop()
	select {
	case r := <-result:
		read, _ := r.Val.([]QueueGauge)
		return read
	case <-timeout.C:
		// counted when the reading ends, as an error
		return nil
	}
}

// refreshed reads anew if the last reading is too old.
func (g *gauges) refreshed() []QueueGauge {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.cfg.Now(); g.readAt.IsZero() || now.Sub(g.readAt) >= g.cfg.GaugesEvery {
		g.readAt = now
		g.read, g.readErr = g.call()
		if g.readErr != nil {
			g.read = nil
			g.errors.Inc()
		}
	}
	return g.read
}

var errLate = errors.New("the reading took too long")

// call reads once. A panic of the reader must not end the service.
func (g *gauges) call() (read []QueueGauge, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.GaugesTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read the state of queues: panic: %v", p)
		}
	}()
	read, err = g.cfg.Gauges(ctx)
	if err == nil && ctx.Err() != nil {
		err = errLate
	}
	return read, err
}
