package redis

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// subscription is one consumer's work on one stream. Its goroutines pass entries on:
//
//	fetch -> ready -> dispatch -> the handler -> acked  -> acknowledge -> done
//	           ^                             \-> nacked -> redeliver -\
//	           \-----------------------------------------------------/
//
// An entry is in the window from fetch until it is acknowledged or released, and
// the channels between have room for a whole window, so none of them ever blocks.
type subscription struct {
	cfg      SubscriberConfig
	stream   string
	consumer string
	logger   *slog.Logger
	window   *window

	ready  chan *groupEntry
	out    chan *message.Message
	acked  chan *groupEntry
	nacked chan *groupEntry

	// reading ends when the subscription is asked to end, work when what was in
	// flight then is settled or DrainTimeout is over. Messages' contexts come from
	// work.
	reading, work       context.Context //nolint:containedctx // the two ends of its goroutines
	stopReading, endAll context.CancelFunc
	goroutines          sync.WaitGroup
}

func newSubscription(ctx context.Context, cfg SubscriberConfig, stream, consumer string) *subscription {
	s := &subscription{
		cfg: cfg, stream: stream, consumer: consumer, window: newWindow(cfg.Window),
		logger: cfg.Logger.With("stream", stream, "group", cfg.Group, "consumer", consumer),
		ready:  make(chan *groupEntry, cfg.Window), acked: make(chan *groupEntry, cfg.Window),
		nacked: make(chan *groupEntry, cfg.Window), out: make(chan *message.Message),
	}
	detached := context.WithoutCancel(ctx)
	s.reading, s.stopReading = context.WithCancel(detached)
	s.work, s.endAll = context.WithCancel(detached)
	return s
}

// run works until ctx ends or closing is closed, and until nothing of it goes on.
func (s *subscription) run(ctx context.Context, closing <-chan struct{}) {
	fetched := make(chan struct{})
	s.goroutines.Go(func() {
		defer close(fetched)
		newFetcher(s).run()
	})
	for _, activity := range []func(){s.dispatch, s.acknowledge, s.redeliver, s.hold} {
		s.goroutines.Go(activity)
	}
	select {
	case <-ctx.Done():
	case <-closing:
	}
	s.stopReading()
	s.drain(fetched)
	s.endAll()
	s.goroutines.Wait()
}

// drain waits until nothing is read any more and nothing is in flight, at most for
// DrainTimeout.
func (s *subscription) drain(fetched <-chan struct{}) {
	limit, cancel := context.WithTimeout(context.WithoutCancel(s.work), s.cfg.DrainTimeout)
	defer cancel()
	select {
	case <-fetched:
	case <-limit.Done():
	}
	for {
		n, changed := s.window.load()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-limit.Done():
			s.logger.Warn("subscription ends with messages in flight, which will be delivered again",
				"messages", n, "limit", s.cfg.DrainTimeout)
			return
		}
	}
}

func (s *subscription) stopping() bool { return s.reading.Err() != nil }

// dispatch hands messages out in the order in which they became ready. What is not
// handed out when the subscription ends goes back.
func (s *subscription) dispatch() {
	for {
		select {
		case e := <-s.ready:
			if s.stopping() || !s.hand(e) {
				s.release(collect(e, s.ready), false)
			}
		case <-s.work.Done():
			return
		}
	}
}

// hand returns false when the subscription ended first.
func (s *subscription) hand(e *groupEntry) bool {
	m, err := decodeMessage(e.values)
	if err != nil {
		s.undecodable(e, err)
		return true
	}
	ctx, cancel := context.WithCancel(context.WithValue(s.work, deliveryKey{}, Delivery{
		Stream: s.stream, EntryID: e.id, Consumer: s.consumer, Count: e.count,
	}))
	m.SetContext(ctx)
	select {
	case s.out <- m:
		s.goroutines.Go(func() {
			defer cancel()
			s.await(e, m, cancel)
		})
		return true
	case <-s.reading.Done():
		cancel()
		return false
	}
}

// undecodable sets aside an entry that is no message. It stays pending, is kept from
// other consumers, which could do no more with it, and takes no room in the window.
func (s *subscription) undecodable(e *groupEntry, err error) {
	if s.window.setAside(e.id) {
		s.logger.Error("entry is not a message: it stays pending and is not delivered", "entry", e.id, "error", err)
	}
	s.window.remove(e)
}

// await passes an entry on when its message is settled. cancel ends the message's
// context.
func (s *subscription) await(e *groupEntry, m *message.Message, cancel context.CancelFunc) {
	select {
	case <-m.Acked():
		e.acked.Store(true)
		cancel()
		s.acked <- e
		return
	case <-m.Nacked():
		cancel()
	case <-s.work.Done():
		return
	}
	delay := time.NewTimer(nackDelay(s.cfg.NackDelay, s.cfg.NackDelayMax, e.count))
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-s.reading.Done():
	}
	s.nacked <- e
}

// acknowledge settles in Redis what was acked. Acks that come while one command is
// under way share the next.
func (s *subscription) acknowledge() {
	retry := s.retrier("acknowledge messages")
	for {
		select {
		case e := <-s.acked:
			batch := collect(e, s.acked)
			if s.insist(s.work, retry, func() error { return s.ack(batch) }) {
				s.window.remove(batch...)
			}
		case <-s.work.Done():
			return
		}
	}
}

// redeliver makes nacked entries ready again, where they are still this consumer's.
// When the subscription ends they go back, to be had when their delay is over.
func (s *subscription) redeliver() {
	retry := s.retrier("redeliver messages")
	for {
		select {
		case e := <-s.nacked:
			batch := collect(e, s.nacked)
			var again []*groupEntry
			taken := s.insist(s.reading, retry, func() (err error) {
				again, err = s.take(ids(batch))
				return err
			})
			if !taken {
				s.release(batch, true)
				continue
			}
			s.window.replace(batch, again)
			for _, e := range again {
				s.ready <- e
			}
		case <-s.work.Done():
			return
		}
	}
}

// hold says, in time, of all that this consumer has that it is being worked on, so
// that it is not taken for dead.
func (s *subscription) hold() {
	ticker := time.NewTicker(s.cfg.holdInterval())
	defer ticker.Stop()
	retry := s.retrier("hold messages")
	for {
		select {
		case <-ticker.C:
			s.insist(s.work, retry, s.holdAll)
		case <-s.work.Done():
			return
		}
	}
}

// insist does something until it succeeds, or returns false when ctx ends first. A
// group that is missing is created.
func (s *subscription) insist(ctx context.Context, retry *retrier, do func() error) bool {
	for ctx.Err() == nil {
		err := do()
		if err == nil {
			retry.succeeded()
			return true
		}
		s.failed(ctx, retry, err)
	}
	return false
}

// failed waits after an error, but for one whose cause it could remove.
func (s *subscription) failed(ctx context.Context, retry *retrier, err error) {
	if isNoGroup(err) {
		var created bool
		if created, err = s.createGroup(); err == nil {
			if created {
				s.logger.Warn("the consumer group was missing: it has been created", "start", s.cfg.Start)
			}
			return
		}
	}
	retry.failed(ctx, err)
}

func (s *subscription) retrier(what string) *retrier {
	return &retrier{what: what, logger: s.logger, delayMax: min(retryDelayMax, s.cfg.holdInterval())}
}

func (c *SubscriberConfig) holdInterval() time.Duration { return c.ClaimIdle / holdsPerClaimIdle }

func ids(entries []*groupEntry) []string {
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.id
	}
	return list
}
