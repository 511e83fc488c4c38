package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"sync"
	"syscall"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tallymq/tallymq/events"
)

// ErrUnverified reports a connection to a Redis process of which nobody has found out yet
// whether it has what the one before had.
var ErrUnverified = errors.New("this Redis was started anew: whether it has lost something is being found out")

// Guard lets connections through to one Redis process alone. A process that was started anew
// may have lost the end of its log (a disk that was not synced, a replica that took over), and
// what would be appended there could not be told from what was lost: so it is looked at
// first.
type Guard struct {
	mu    sync.Mutex
	run   string
	conns map[*guardedConn]bool
	// suspect is told of a process that was not accepted; it must not block.
	suspect func()
}

// NewGuard returns a guard that lets any process through until [Guard.Accept] names one.
func NewGuard(suspect func()) *Guard { return &Guard{suspect: suspect, conns: map[*guardedConn]bool{}} }

// Accept lets connections through to a process, by its run id, and to no other. Those to
// the one before are closed, if it is still there.
func (g *Guard) Accept(run string) {
	g.mu.Lock()
	var old map[*guardedConn]bool
	if g.run != run {
		old, g.conns = g.conns, map[*guardedConn]bool{}
	}
	g.run = run
	g.mu.Unlock()
	for conn := range old {
		_ = conn.Conn.Close()
	}
}

// guardedConn is a connection that a guard knows of.
type guardedConn struct {
	net.Conn

	guard *Guard
}

// Close implements net.Conn.
func (c *guardedConn) Close() error {
	c.guard.mu.Lock()
	delete(c.guard.conns, c)
	c.guard.mu.Unlock()
	return c.Conn.Close() //nolint:wrapcheck // as it was
}

// SyscallConn implements syscall.Conn: by it the client finds out whether a connection that
// was idle is still there.
func (c *guardedConn) SyscallConn() (syscall.RawConn, error) {
	if conn, ok := c.Conn.(syscall.Conn); ok {
		return conn.SyscallConn() //nolint:wrapcheck // as it was
	}
	return nil, errors.ErrUnsupported
}

// dialer is the client's own, with connections noted.
func (g *Guard) dialer(o *goredis.Options) func(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := goredis.NewDialer(o)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		noted := &guardedConn{Conn: conn, guard: g}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.conns[noted] = true
		return noted, nil
	}
}

// Accepted is the run id of the process that is let through, empty for any.
func (g *Guard) Accepted() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.run
}

// Guard makes a client's connections pass a guard.
func (g *Guard) onConnect(ctx context.Context, conn *goredis.Conn) error {
	accepted := g.Accepted()
	if accepted == "" {
		return nil
	}
	run, err := runID(ctx, conn)
	if err != nil {
		return err
	}
	if run != accepted {
		g.suspect()
		return ErrUnverified
	}
	return nil
}

var runIDLine = regexp.MustCompile(`(?m)^run_id:([0-9a-f]+)\r?$`)

// runID is a Redis process's own name: another one after every start.
func runID(ctx context.Context, conn interface {
	Info(ctx context.Context, section ...string) *goredis.StringCmd
},
) (string, error) {
	info, err := conn.Info(ctx, "server").Result()
	if err != nil {
		return "", fmt.Errorf("look at Redis: %w", err)
	}
	found := runIDLine.FindStringSubmatch(info)
	if found == nil {
		return "", errors.New("look at Redis: INFO has no run_id")
	}
	return found[1], nil
}

// OpenGuarded returns clients as [Open] and [OpenReaders] do whose connections pass a guard.
func OpenGuarded(url string, shards int, g *Guard) (client, readers *goredis.Client, err error) {
	client, err = open(url, func(o *goredis.Options) {
		o.MinIdleConns, o.PoolSize = poolIdleMin, poolMax
		o.OnConnect, o.Dialer = g.onConnect, g.dialer(o)
	})
	if err != nil {
		return nil, nil, err
	}
	readers, err = open(url, func(o *goredis.Options) {
		o.MinIdleConns, o.PoolSize = 0, connectionsPerReader*shards
		o.OnConnect, o.Dialer = g.onConnect, g.dialer(o)
	})
	return client, readers, err
}

// Sight is what a Redis process has of a store.
type Sight struct {
	// Run is the process's run id.
	Run string
	// Epochs are what its logs are known by, empty where there is none, and Ends where they
	// end.
	Epochs []string
	Ends   []events.Position
	// IsOlder says that the logs are known by one name alone, as earlier versions had it: see
	// [Found].
	IsOlder bool
}

// Look finds out what a Redis process has. The client is to have one connection, so that all
// is of one process.
func Look(ctx context.Context, client goredis.UniversalClient, prefix string, shards int) (Sight, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	s := Sight{}
	var info, older *goredis.StringCmd
	epochs, logs := make([]*goredis.StringCmd, shards), make([]*goredis.XInfoStreamCmd, shards)
	_, err := client.TxPipelined(ctx, func(p goredis.Pipeliner) error {
		info, older = p.Info(ctx, "server"), p.Get(ctx, prefix+"epoch")
		for n := range shards {
			k := shardKeys(prefix, n)
			epochs[n], logs[n] = p.Get(ctx, k.epoch()), p.XInfoStream(ctx, k.log())
		}
		return nil
	})
	if info.Err() != nil {
		return s, fmt.Errorf("look at Redis: %w", errors.Join(err, info.Err()))
	}
	found := runIDLine.FindStringSubmatch(info.Val())
	if found == nil {
		return s, errors.New("look at Redis: INFO has no run_id")
	}
	s.Run = found[1]
	for n := range shards {
		if err := epochs[n].Err(); err != nil && !errors.Is(err, goredis.Nil) {
			return s, fmt.Errorf("look at Redis: %w", err)
		}
		epoch := epochs[n].Val()
		if epoch == "" && older.Val() != "" {
			epoch, s.IsOlder = older.Val(), true
		}
		s.Epochs = append(s.Epochs, epoch)
		end := events.Position(0)
		if err := logs[n].Err(); err == nil {
			if end, err = parsePosition(logs[n].Val().LastGeneratedID); err != nil {
				return s, err
			}
		} else if !isNoKey(err) {
			return s, fmt.Errorf("look at Redis: %w", err)
		}
		s.Ends = append(s.Ends, end)
	}
	return s, nil
}

func isNoKey(err error) bool { return err != nil && err.Error() == "ERR no such key" }

// Found gives every shard the epoch, where it has none: of a log of which nothing was ever
// folded, or which an earlier version began.
func Found(ctx context.Context, client goredis.UniversalClient, prefix string, shards int, epoch string) error {
	for n := range shards {
		if err := client.SetNX(ctx, shardKeys(prefix, n).epoch(), epoch, 0).Err(); err != nil {
			return fmt.Errorf("log epoch: %w", err)
		}
	}
	return nil
}

// OpenOne returns a client as [Open] does that has one connection, for [Look] and for putting
// things back.
func OpenOne(url string) (*goredis.Client, error) {
	return open(url, func(o *goredis.Options) { o.MinIdleConns, o.PoolSize = 0, 1 })
}
