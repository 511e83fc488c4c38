package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// Limits of jobs.
const (
	// OpenMax is how many jobs of a tenant may be waiting or running.
	OpenMax = 100
	// WorkersMax is how many jobs an instance works on at once.
	WorkersMax = 2
	// partMax and partBytesMax bound the part of history that is in hand.
	partMax      = 500
	partBytesMax = 8 << 20
	// scanMax is how many events are looked at for the messages of one part.
	scanMax = 20_000
	// atomicMax is how many messages are published at once.
	atomicMax = 50
	// leaseFor is for how long an instance has a job unless it says that it goes on.
	leaseFor = "30 seconds"
	// recheck is how often an instance looks for jobs that another one was asked for, or
	// left behind.
	recheck = 2 * time.Second
	// saveEvery is how often a job that waits renews its lease.
	saveEvery    = 5 * time.Second
	queryTimeout = 30 * time.Second
	// backoffMin and backoffMax are between tries while a store or a queue refuses.
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
	// parkFrom is how long a wait is that a job does not spend in a worker's hands, and
	// turnMax after how long it lets others have theirs.
	parkFrom = 4 * time.Second
	turnMax  = 10 * time.Second
	// paceMsMax is the longest that a message waits for its time: ten years.
	paceMsMax = 10 * 365 * 86_400_000
)

// Commands is what jobs need of a dispatcher.
type Commands interface {
	Load(ctx context.Context, subscriptionID string) (commands.Subscription, error)
	ReserveAttempt(ctx context.Context, subscriptionID string) (int64, error)
	Redrive(ctx context.Context, cmd commands.Redrive) (int, error)
	Publish(ctx context.Context, caller commands.Caller, batch []commands.Publish, atomic bool) ([]commands.Published, error)
}

// Config is what jobs need.
type Config struct {
	Pool     *pgxpool.Pool
	Commands Commands
	Shards   int
	// Open decrypts a message's payload.
	Open  func(ctx context.Context, tenantID, topicID, messageID string, payload []byte) ([]byte, error)
	NewID func() string
	// LogEnd is the position at which a shard's log ends now.
	LogEnd func(ctx context.Context, shard int) (int64, error)
	// Topic returns the id of a tenant's queue, or a refusal.
	Topic  func(ctx context.Context, tenantID, name string) (string, error)
	Logger *slog.Logger
}

// Jobs starts jobs, and works on them where [Jobs.Run] runs.
type Jobs struct {
	cfg   Config
	store store
	// asked has a place for a hint that there is a job.
	asked chan struct{}
}

// New returns jobs.
func New(cfg Config) *Jobs {
	return &Jobs{cfg: cfg, store: store{cfg.Pool}, asked: make(chan struct{}, 1)}
}

// Start starts a job of a kind for one of a tenant's, with whose permission it works. Under the same key, "" for none, the same job
// is started once, as long as it is remembered.
func (j *Jobs) Start(ctx context.Context, tenantID string, owner commands.Owner, kind, key string, spec Spec) (Job, error) {
	job := Job{ID: j.cfg.NewID(), TenantID: tenantID, CreatedBy: owner.Subject, Kind: kind, Spec: spec, state: state{Platform: owner.Platform}}
	if key != "" {
		found, err := j.again(ctx, job, key)
		if !errors.Is(err, ErrNone) {
			return found, err
		}
	}
	open, err := j.store.open(ctx, tenantID)
	if err != nil {
		return Job{}, err
	}
	if open >= OpenMax {
		return Job{}, &commands.Refusal{Code: commands.CodeConflict, Reason: fmt.Sprintf("%d jobs are waiting or running; at most %d may", open, OpenMax)}
	}
	job, err = j.store.insert(ctx, job, key)
	if errors.Is(err, ErrNone) {
		return j.again(ctx, Job{TenantID: tenantID, Kind: kind, Spec: spec}, key) // somebody was quicker
	}
	if err == nil {
		select {
		case j.asked <- struct{}{}:
		default:
		}
	}
	return job, err
}

// again returns the job that was started under a key, or ErrNone.
func (j *Jobs) again(ctx context.Context, job Job, key string) (Job, error) {
	found, isSame, err := j.store.under(ctx, job, key)
	if err == nil && !isSame {
		err = &commands.Refusal{Code: commands.CodeIdempotencyKeyReused, Reason: "this Idempotency-Key was used for another request"}
	}
	return found, err
}

// Cancel ends a tenant's job: [ErrNone] where there is none, [ErrEnded] where it has ended.
func (j *Jobs) Cancel(ctx context.Context, tenantID, id string) (Job, error) {
	return j.store.cancel(ctx, tenantID, id)
}

// Run works on jobs until ctx ends.
func (j *Jobs) Run(ctx context.Context) {
	var workers sync.WaitGroup
	for range WorkersMax {
		workers.Go(func() { j.work(ctx) })
	}
	workers.Wait()
}

