package devstack

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// tests are the servers that a test process shares, started when first asked for.
var tests struct {
	mu       sync.Mutex
	dir      string
	redis    *Redis
	postgres *Postgres
	schemas  atomic.Int64
}

// Main runs a package's tests and stops their servers in the end. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }
func Main(m *testing.M) int {
	defer stopTests()
	return m.Run()
}

func stopTests() {
	tests.mu.Lock()
	defer tests.mu.Unlock()
	if tests.redis != nil {
		tests.redis.Kill()
	}
	if tests.postgres != nil {
		tests.postgres.Kill()
	}
	if tests.dir != "" {
		_ = os.RemoveAll(tests.dir)
	}
}

func testDir() (string, error) {
	if tests.dir != "" {
		return tests.dir, nil
	}
	dir, err := os.MkdirTemp("", "tallymq-test-")
	if err != nil {
		return "", fmt.Errorf("test data: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the servers' user must reach what is inside
		return "", fmt.Errorf("test data: %w", err)
	}
	tests.dir = dir
	return dir, nil
}

// TestDir returns a directory for the data of a test's own servers, one that the
// servers' user can reach, unlike tb.TempDir.
func TestDir(tb testing.TB) string {
	tb.Helper()
	tests.mu.Lock()
	defer tests.mu.Unlock()
	dir, err := testDir()
	if err == nil {
		dir, err = os.MkdirTemp(dir, "own-") //nolint:usetesting // tb.TempDir is closed to the servers' user
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) //nolint:gosec // the servers' user must reach what is inside
	}
	if err != nil {
		tb.Fatalf("test data: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestRedis returns the URL of the test process' Redis and a key prefix that is
// this test's own.
func TestRedis(tb testing.TB) (redisURL, prefix string) {
	tb.Helper()
	tests.mu.Lock()
	defer tests.mu.Unlock()
	if tests.redis == nil {
		dir, err := testDir()
		if err == nil {
			tests.redis, err = StartRedis(context.Background(), RedisOptions{Dir: filepath.Join(dir, "redis")})
		}
		if err != nil {
			tb.Fatalf("test Redis: %v", err)
		}
	}
	return tests.redis.URL(), fmt.Sprintf("t%d:", tests.schemas.Add(1))
}

// TestPostgres returns a URL of the test process' Postgres in which unqualified
// names are in a schema that is this test's own.
func TestPostgres(tb testing.TB) string {
	tb.Helper()
	tests.mu.Lock()
	defer tests.mu.Unlock()
	if tests.postgres == nil {
		dir, err := testDir()
		if err == nil {
			tests.postgres, err = StartPostgres(context.Background(), PostgresOptions{Dir: filepath.Join(dir, "postgres")})
		}
		if err != nil {
			tb.Fatalf("test Postgres: %v", err)
		}
	}
	schema := fmt.Sprintf("t%d", tests.schemas.Add(1))
	execute(tb, tests.postgres, "CREATE SCHEMA "+schema)
	postgres := tests.postgres
	tb.Cleanup(func() { execute(tb, postgres, "DROP SCHEMA "+schema+" CASCADE") })
	u, err := url.Parse(tests.postgres.URL())
	if err != nil {
		tb.Fatalf("test Postgres: %v", err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func execute(tb testing.TB, p *Postgres, sql string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		tb.Fatalf("test Postgres: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		tb.Errorf("test Postgres: %s: %v", sql, err)
	}
}
