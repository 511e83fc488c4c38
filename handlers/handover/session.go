package handover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// session is the connection that makes a forwarder the active one: it holds the lock and
// moves the checkpoints. Losing it is losing both.
type session struct {
	conn *pgx.Conn
	// turn has the right to use conn: who waits for it longer than a statement may take
	// must not believe that the lock is still held.
	turn chan struct{}
}

// hold returns once a connection of its own has the lock.
func (f *Forwarder) hold(ctx context.Context) (*session, error) {
	conn, err := f.cfg.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	s := &session{conn: conn, turn: make(chan struct{}, 1)}
	for {
		held := false
		err := s.do(ctx, statementTimeout, func(ctx context.Context) error {
			return conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('tallymq:handover:' || current_schema(), 0))`).Scan(&held)
		})
		if err != nil {
			s.close(ctx)
			return nil, fmt.Errorf("lock: %w", err)
		}
		if held {
			return s, nil
		}
		for _, l := range f.links() {
			l.health.standBy("")
		}
		if !pause(ctx, f.pace.lockRetry) {
			s.close(ctx)
			return nil, errStopped
		}
	}
}

func (s *session) do(ctx context.Context, timeout time.Duration, statement func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
		return statement(ctx)
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // by the callers
	}
}

// check returns an error where the lock may be lost.
func (s *session) check(ctx context.Context) error {
	err := s.do(ctx, lockCheckTimeout, func(ctx context.Context) error { return s.conn.Ping(ctx) })
	if err != nil {
		return fmt.Errorf("the lock is lost: %w", err)
	}
	return nil
}

// watch returns when the lock is lost or ctx ends.
func (s *session) watch(ctx context.Context, every time.Duration) error {
	for pause(ctx, every) {
		if err := s.check(ctx); err != nil {
			return err
		}
	}
	return errStopped
}

// close gives the lock back. Nothing may use the session any more.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockCheckTimeout)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// checkpoint returns how far a shard's events are handed on.
func (s *session) checkpoint(ctx context.Context, name string, shard int) (at int64, err error) {
	err = s.do(ctx, statementTimeout, func(ctx context.Context) error {
		return s.conn.QueryRow(ctx, `
WITH made AS (INSERT INTO handover_checkpoints (name, shard, position) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING RETURNING position)
SELECT position FROM made UNION ALL SELECT position FROM handover_checkpoints WHERE name = $1 AND shard = $2`, name, shard).Scan(&at)
	})
	if err != nil {
		return 0, fmt.Errorf("checkpoint of shard %d: %w", shard, err)
	}
	return at, nil
}

var errMoved = errors.New("another one moved it")

// advance moves a checkpoint from where it is believed to be. An error leaves open
// whether it moved.
func (s *session) advance(ctx context.Context, name string, shard int, from, to int64) error {
	err := s.do(ctx, statementTimeout, func(ctx context.Context) error {
		tag, err := s.conn.Exec(ctx, `UPDATE handover_checkpoints SET position = $4, updated_at = now() WHERE name = $1 AND shard = $2 AND position = $3`,
			name, shard, from, to)
		if err == nil && tag.RowsAffected() != 1 {
			err = errMoved
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("move the checkpoint of shard %d: %w", shard, err)
	}
	return nil
}
