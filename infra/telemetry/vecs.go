package telemetry

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Buckets in seconds. Requests wait for two stores and long polls for a message;
// messages may wait for their schedule or a consumer, and leases last up to 12 h.
var (
	requestBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	messageBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200}
)

// vecs are all metrics with their names. A vector without labels reports nothing
// until something is set, where a plain gauge would report 0.
type vecs struct {
	published, publishedBytes       *prometheus.CounterVec
	consumed, failed, deadLettered  *prometheus.CounterVec
	publishSeconds                  *prometheus.HistogramVec
	deliverySeconds, processSeconds *prometheus.HistogramVec
	requests                        *prometheus.CounterVec
	requestSeconds                  *prometheus.HistogramVec
	inFlight                        prometheus.Gauge
	refusals                        *prometheus.CounterVec
	lagEvents, lagSeconds, active   *prometheus.GaugeVec
	commits, events                 *prometheus.CounterVec
	redisUp, postgresUp, build      *prometheus.GaugeVec
}

func newVecs() vecs {
	topic, group, shard := []string{"tenant", "topic"}, []string{"tenant", "topic", "group"}, []string{"shard"}
	return vecs{
		published:       counter("mq_messages_published_total", "Messages accepted.", topic...),
		publishedBytes:  counter("mq_messages_published_bytes_total", "Bytes of the payloads accepted.", topic...),
		consumed:        counter("mq_messages_consumed_total", "Messages that a consumer group acknowledged.", group...),
		failed:          counter("mq_messages_failed_total", "Deliveries that failed, whether retried or dead-lettered.", append(slices.Clone(group), "reason")...),
		deadLettered:    counter("mq_messages_dead_lettered_total", "Messages that a consumer group was given up on.", group...),
		publishSeconds:  histogram("mq_publish_duration_seconds", "From a publish request to its answer.", requestBuckets),
		deliverySeconds: histogram("mq_delivery_duration_seconds", "From a message's publication to its being handed to a consumer.", messageBuckets, topic...),
		processSeconds:  histogram("mq_processing_duration_seconds", "From a message's lease to its acknowledgement.", messageBuckets, topic...),
		requests:        counter("mq_http_requests_total", "HTTP requests answered.", "method", "route", "status"),
		requestSeconds:  histogram("mq_http_request_duration_seconds", "From an HTTP request to the end of its answer.", requestBuckets, "method", "route"),
		inFlight:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "mq_http_requests_in_flight", Help: "HTTP requests being answered."}),
		refusals:        counter("mq_refusals_total", "Commands refused, by error code.", "code"),
		lagEvents:       gauge("mq_projection_lag_events", "Events in the log that are not projected yet.", shard...),
		lagSeconds:      gauge("mq_projection_lag_seconds", "How far in time the shard's projections are behind its log.", shard...),
		active:          gauge("mq_projection_active", "1 where this instance projects the shard.", shard...),
		commits:         counter("mq_projection_commits_total", "Transactions of the projector.", shard...),
		events:          counter("mq_projection_events_total", "Events projected.", shard...),
		redisUp:         gauge("mq_redis_up", "1 while Redis answers."),
		postgresUp:      gauge("mq_postgres_up", "1 while Postgres answers."),
		build:           gauge("mq_build_info", "1; the version is a label.", "version"),
	}
}

func (v vecs) all() []prometheus.Collector {
	return []prometheus.Collector{
		v.published, v.publishedBytes, v.consumed, v.failed, v.deadLettered,
		v.publishSeconds, v.deliverySeconds, v.processSeconds,
		v.requests, v.requestSeconds, v.inFlight, v.refusals,
		v.lagEvents, v.lagSeconds, v.active, v.commits, v.events,
		v.redisUp, v.postgresUp, v.build,
	}
}

// forget drops a topic's series and those of its groups.
func (v vecs) forget(p pair) {
	labels := prometheus.Labels{"tenant": p.tenant, "topic": p.topic}
	for _, vec := range []interface {
		DeletePartialMatch(labels prometheus.Labels) int
	}{
		v.published, v.publishedBytes, v.consumed, v.failed, v.deadLettered, v.deliverySeconds, v.processSeconds,
	} {
		vec.DeletePartialMatch(labels)
	}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
}

// histogram is a classic one: a native one would allocate when it meets a new bucket.
func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}
