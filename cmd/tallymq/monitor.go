package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/monitor"
	"github.com/tallymq/tallymq/handlers/query"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/infra/telemetry"
	"github.com/tallymq/tallymq/queries"
)

const (
	// postEvery is how often an instance leaves what it measured for the others, and
	// postTTL for how long that counts.
	postEvery = 5 * time.Second
	postTTL   = 3 * postEvery
)

// startTelemetry sets up what measures an instance.
func (s *service) startTelemetry(ctx context.Context) error {
	var err error
	if s.tracing, err = telemetry.NewTracing(ctx, telemetry.TracingConfig{Version: version, Logger: s.logger}); err != nil {
		return fmt.Errorf("%w: tracing: %w", errFinal, err)
	}
	if s.cfg.IsMetricsEnabled {
		s.metrics = telemetry.NewMetrics(telemetry.Config{Version: version, Gauges: s.queueGauges, Now: time.Now})
		s.window = telemetry.NewWindow(time.Now)
	}
	s.observer = telemetry.NewObserver(s.metrics, s.window)
	return nil
}

// postMeasures leaves what this instance measured on the board until ctx ends.
func (s *service) postMeasures(ctx context.Context) {
	if s.window == nil {
		return
	}
	ticker := time.NewTicker(postEvery)
	defer ticker.Stop()
	for {
		if err := s.log.Post(ctx, s.instance, s.window.Snapshot(), postTTL); err != nil && ctx.Err() == nil {
			s.logger.Debug("post what was measured", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// folded measures and traces what a projector committed.
func (s *service) folded(shard int, records []events.Record) {
	last := records[len(records)-1].Position
	s.observer.Folded(shard, len(records), max(time.Now().UnixMilli()-last.Ms(), 0))
	if !s.tracing.On() {
		return
	}
	var stored []string
	for i := range records {
		if e, ok := records[i].Event.(events.MessagePublished); ok && e.TraceParent != "" {
			stored = append(stored, e.TraceParent)
		}
		if e, ok := records[i].Event.(events.MessageScheduled); ok && e.TraceParent != "" {
			stored = append(stored, e.TraceParent)
		}
	}
	if len(stored) > 0 {
		_, end := s.tracing.Fold(context.Background(), stored, shard, len(records))
		end(nil)
	}
}

// traced notes that a message was handed out, linked to the trace that it was published
// in.
func (s *service) traced(ctx context.Context, traceParent, tenantID, queue, group, messageID string) {
	if !s.tracing.On() {
		return
	}
	_, end := s.tracing.Consume(ctx, traceParent, telemetry.MessageSpan{TenantID: tenantID, Queue: queue, Group: group, MessageID: messageID})
	end(nil)
}

// liveQueues are queues with their live states: a tenant's, or with "" all.
func (s *service) liveQueues(ctx context.Context, tenantID string) (refs []queries.QueueRef, states []redis.TopicState, isTruncated bool, err error) {
	refs, err = queries.QueueRefs(ctx, s.reader(tenantID, tenantID == ""), tenantID, monitor.QueuesMax+1)
	if err != nil {
		return nil, nil, false, err //nolint:wrapcheck // says what it does
	}
	if len(refs) > monitor.QueuesMax {
		refs, isTruncated = refs[:monitor.QueuesMax], true
	}
	topics := make([]redis.TopicRef, len(refs))
	for i, r := range refs {
		topics[i] = redis.TopicRef{Shard: r.Shard, Partitions: r.PartitionCount, TopicID: r.ID}
	}
	states, err = s.log.TopicStates(ctx, topics)
	return refs, states, isTruncated, err //nolint:wrapcheck // says what it does
}

// queueGauges are the queues as a scrape shows them.
func (s *service) queueGauges(ctx context.Context) ([]telemetry.QueueGauge, error) {
	refs, states, _, err := s.liveQueues(ctx, "")
	if err != nil {
		return nil, err
	}
	out := make([]telemetry.QueueGauge, len(refs))
	for i, r := range refs {
		state := countState(states[i])
		out[i] = telemetry.QueueGauge{TenantID: r.TenantID, Queue: r.Name, DepthMessages: state.Depth}
		for _, g := range state.Groups {
			gauge := telemetry.GroupGauge{Group: g.ConsumerGroup, LagMessages: g.Lag, PendingMessages: g.Pending}
			if g.OldestUnackedMs != nil {
				gauge.OldestUnacked = time.Duration(*g.OldestUnackedMs) * time.Millisecond
			}
			out[i].Groups = append(out[i].Groups, gauge)
		}
	}
	return out, nil
}

// measure puts together what is known of queues now and what instances measured.
func (s *service) measure(ctx context.Context, tenantID string) (monitor.Metrics, error) {
	refs, states, isTruncated, err := s.liveQueues(ctx, tenantID)
	if err != nil {
		return monitor.Metrics{}, err
	}
	posts, err := s.log.Posts(ctx, s.instance)
	if err != nil {
		return monitor.Metrics{}, err //nolint:wrapcheck // says what it does
	}
	if s.window != nil {
		posts = append(posts, s.window.Snapshot())
	}
	summary := telemetry.MergeOf(posts, tenantID)
	m := monitor.Metrics{IsTruncated: isTruncated, Topics: []monitor.Topic{}, Consumers: []monitor.Consumer{}}
	rates := map[[2]string]telemetry.Rates{}
	for _, t := range summary.Topics {
		rates[[2]string{t.TenantID, t.Topic}] = t.Rates
	}
	groups := map[[3]string]telemetry.Rates{}
	for _, g := range summary.Groups {
		groups[[3]string{g.TenantID, g.Topic, g.Group}] = g.Rates
	}
	for i, r := range refs {
		state := countState(states[i])
		m.Topics = append(m.Topics, topicMetrics(r, state, rates[[2]string{r.TenantID, r.Name}]))
		active := map[string]int64{}
		for _, retry := range states[i].Retries {
			active[retry.Group] = retry.Active
		}
		for _, g := range state.Groups {
			m.Consumers = append(m.Consumers, consumerMetrics(r, g, active[g.ConsumerGroup], groups[[3]string{r.TenantID, r.Name, g.ConsumerGroup}]))
		}
		addTotals(&m.Document, state)
	}
	for _, c := range m.Consumers {
		m.Document.Consumers.ActiveConsumers += c.ActiveConsumers
		m.Document.Consumers.TotalLag += c.Lag
	}
	total := summary.Total
	m.Document.Consumers.ProcessingRate, m.Document.Consumers.ErrorRate = total.AckedPerSecond, total.ErrorRate
	m.Document.Performance = monitor.Performance{
		AverageLatency: total.Delivery.AverageMs, P95Latency: total.Delivery.P95Ms, P99Latency: total.Delivery.P99Ms, Throughput: total.PublishedPerSecond,
	}
	return m, nil
}

func addTotals(d *monitor.Document, state query.State) {
	d.RedisStreams.TotalStreams += int64(len(state.Partitions))
	d.RedisStreams.TotalConsumerGroups += int64(len(state.Groups))
	d.RedisStreams.PendingMessages += state.Pending
	for _, p := range state.Partitions {
		d.RedisStreams.TotalMessages += p.Held
	}
}

func topicMetrics(r queries.QueueRef, state query.State, rates telemetry.Rates) monitor.Topic {
	return monitor.Topic{
		TenantID: r.TenantID, Queue: r.Name, TopicID: r.ID, Depth: state.Depth, Pending: state.Pending, Lag: state.Lag, OldestUnackedMs: state.OldestUnackedMs,
		PublishRate: rates.PublishedPerSecond, DeliveryRate: rates.DeliveredPerSecond, AckRate: rates.AckedPerSecond, FailureRate: rates.FailedPerSecond,
		DeadLetterRate: rates.DeadLetteredPerSecond, AverageLatency: rates.Delivery.AverageMs, P95Latency: rates.Delivery.P95Ms, P99Latency: rates.Delivery.P99Ms,
	}
}

func consumerMetrics(r queries.QueueRef, g query.GroupState, active int64, rates telemetry.Rates) monitor.Consumer {
	return monitor.Consumer{
		TenantID: r.TenantID, Queue: r.Name, ConsumerGroup: g.ConsumerGroup, ActiveConsumers: active, Lag: g.Lag, Pending: g.Pending,
		Retrying: g.Retrying, OldestUnackedMs: g.OldestUnackedMs, DeliveryRate: rates.DeliveredPerSecond, AckRate: rates.AckedPerSecond,
		ErrorRate: rates.ErrorRate, AverageProcessingMs: rates.Processing.AverageMs, P95ProcessingMs: rates.Processing.P95Ms, P99ProcessingMs: rates.Processing.P99Ms,
	}
}
