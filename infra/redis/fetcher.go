package redis

import "time"

// claimFromStart is where a scan of the group's pending entries starts and, as
// XAUTOCLAIM has it, ends.
const claimFromStart = "0-0"

// fetcher fills a subscription's window: first with what this consumer left pending
// before, then, when it is time, with what dead consumers left, else with what is
// new. After an error it looks at what is pending once more, because a read whose
// answer was lost leaves entries there.
type fetcher struct {
	*subscription

	// resuming is true until all that is pending was looked at; resumeFrom is where
	// to go on.
	resuming   bool
	resumeFrom string
	claimFrom  string
	claimAt    time.Time
}

func newFetcher(s *subscription) *fetcher {
	return &fetcher{subscription: s, resuming: true, resumeFrom: "-", claimFrom: claimFromStart}
}

func (f *fetcher) run() {
	retry := f.retrier("read messages")
	for {
		room, ok := f.room()
		if !ok {
			return
		}
		entries, err := f.next(min(room, batchMax))
		if err != nil {
			f.resuming, f.resumeFrom = true, "-"
			// Others could not say that they are alive either: let them first.
			f.claimFrom, f.claimAt = claimFromStart, time.Now().Add(f.cfg.holdInterval())
			f.failed(f.reading, retry, err)
			continue
		}
		retry.succeeded()
		if f.stopping() {
			f.release(entries, false)
			return
		}
		for _, e := range entries {
			f.admit(e)
		}
	}
}

// room returns how many entries the window has room for, once it has, or false when
// the subscription ends.
func (f *fetcher) room() (int, bool) {
	for {
		n, changed := f.window.load()
		if f.stopping() {
			return 0, false
		}
		if n < f.window.size {
			return f.window.size - n, true
		}
		select {
		case <-changed:
		case <-f.reading.Done():
		}
	}
}

// admit takes an entry into the window. An entry that is in flight already came
// again because Redis lost that it was read; the ack to come settles it.
func (f *fetcher) admit(e *groupEntry) {
	if f.window.add(e) {
		f.ready <- e
	}
}

func (f *fetcher) next(count int) ([]*groupEntry, error) {
	untilClaim := time.Until(f.claimAt)
	switch {
	case f.resuming:
		return f.resume(count)
	case untilClaim <= 0:
		return f.takeOver(count)
	default:
		return f.read(count, min(f.cfg.Block, untilClaim))
	}
}

// resume takes up what is pending for this consumer and not in flight.
func (f *fetcher) resume(count int) ([]*groupEntry, error) {
	pending, err := f.pending(f.resumeFrom, count)
	if err != nil {
		return nil, err
	}
	if len(pending) < count {
		f.resuming = false
	}
	if len(pending) > 0 {
		f.resumeFrom = "(" + pending[len(pending)-1]
	}
	return f.take(f.unknown(pending))
}

// takeOver takes up what dead consumers left. A scan that is not at its end goes on
// when there is room again.
func (f *fetcher) takeOver(count int) ([]*groupEntry, error) {
	claimed, next, err := f.claim(f.claimFrom, count)
	if err != nil {
		return nil, err
	}
	f.claimFrom = next
	if next == claimFromStart {
		f.claimAt = time.Now().Add(f.cfg.ClaimInterval)
	}
	entries, err := f.take(f.unknown(claimed))
	if len(entries) > 0 {
		f.logger.Info("messages taken over from other consumers", "messages", len(entries))
	}
	return entries, err
}

func (f *fetcher) unknown(ids []string) []string {
	var unknown []string
	for _, id := range ids {
		if !f.window.known(id) {
			unknown = append(unknown, id)
		}
	}
	return unknown
}