func (j *Jobs) work(ctx context.Context) {
	for ctx.Err() == nil {
		job, err := j.store.claim(ctx)
		if err == nil {
			j.run(ctx, job)
			continue
		}
		if !errors.Is(err, ErrNone) && ctx.Err() == nil {
			j.cfg.Logger.Warn("look for jobs", "error", err)
		}
		timer := time.NewTimer(recheck)
		select {
		case <-j.asked:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// run works on a job to its end, or until it is another's.
func (j *Jobs) run(ctx context.Context, job Job) {
	w := &worker{jobs: j, job: job}
	err := w.begin(ctx)
	if err == nil {
		err = w.do(ctx)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
	defer cancel()
	switch refusal, refused := errors.AsType[*commands.Refusal](err); {
	case err == nil:
		err = j.store.end(ending, w.job, StatusDone, "")
	case errors.Is(err, errLost), errors.Is(err, errParked):
		err = nil
	case ctx.Err() != nil:
		err = j.store.park(ending, w.job, 0)
	case refused:
		err = j.store.end(ending, w.job, StatusFailed, refusal.Reason)
	default:
		// Whoever has it next, after its lease is over, tries again.
		err = fmt.Errorf("it is tried again: %w", err)
	}
	if err != nil {
		j.cfg.Logger.Warn("job", "id", job.ID, "kind", job.Kind, "error", err)
	}
}

// worker works on one job.
type worker struct {
	jobs *Jobs
	job  Job
	// sub is the subscription whose group gets messages, where it is one.
	sub     commands.Subscription
	topicID string
	// shard orders what is read, ownerID is whose it is.
	shard   int
	ownerID string
}

// begin finds what the job is about and notes where it ends.
func (w *worker) begin(ctx context.Context) error {
	spec := w.job.Spec
	if spec.SubscriptionID != "" {
		var err error
		if w.sub, err = w.jobs.cfg.Commands.Load(ctx, spec.SubscriptionID); err != nil {
			return fmt.Errorf("subscription: %w", err)
		}
		w.topicID, w.ownerID = w.sub.Config.TopicID, w.sub.QueueTenantID
		w.shard = events.ShardOf(w.ownerID, w.sub.Queue, w.jobs.cfg.Shards)
	}
	if spec.Queue != "" {
		id, err := w.jobs.cfg.Topic(ctx, w.job.TenantID, spec.Queue)
		if err != nil {
			return fmt.Errorf("queue: %w", err)
		}
		w.topicID, w.ownerID = id, w.job.TenantID
		w.shard = events.ShardOf(w.ownerID, spec.Queue, w.jobs.cfg.Shards)
	}
	if w.job.state.UpTo > 0 {
		return nil // begun before
	}
	if spec.SubscriptionID != "" {
		n, err := w.jobs.cfg.Commands.ReserveAttempt(ctx, spec.SubscriptionID)
		if err != nil {
			return fmt.Errorf("attempt: %w", err)
		}
		w.job.state.Attempt = n
	}
	if err := w.bound(ctx); err != nil {
		return err
	}
	return w.jobs.store.save(ctx, &w.job)
}

func (w *worker) do(ctx context.Context) error {
	part := w.replayPart
	if w.job.Kind == KindRedrive {
		part = w.redrivePart
	}
	began := time.Now()
	for {
		more, err := part(ctx)
		if err != nil {
			return err
		}
		if err := w.jobs.store.save(ctx, &w.job); err != nil {
			return err
		}
		if !more {
			return nil
		}
		if time.Since(began) >= turnMax {
			return w.park(ctx, 0)
		}
	}
}

// patiently does something until it is done or refused, and keeps the job meanwhile. A
// full queue is waited for.
func (w *worker) patiently(ctx context.Context, do func(context.Context) error) error {
	pause := backoffMin
	for {
		err := do(ctx)
		refusal, refused := errors.AsType[*commands.Refusal](err)
		passes := commands.IsUnavailable(err) || (refused && (refusal.Code == commands.CodeQueueFull || refusal.Code == commands.CodeUnavailable))
		if err == nil || !passes {
			return err
		}
		if err := w.wait(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, backoffMax)
	}
}

// park lays the job aside for a while, for whoever comes by then: there are few workers.
func (w *worker) park(ctx context.Context, d time.Duration) error {
	if err := w.jobs.store.park(ctx, w.job, d); err != nil {
		return err
	}
	return errParked
}

// wait waits and keeps the job meanwhile; a long wait parks it.
func (w *worker) wait(ctx context.Context, d time.Duration) error {
	if d >= parkFrom {
		return w.park(ctx, d)
	}
	for d > 0 {
		step := min(d, saveEvery)
		timer := time.NewTimer(step)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait: %w", ctx.Err())
		}
		d -= step
		if err := w.jobs.store.save(ctx, &w.job); err != nil {
			return err
		}
	}
	return nil
}
