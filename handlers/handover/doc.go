// Package handover hands messages of the platform's own queues and the lifecycle events
// of all tenants on to other services over HTTP.
//
// It guarantees that a service gets everything at least once: a message is settled, and
// a shard's checkpoint moves, after the service has answered 2xx. A queue's messages of
// one key come in the order of their publishing and a shard's events in the order of its
// log, one request after the other; that is the order in which each is received first.
// What was under way when either side ended comes again, so receivers recognize ids.
//
// Over all instances one is active; the others stand by. Losing the connection that holds
// the lock ends all it does, and whoever is next goes on where it was, without waiting
// for its leases. A service that is slow, away or refusing holds up nothing but what is
// meant for it, memory is bounded, and nothing is tried more often than a capped backoff
// allows.
//
// A message is a POST to the service's URL as it is configured, in CloudEvents 1.0's
// binary mode: the body is the payload, always JSON; ce-id is the message's id, ce-type
// tallymq.message, ce-source /tenants/<tenant>/queues/<queue>, ce-time when it was
// published, ce-partitionkey its key, ce-partition and ce-offset its place,
// ce-correlationid and traceparent what the producer gave. The message's headers are
// X-Message-<name>, where the name is one that HTTP takes. Values are percent-encoded as
// CloudEvents' HTTP binding says in section 3.1.3.2. Where the message's content type is
// not JSON, the body is still its payload's JSON, and ce-messagecontenttype has the type.
//
// Events are POSTs to the same URL, told apart by their content type: arrays of
// CloudEvents (application/cloudevents-batch+json) in the form of GET /events.
//
// Each request has the platform's token in X-Service-Token. 2xx takes what was sent.
// 400, 409, 413, 415 and 422 refuse. All else, no answer and no connection too, is tried
// again for ever, after Retry-After where that is given. A message that is refused [RefusalsMax]
// times becomes a dead letter with the status as its error, and the next one's turn
// comes. Events are never left out, as an audit with a gap is none: they are tried again,
// in smaller batches down to a single one, for ever, while [Forwarder.Status] says what is
// the matter.
//
// It imports packages commands, events and cloudevents, and pgx for its lock and its checkpoints.
package handover
