package devstack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RedisOptions says where a Redis runs.
type RedisOptions struct {
	// Dir holds its data; it is made if need be.
	Dir string
	// Port is on loopback; 0 takes a free one.
	Port int
	// Log takes the server's output; nil is a file in Dir.
	Log io.Writer
}

// Redis is a private Redis with an append-only file that is synced on every write
// and no eviction.
type Redis struct {
	process

	dir  string
	log  io.Writer
	port int
	lock *os.File
}

// redisSettings are what the service's promises stand on: what Redis answered is on
// its disk, and it evicts nothing.
var redisSettings = []string{"--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", ""}

// StartRedis starts a Redis and returns once it answers. Stop it in the end.
func StartRedis(ctx context.Context, o RedisOptions) (*Redis, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, missing("redis-server", "redis-server", "redis")
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	log, err := logTo(o.Log, o.Dir, "redis.log")
	if err != nil {
		return nil, err
	}
	r := &Redis{lock: lock, dir: o.Dir, log: log}
	if err := r.mend(ctx); err != nil {
		_ = lock.Close()
		return nil, err
	}
	r.ready = r.ping
	r.command = func() *exec.Cmd {
		args := []string{"--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--dir", o.Dir, "--daemonize", "no"}
		cmd := exec.Command(program, append(args, redisSettings...)...) //nolint:gosec,noctx // found on the PATH; ends by Stop
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = attributes(syscall.SIGTERM)
		return cmd
	}
	err = onPort(o.Port, func(port int) error {
		r.port = port
		return r.start(ctx)
	})
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return r, nil
}

// Addr is host:port.
func (r *Redis) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// URL is a REDIS_URL.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// Kill ends the server as a crash would.
func (r *Redis) Kill() { r.kill() }

// Restart starts the server again, on the same port and data, after Kill.
func (r *Redis) Restart(ctx context.Context) error {
	if err := r.mend(ctx); err != nil {
		return err
	}
	return r.start(ctx)
}

// mend cuts a transaction that a crash left half-written off the append-only file.
// Redis (7.0 at least; Valkey mended it in pull request 4342) cuts off only its last
// command: the transaction stays open, swallows what is written behind it, and the
// next load runs its remains and loses writes that were acknowledged.
func (r *Redis) mend(ctx context.Context) error {
	manifest := filepath.Join(r.dir, "appendonlydir", "appendonly.aof.manifest")
	if _, err := os.Stat(manifest); err != nil {
		return nil //nolint:nilerr // nothing was written yet
	}
	program, err := exec.LookPath("redis-check-aof")
	if err != nil {
		return missing("redis-check-aof", "redis-tools", "redis")
	}
	cmd := exec.CommandContext(ctx, program, "--fix", manifest) //nolint:gosec // found on the PATH
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("y\n"), r.log, r.log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("redis-check-aof %s: %w", manifest, err)
	}
	return nil
}

// Stop shuts the server down.
func (r *Redis) Stop(ctx context.Context) error {
	defer func() { _ = r.lock.Close() }()
	return r.stop(ctx, syscall.SIGTERM)
}

func (r *Redis) ping(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.Addr())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "PING\r\nINFO server\r\n"); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	reader := bufio.NewReader(conn)
	answer, err := reader.ReadString('\n')
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if !strings.HasPrefix(answer, "+PONG") {
		return fmt.Errorf("ping: %s", strings.TrimSpace(answer))
	}
	// Somebody else may have taken the port: it must be our child that answers.
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		if pid, found := strings.CutPrefix(strings.TrimSpace(line), "process_id:"); found {
			if pid != strconv.Itoa(r.pid()) {
				return errors.New("another Redis has this port")
			}
			return nil
		}
	}
}
