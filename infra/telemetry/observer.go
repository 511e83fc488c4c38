package telemetry

import "time"

// Observer tells [Metrics] and [Window] what the service did. Its methods take plain
// types, so that those who call it declare the interface they need.
type Observer struct {
	metrics *Metrics
	window  *Window
}

// NewObserver returns an observer of either or both; nil stands for none.
func NewObserver(metrics *Metrics, window *Window) *Observer {
	return &Observer{metrics: metrics, window: window}
}

// Published says that a request to publish messages to a queue or topic was answered.
// bytes are those of the payloads; took is from request to answer.
func (o *Observer) Published(tenantID, queue string, messages, bytes int, took time.Duration) {
	if o.metrics != nil {
		o.metrics.Published(tenantID, queue, messages, bytes, took)
	}
	if o.window != nil {
		o.window.Published(tenantID, queue, messages)
	}
}

// Delivered says that a message was handed to a consumer, waited after it was
// published.
func (o *Observer) Delivered(tenantID, queue, group string, waited time.Duration) {
	if o.metrics != nil {
		o.metrics.Delivered(tenantID, queue, group, waited)
	}
	if o.window != nil {
		o.window.Delivered(tenantID, queue, group, waited)
	}
}

// Settled says that a delivery ended: acked, retrying or dead_letter. reason is one of
// a few words, for those that failed; processing is the time since the lease.
func (o *Observer) Settled(tenantID, queue, group, outcome, reason string, processing time.Duration) {
	if o.metrics != nil {
		o.metrics.Settled(tenantID, queue, group, outcome, reason, processing)
	}
	if o.window != nil {
		o.window.Settled(tenantID, queue, group, outcome, processing)
	}
}

// Refused says that a command was refused with an error code.
func (o *Observer) Refused(code string) {
	if o.metrics != nil {
		o.metrics.Refused(code)
	}
}

// Folded says that a shard's projector committed events, and how far in time it was
// behind the log by then.
func (o *Observer) Folded(shard, events int, lagMs int64) {
	if o.metrics != nil {
		o.metrics.Folded(shard, events, lagMs)
	}
}
