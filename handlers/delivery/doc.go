// Package delivery pushes the messages of webhook subscriptions to their endpoints, on one
// Watermill Router per instance: one handler per active subscription, which comes, changes
// and goes with it while the Router runs.
//
// A message is one POST per attempt. 2xx settles it; everything else, no answer too, fails
// the attempt, and what follows from that (another attempt after which delay, a dead
// letter) is the dispatcher's to decide. 410 stops the subscription, and 429 and 503 with
// Retry-After are left alone for that long. It guarantees that
//   - an endpoint never sees more attempts than the log records: what was sent is settled,
//     again and again until its lease is over, and then the lease's end records it. What
//     was not sent is handed back and no failure;
//   - a lease outlives its request: a request may take as long as the webhook's timeout
//     says, but at most sessionTimeoutMs less 1 s (and where that is less than 500 ms,
//     500 ms) from when the message was leased;
//   - leases are taken for requests that can begin, so no message waits in a queue of this
//     instance: at most concurrency requests are under way for a subscription, at most
//     [RequestsMax] for all, and where a rate is set they begin no faster;
//   - an endpoint that fails is left alone: after breakerFailures failures one after the
//     other nothing is leased for 1 s, then for twice as long each time, up to 60 s, with
//     one message in between. Where that lasts longer than pauseAfterMs, the subscription
//     is paused. Each instance counts for itself, and anew when the configuration changes;
//   - an idle subscription costs a few sleeping goroutines: nothing is polled.
//
// The chain of middleware, outermost first, is Watermill's CorrelationID and
// PoisonQueueWithFilter (the publisher of which makes dead letters), [Pusher.DelayedRetry],
// and Watermill's Timeout, CircuitBreaker and Recoverer.
//
// A request has the payload as its body, the subscription's own headers, the message's as
// X-Message-<name>, X-Tallymq-Queue, X-Tallymq-Attempt, X-Tallymq-Message-Key,
// X-Correlation-Id and traceparent; with cloudEvents it is CloudEvents 1.0 in binary mode.
// Values are percent-encoded as CloudEvents' HTTP binding says in section 3.1.3.2. Data
// that came in as a CloudEvent's text or bytes leave as those. webhook-id and the
// signature are the [Sender]'s.
//
// It imports package commands, Watermill's Router, gobreaker and x/time/rate.
package delivery
