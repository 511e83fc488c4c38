package commands

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/tallymq/tallymq/events"
)

// aborted is the refusal of an atomic batch's other members.
var aborted = refuse(CodePublishFailed, "another message of the atomic batch was refused")

// IsAborted reports whether a message was refused only because another one of its
// atomic batch was.
func IsAborted(err error) bool { return errors.Is(err, aborted) }

// Published is what became of one message: Err, or where it stands.
type Published struct {
	Receipt

	MessageID string
	Queue     string
	Partition int
	Offset    int64
	// ReleaseAtMs is when it is to be published, in ms since 1970; 0 where it is.
	ReleaseAtMs int64
	Err         error

	shard int
}

// Publish publishes messages, each on its own or, with atomic, all or none. It
// answers for every message, in order. Atomic messages share one queue.
func (d *Dispatcher) Publish(ctx context.Context, caller Caller, batch []Publish, atomic bool) ([]Published, error) {
	if err := checkBatch(batch, atomic); err != nil {
		return nil, err
	}
	began := d.cfg.Now()
	run := publishing{d: d, caller: caller, atomic: atomic, batch: batch, results: make([]Published, len(batch))}
	todo := make([]int, len(batch))
	for i := range batch {
		todo[i] = i
		run.results[i] = Published{MessageID: batch[i].ID, Queue: batch[i].Queue}
	}
	for range decideAgainMax {
		if todo = run.once(ctx, todo); len(todo) == 0 {
			break
		}
	}
	for _, i := range todo {
		run.results[i].Err = tooBusy()
	}
	run.awaitFolds(ctx)
	run.observe(d.cfg.Now().Sub(began))
	return run.results, nil
}

// observe tells the observer what was published, queue by queue.
func (p *publishing) observe(took time.Duration) {
	if p.d.cfg.Observer == nil {
		return
	}
	type sum struct{ messages, bytes int }
	sums := map[string]sum{}
	for i := range p.results {
		if r := &p.results[i]; r.Err == nil && !r.Duplicate {
			s := sums[r.Queue]
			sums[r.Queue] = sum{s.messages + 1, s.bytes + len(p.batch[i].Payload)}
		}
	}
	for queue, s := range sums {
		p.d.cfg.Observer.Published(p.caller.TenantID, queue, s.messages, s.bytes, took)
	}
}

func checkBatch(batch []Publish, atomic bool) error {
	var v check
	v.that(len(batch) >= 1 && len(batch) <= BatchMessagesMax, "messages", fmt.Sprintf("1 to %d messages", BatchMessagesMax), fmt.Sprintf("has %d", len(batch)))
	for i := range batch {
		v.that(!atomic || batch[i].Queue == batch[0].Queue, fmt.Sprintf("messages[%d].queue", i), "the first message's queue, for atomic batches", "is another queue")
		isDelayed := batch[i].DelayMs != nil || batch[i].ScheduledAt != nil
		v.that(!atomic || len(batch) == 1 || !isDelayed, fmt.Sprintf("messages[%d].scheduledAt", i), "messages that are published at once, for atomic batches", "is given")
		if len(v.problems) > 0 {
			break
		}
	}
	return v.refusal()
}

// publishing is one Publish on its way.
type publishing struct {
	d       *Dispatcher
	caller  Caller
	atomic  bool
	batch   []Publish
	results []Published
	// folds is what to wait for, by shard.
	folds map[int]fold
}

// once decides and appends the given messages and returns those to decide again.
func (p *publishing) once(ctx context.Context, todo []int) []int {
	now := p.d.cfg.Now()
	byShard := map[int][]int{}
	appends := make([]events.Append, len(p.batch))
	topics := map[string]loaded{}
	var decided []int
	for _, i := range todo {
		shard, a, err := p.decide(ctx, i, now, topics)
		if err != nil {
			p.results[i].Err = err
			continue
		}
		appends[i] = a
		p.results[i].shard = shard
		decided = append(decided, i)
		byShard[shard] = append(byShard[shard], i)
	}
	if p.atomic && len(decided) < len(p.batch) {
		for _, i := range decided {
			p.results[i].Err = aborted
		}
		return nil
	}
	var again []int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for shard, members := range byShard {
		run := func() {
			stale, last := p.append(ctx, shard, members, appends)
			mu.Lock()
			defer mu.Unlock()
			again = append(again, stale...)
			if p.folds == nil {
				p.folds = map[int]fold{}
			}
			p.folds[shard] = p.folds[shard].and(last)
		}
		if len(byShard) == 1 {
			run()
			break
		}
		wg.Go(run)
	}
	wg.Wait()
	sort.Ints(again)
	return again
}

type loaded struct {
	topic Topic
	shard int
	err   error
}

