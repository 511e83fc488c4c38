package telemetry

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of a delivery, as Settled takes them. Any other counts as a failure.
const (
	OutcomeAcked      = "acked"
	OutcomeRetrying   = "retrying"
	OutcomeDeadLetter = "dead_letter"
)

// Series are what vectors would look up by hashing labels, found once.
type (
	topicSeries struct {
		published, bytes     prometheus.Counter
		delivery, processing prometheus.Observer
	}
	groupSeries struct {
		labels                 triple
		topic                  *topicSeries
		consumed, deadLettered prometheus.Counter
		failed                 *table[string, prometheus.Counter]
	}
	shardSeries struct {
		commits, events prometheus.Counter
		active          prometheus.Gauge
	}
)

// Published counts a publish request that was answered.
func (m *Metrics) Published(tenantID, queue string, messages, bytes int, took time.Duration) {
	s := m.topic(pair{tenantID, queue})
	s.published.Add(float64(max(messages, 0)))
	s.bytes.Add(float64(max(bytes, 0)))
	m.publish.Observe(took.Seconds())
}

// Delivered counts a message that was handed to a consumer, waited after it was
// published.
func (m *Metrics) Delivered(tenantID, queue, group string, waited time.Duration) {
	m.group(triple{tenantID, queue, group}).topic.delivery.Observe(max(waited, 0).Seconds())
}

// Settled counts the end of a delivery. The reason is for failures; the processing
// time is reported for acknowledgements.
func (m *Metrics) Settled(tenantID, queue, group, outcome, reason string, processing time.Duration) {
	s := m.group(triple{tenantID, queue, group})
	if outcome == OutcomeAcked {
		s.consumed.Inc()
		s.topic.processing.Observe(max(processing, 0).Seconds())
		return
	}
	m.failure(s, reason).Inc()
	if outcome == OutcomeDeadLetter {
		s.deadLettered.Inc()
	}
}

// Refused counts a command that was refused with an error code.
func (m *Metrics) Refused(code string) {
	code = m.bounds.code(code)
	c, ok := m.codes.get(code)
	if !ok {
		c, _ = m.codes.add(code, func() prometheus.Counter { return m.vecs.refusals.WithLabelValues(code) })
	}
	c.Inc()
}

// Folded counts a transaction of the projector, and how far behind it left the shard.
func (m *Metrics) Folded(shard, events int, lagMs int64) {
	s := m.shard(shard)
	s.commits.Inc()
	s.events.Add(float64(max(events, 0)))
	m.vecs.lagSeconds.WithLabelValues(strconv.Itoa(shard)).Set(float64(max(lagMs, 0)) / 1000)
}

// Forget drops the series of a topic or queue that was deleted, and so makes room for
// another. What is observed of it later begins anew at 0.
func (m *Metrics) Forget(tenantID, queue string) {
	p := pair{tenantID, queue}
	m.bounds.forget(p)
	labels := pair{valid(tenantID), valid(queue)}
	m.topics.retain(func(k pair, _ *topicSeries) bool { return k != labels })
	m.groups.retain(func(k triple, _ *groupSeries) bool { return pair{k.tenant, k.topic} != labels })
	m.vecs.forget(labels)
}

// topic finds a topic's series. A pair that found no room is looked up twice.
func (m *Metrics) topic(p pair) *topicSeries {
	if s, ok := m.topics.get(p); ok {
		return s
	}
	return m.topicOf(m.bounds.pair(p))
}

func (m *Metrics) topicOf(labels pair) *topicSeries {
	if s, ok := m.topics.get(labels); ok {
		return s
	}
	s, _ := m.topics.add(labels, func() *topicSeries {
		return &topicSeries{
			published:  m.vecs.published.WithLabelValues(labels.tenant, labels.topic),
			bytes:      m.vecs.publishedBytes.WithLabelValues(labels.tenant, labels.topic),
			delivery:   m.vecs.deliverySeconds.WithLabelValues(labels.tenant, labels.topic),
			processing: m.vecs.processSeconds.WithLabelValues(labels.tenant, labels.topic),
		}
	})
	return s
}

func (m *Metrics) group(t triple) *groupSeries {
	if s, ok := m.groups.get(t); ok {
		return s
	}
	labels := m.bounds.triple(t)
	if s, ok := m.groups.get(labels); ok {
		return s
	}
	s, _ := m.groups.add(labels, func() *groupSeries {
		return &groupSeries{
			labels:       labels,
			topic:        m.topicOf(pair{labels.tenant, labels.topic}),
			consumed:     m.vecs.consumed.WithLabelValues(labels.tenant, labels.topic, labels.group),
			deadLettered: m.vecs.deadLettered.WithLabelValues(labels.tenant, labels.topic, labels.group),
			failed:       newTable[string, prometheus.Counter](ReasonsMax + 1),
		}
	})
	return s
}

func (m *Metrics) failure(s *groupSeries, reason string) prometheus.Counter { //nolint:ireturn // counters are an interface
	reason = m.bounds.reason(reason)
	if c, ok := s.failed.get(reason); ok {
		return c
	}
	c, _ := s.failed.add(reason, func() prometheus.Counter {
		return m.vecs.failed.WithLabelValues(s.labels.tenant, s.labels.topic, s.labels.group, reason)
	})
	return c
}

func (m *Metrics) shard(shard int) *shardSeries {
	if s, ok := m.shards.get(shard); ok {
		return s
	}
	s, _ := m.shards.add(shard, func() *shardSeries {
		label := strconv.Itoa(shard)
		return &shardSeries{
			commits: m.vecs.commits.WithLabelValues(label),
			events:  m.vecs.events.WithLabelValues(label),
			active:  m.vecs.active.WithLabelValues(label),
		}
	})
	return s
}
