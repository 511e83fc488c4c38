package handover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tallymq/tallymq/commands"
)

// window is messages in hand: partitions side by side, each in order.
type window struct {
	q            *queue
	subscription string
	// taken has the tokens of messages that the service has and the log does not know
	// of yet.
	taken chan string

	mu sync.Mutex
	// open are the tokens of what is not settled, as far as is known.
	open map[string]struct{}
}

// handOn returns once everything is settled, or with an error when ctx ends before.
func (q *queue) handOn(ctx context.Context, subscriptionID string, pulled []commands.Pulled) error {
	w := &window{q: q, subscription: subscriptionID, taken: make(chan string, len(pulled)), open: map[string]struct{}{}}
	// Retries came first; within the window they have their place again.
	slices.SortFunc(pulled, func(a, b commands.Pulled) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	partitions := map[int][]commands.Pulled{}
	for _, m := range pulled {
		w.open[m.AckToken] = struct{}{}
		partitions[m.Partition] = append(partitions[m.Partition], m)
	}
	q.link.health.inHand(len(pulled))
	defer func() { q.link.health.inHand(-len(pulled)) }()
	leases, stopExtending := context.WithCancel(ctx)
	var sending, others sync.WaitGroup
	others.Go(func() { w.extend(leases) })
	others.Go(func() { w.settleTaken(ctx) })
	for _, messages := range partitions {
		sending.Go(func() { w.partition(ctx, messages) })
	}
	sending.Wait()
	close(w.taken)
	stopExtending()
	others.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("hand on messages of %s: %w", q.name, context.Cause(ctx))
	}
	return nil
}

func (w *window) partition(ctx context.Context, messages []commands.Pulled) {
	for _, m := range messages {
		refused, ok := w.offer(ctx, m)
		switch {
		case ctx.Err() != nil && !ok:
			return
		case !ok:
		case refused == "":
			w.q.link.health.handedOn(1)
			w.taken <- m.AckToken
		default:
			w.q.f.cfg.Logger.Error("message refused; it is a dead letter now", "queue", w.q.name, "messageId", m.MessageID, "error", refused)
			w.settle(ctx, []string{m.AckToken}, func(ctx context.Context, tokens []string) ([]commands.Settled, error) {
				return w.q.f.cfg.Commands.DeadLetter(ctx, w.q.caller(), w.subscription, tokens, refused)
			})
		}
	}
}

// offer offers a message until it is taken or refused for good, and returns why it was
// refused. ok is false when ctx ended before, or the message is not ours any more.
func (w *window) offer(ctx context.Context, m commands.Pulled) (refused string, ok bool) {
	b, t := w.q.f.backoff(), w.q.link.trouble()
	defer t.over()
	for refusals := 0; ; {
		a := w.q.link.post(ctx, messageHeader(w.q.name, m), m.Payload)
		switch {
		case a.isTaken():
			return "", true
		case ctx.Err() != nil:
			return "", false
		case a.isRefused():
			if refusals++; refusals == RefusalsMax {
				return brief(a.problem()), true
			}
		}
		t.say(a.problem(), "messageId", m.MessageID)
		if !pause(ctx, b.next(a.retryAfter)) || !w.isOpen(m.AckToken) {
			return "", false
		}
	}
}

// settleTaken acks what was taken, as much at once as there is, until there is no more.
func (w *window) settleTaken(ctx context.Context) {
	for token := range w.taken {
		tokens := []string{token}
		for more := true; more; {
			select {
			case token, ok := <-w.taken:
				if more = ok; ok {
					tokens = append(tokens, token)
				}
			default:
				more = false
			}
		}
		w.settle(ctx, tokens, func(ctx context.Context, tokens []string) ([]commands.Settled, error) {
			return w.q.f.cfg.Commands.Ack(ctx, w.q.caller(), w.subscription, tokens)
		})
	}
}

// settle tells the log what became of messages, until it knows. A lease that is lost
// was settled already, or the message comes again. When ctx ends it goes on for a
// moment, so that a shutdown repeats little.
func (w *window) settle(ctx context.Context, tokens []string, settle func(context.Context, []string) ([]commands.Settled, error)) {
	b, t := w.q.f.backoff(), w.q.link.trouble()
	defer t.over()
	for {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		_, err := settle(ending, tokens)
		cancel()
		if err == nil || isRefusal(err) {
			w.close(tokens)
			return
		}
		t.say(err)
		if !pause(ctx, b.next(0)) {
			return
		}
	}
}

// isRefusal reports that asking again brings the same answer: what was to be settled is
// gone.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*commands.Refusal](err)
	return ok
}

func (w *window) close(tokens []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, token := range tokens {
		delete(w.open, token)
	}
}

func (w *window) isOpen(token string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.open[token]
	return ok
}

// extend renews the leases of what is not settled, until ctx ends. What turns out to be
// lost (purged, or its subscription deleted) is not offered any more.
func (w *window) extend(ctx context.Context) {
	for pause(ctx, w.q.f.pace.extendEvery) {
		w.mu.Lock()
		tokens := slices.Collect(maps.Keys(w.open))
		w.mu.Unlock()
		if len(tokens) == 0 {
			continue
		}
		results, err := w.q.f.cfg.Commands.Extend(ctx, w.q.caller(), w.subscription, tokens, LeaseMs)
		switch {
		case err != nil && isRefusal(err):
			w.close(tokens)
		case err != nil && ctx.Err() == nil:
			w.q.f.cfg.Logger.Warn("renew leases of what is being handed on", "queue", w.q.name, "error", brief(err))
		}
		for _, r := range results {
			if r.Err != nil {
				w.close([]string{r.AckToken})
			}
		}
	}
}