func (p *publishing) decide(ctx context.Context, i int, now time.Time, topics map[string]loaded) (int, events.Append, error) {
	cmd := p.batch[i]
	if cmd.Refused != nil {
		return 0, events.Append{}, cmd.Refused
	}
	l, ok := topics[cmd.Queue]
	if !ok {
		l.topic, l.shard, l.err = p.d.topic(ctx, p.caller, cmd.Queue)
		topics[cmd.Queue] = l
	}
	if l.err != nil {
		return 0, events.Append{}, l.err
	}
	if !l.topic.mayProduce(p.caller) {
		return 0, events.Append{}, refuse(CodeForbidden, "%q may not publish to queue %q", p.caller.Subject, cmd.Queue)
	}
	var turn uint32
	if cmd.Partition == nil && cmd.Key == "" && l.topic.Config.PartitionCount > 1 {
		turn = p.d.rounds.turn(l.topic.Config.TopicID)
	}
	e, err := decidePublish(l.topic, cmd, now, p.d.cfg, turn)
	if err != nil {
		return 0, events.Append{}, err
	}
	e.ProducerID, e.TraceParent = p.caller.Subject, or(cmd.TraceParent, p.caller.TraceParent)
	meta := p.d.meta(p.caller, p.d.fingerprint(p.caller, cmd))
	if p.d.cfg.Seal != nil {
		sealed, err := p.d.cfg.Seal(ctx, l.topic.TenantID, e.TopicID, e.MessageID, e.Payload)
		if err != nil {
			return 0, events.Append{}, unavailable(fmt.Errorf("encrypt a payload: %w", err))
		}
		e.Sealed, e.PlainBytes, e.Payload = true, int64(len(e.Payload)), sealed
	}
	// The event itself carries the trace; twice would be once too often.
	meta.TraceParent, meta.AcceptedAtMs = "", now.UnixMilli()
	if cmd.EventKey != "" {
		// Keys that callers give have no spaces either.
		meta.IdempotencyKey, meta.Fingerprint = "event "+cmd.EventKey, "event"
	} else if len(p.batch) > 1 && meta.IdempotencyKey != "" {
		// Keys have no spaces, so no other request's key looks like it.
		meta.IdempotencyKey = fmt.Sprintf("%s %d", meta.IdempotencyKey, i)
	}
	a := events.Append{
		ID: cmd.ID, TenantID: p.caller.TenantID, Event: e, Meta: meta, Atomic: p.atomic && len(p.batch) > 1,
		Guard: events.Guard{TopicVersion: l.topic.Version},
	}
	if cmd.isLater(now) {
		scheduled := events.MessageScheduled{MessagePublished: e}
		if cmd.ScheduledAt != nil {
			scheduled.ReleaseAtMs = cmd.ScheduledAt.Add(time.Millisecond - 1).UnixMilli() // never early
		} else {
			a.DelayMs = *cmd.DelayMs
		}
		a.Event, a.ReleaseID = scheduled, p.d.cfg.NewID()
	}
	return l.shard, a, nil
}

// append appends one shard's messages, in order, in bounded steps unless they are
// atomic. After a step without an answer it tries none, so that a retry cannot find
// later messages in the log before earlier ones. It returns which are to be decided
// again, and the last position.
func (p *publishing) append(ctx context.Context, shard int, members []int, appends []events.Append) (stale []int, last fold) {
	for len(members) > 0 {
		n := min(len(members), appendChunkMax)
		if p.atomic {
			n = len(members)
		}
		batch := make([]events.Append, n)
		for k, i := range members[:n] {
			batch[k] = appends[i]
		}
		outs, err := p.d.store.Append(ctx, shard, batch)
		if err != nil {
			for _, i := range members {
				p.results[i].Err = unavailable(err)
			}
			return stale, last
		}
		for k, i := range members[:n] {
			last = last.and(fold{run: outs[k].Run, position: outs[k].Position})
			if p.settle(i, outs[k]) {
				stale = append(stale, i)
				p.d.store.Forget(events.RefsOf(appends[i].Event).TopicID)
			}
		}
		members = members[n:]
	}
	// Atomic messages share a topic, so they are stale together.
	return stale, last
}

// fold is the last position of a run of the log that is to be waited for.
type fold struct {
	run      uint64
	position events.Position
}

// and is the wait for both. Where they are of two runs it is for the earlier one, which
// fails: what was appended in it may be lost.
func (f fold) and(other fold) fold {
	if f.position == 0 {
		return other
	}
	f.position = max(f.position, other.position)
	return f
}

// settle notes a message's outcome; true asks for another decision.
func (p *publishing) settle(i int, out events.Outcome) bool {
	r := &p.results[i]
	switch out.Status {
	case events.StatusAppended, events.StatusDuplicate:
		r.MessageID, r.Partition, r.Offset = out.ID, out.Partition, out.Offset
		r.Receipt = Receipt{Position: out.Position, Duplicate: out.Status == events.StatusDuplicate}
		if out.Offset < 0 {
			r.Offset, r.ReleaseAtMs = 0, -out.Offset
		}
	case events.StatusStale:
		return true
	case events.StatusKeyReused:
		r.Err = keyReused()
	case events.StatusAborted:
		r.Err = aborted
	case events.StatusFull:
		r.Err = refuse(CodeQueueFull, "queue %q holds as many unconsumed messages as it may", r.Queue)
	case events.StatusLeaseLost, events.StatusExists, events.StatusNotScheduled, events.StatusErased, events.StatusTooMany:
		r.Err = fmt.Errorf("publish: unexpected outcome %d", out.Status)
	}
	return false
}

// awaitFolds waits for every shard that took messages, all within one AckTimeout;
// a message whose fold did not come in time has an unknown outcome.
func (p *publishing) awaitFolds(ctx context.Context) {
	if p.caller.Async {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, p.d.cfg.AckTimeout)
	defer cancel()
	failed := map[int]error{}
	for shard, last := range p.folds {
		if last.position > 0 {
			failed[shard] = p.d.awaitFold(ctx, shard, last.run, last.position)
		}
	}
	for i := range p.results {
		r := &p.results[i]
		if r.Err != nil {
			continue
		}
		r.Folded = failed[r.shard] == nil
		r.Err = failed[r.shard]
	}
}

// IsUnavailable reports whether err means that a store did not answer in time.
func IsUnavailable(err error) bool { return errors.Is(err, ErrUnavailable) }
