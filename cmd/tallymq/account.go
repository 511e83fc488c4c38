package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/queries"
)

// ledgerLive is where a group's messages are now.
func (s *service) ledgerLive(ctx context.Context, topic queries.QueueRef, group string) (queries.LedgerLive, error) {
	live, err := s.log.TopicState(ctx, topic.Shard, topic.ID, topic.PartitionCount)
	if err != nil {
		return queries.LedgerLive{}, unavailableState(err)
	}
	if _, there := live.Unsettled[group]; !there {
		return queries.LedgerLive{}, queries.ErrNotFound
	}
	return liveOf(live, group), nil
}

// liveOf counts a group's messages by where they are.
func liveOf(live redis.TopicState, group string) queries.LedgerLive {
	out := queries.LedgerLive{Position: int64(live.Last), Scheduled: live.Scheduled, Unsettled: live.Unsettled[group]}
	for _, p := range live.Partitions {
		for _, g := range p.Groups {
			if g.Group == group {
				out.InFlight += g.Pending
				out.Waiting += lag(p, g)
			}
		}
	}
	for _, r := range live.Retries {
		if r.Group == group {
			out.InFlight += r.Leased
			out.Waiting += r.Held
			out.Retrying += r.Ready - r.Leased + r.Waiting
		}
	}
	return out
}

// lag is what a group has not been handed of a partition. A group that began on an emptied
// stream has no place in it yet.
func lag(p redis.PartitionState, g redis.GroupState) int64 {
	return min(p.NextOffset-g.Delivered-g.Missing, p.Held)
}

// liveMessage is where a message is for a group now.
func (s *service) liveMessage(ctx context.Context, q queries.Question) (*queries.LiveMessage, error) {
	place, err := s.log.Where(ctx, q.Topic.Shard, q.Topic.ID, q.Group, q.MessageID, q.Partition, q.Offset)
	if err != nil {
		return nil, unavailableState(err)
	}
	out := &queries.LiveMessage{Position: int64(place.Last), State: place.State}
	if place.OverMs > 0 {
		at := time.UnixMilli(place.OverMs).UTC()
		if place.State == queries.LiveInFlight {
			out.LeaseExpiresAt = &at
		} else {
			out.NextRetryAt = &at
		}
	}
	if place.Ahead >= 0 {
		out.Ahead = &place.Ahead
	}
	return out, nil
}

// waitFolded returns once a shard's position is folded.
func (s *service) waitFolded(ctx context.Context, shard int, position int64) error {
	return s.log.WaitFolded(ctx, shard, 0, events.Position(position)) //nolint:wrapcheck // says what it does
}

// Limits of holding the ledger against Redis.
const (
	accountTries = 20
	accountPause = 100 * time.Millisecond
	accountPage  = 10_000
	// foldTries is how often history is looked at for one moment of the log: where the log
	// is never quiet, history is always a little behind it.
	foldTries = 50
)

// errNotYet reports that Postgres does not have what Redis has.
var errNotYet = errors.New("history does not have yet what the log has")

// unbalanced is a group whose messages do not add up.
type unbalanced struct {
	queue  queries.QueueRef
	ledger queries.Ledger
}

// verifyLedgers counts every group's messages in Postgres and in Redis at the same
// position, and returns how many groups there are and which do not add up.
func verifyLedgers(ctx context.Context, pool *pgxpool.Pool, log *redis.Log) (groups int, wrong []unbalanced, err error) {
	db := postgres.AllTenants(pool)
	queues, err := queries.QueueRefs(ctx, db, "", accountPage)
	if err != nil {
		return 0, nil, err //nolint:wrapcheck // says what it does
	}
	for _, q := range queues {
		n, bad, err := verifyQueue(ctx, db, log, q)
		if err != nil {
			return groups, wrong, fmt.Errorf("ledger of queue %s of tenant %s: %w", q.Name, q.TenantID, err)
		}
		groups += n
		wrong = append(wrong, bad...)
	}
	return groups, wrong, nil
}

// verifyQueue tries again where groups begin or end meanwhile, or the fold is behind.
func verifyQueue(ctx context.Context, db queries.DB, log *redis.Log, q queries.QueueRef) (groups int, wrong []unbalanced, err error) {
	for range accountTries {
		live, stateErr := log.TopicState(ctx, q.Shard, q.ID, q.PartitionCount)
		if stateErr != nil {
			return 0, nil, stateErr //nolint:wrapcheck // says what it does
		}
		accounts, accountErr := accountsAt(ctx, db, q, int64(live.Last))
		if accountErr == nil && len(accounts) == len(live.Unsettled) {
			for _, a := range accounts {
				l := queries.Ledger{Account: a, Live: liveOf(live, a.Group)}
				if _, there := live.Unsettled[a.Group]; !there || !l.Balanced() {
					wrong = append(wrong, unbalanced{queue: q, ledger: l})
				}
			}
			return len(accounts), wrong, nil
		}
		if accountErr != nil && !errors.Is(accountErr, queries.ErrMoved) {
			return 0, nil, accountErr
		}
		if err = accountErr; err == nil {
			err = fmt.Errorf("%w: %d groups, not %d", errNotYet, len(accounts), len(live.Unsettled))
		}
		if err := pauseAccount(ctx); err != nil {
			return 0, nil, err
		}
	}
	return 0, nil, err
}

// accountsAt reads a queue's accounts at a position once history has it.
func accountsAt(ctx context.Context, db queries.DB, q queries.QueueRef, position int64) (accounts []queries.Account, err error) {
	for range foldTries {
		if accounts, err = queries.Accounts(ctx, db, q.Shard, q.ID, position); !errors.Is(err, queries.ErrMoved) {
			return accounts, err //nolint:wrapcheck // says what it does
		}
		if err := pauseAccount(ctx); err != nil {
			return nil, err
		}
	}
	return nil, err //nolint:wrapcheck // says what it does
}

func pauseAccount(ctx context.Context) error {
	select {
	case <-time.After(accountPause):
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // asked to stop
	}
}

func printLedgers(w io.Writer, groups int, wrong []unbalanced) {
	for _, u := range wrong {
		l := u.ledger
		_, _ = fmt.Fprintf(w, "    group %s of queue %s of tenant %s at %d: published %d + replayed %d, but consumed %d + in flight %d + waiting %d + scheduled %d + retrying %d + dead %d + filtered %d + expired %d + purged %d; Redis counts %d unsettled\n",
			l.Group, u.queue.Name, u.queue.TenantID, l.Live.Position, l.Published, l.Replayed, l.Consumed, l.Live.InFlight, l.Live.Waiting, l.Live.Scheduled,
			l.Live.Retrying, l.Dead, l.Filtered, l.Expired, l.Purged, l.Live.Unsettled)
	}
	verdict := "balanced"
	if len(wrong) > 0 {
		verdict = fmt.Sprintf("NOT BALANCED: %d", len(wrong))
	}
	_, _ = fmt.Fprintf(w, "%-22s %9d groups %s\n", "ledger", groups, verdict)
}
