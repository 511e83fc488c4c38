package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/backup"
	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

// A service's store is backed up while it runs, twice, and restored into another Postgres
// schema, where verify finds no difference.
func TestBackupAndRestoreByCommand(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg, "")
	run := func(databaseURL string, args ...string) (string, error) {
		t.Helper()
		t.Setenv("DATABASE_URL", databaseURL)
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	i.queue("q", "")
	sub := i.subscription("q", "g", "")
	publish := func(n int) {
		for k := range n {
			i.post("/publish", fmt.Sprintf(`{"queue":"q","key":"k%d","payload":{"n" : %d, "text":"é\u00e9"}}`, k%3, k)).is(201)
		}
	}
	publish(30)
	_, _, err := i.run("", "consume", "--subscription", sub, "--count", "10")
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "backup")
	out, err := run(cfg.DatabaseURL, "backup", "--to", dir)
	require.NoError(t, err)
	require.Regexp(t, `^\d+ events backed up in .+ \(\d+/s\), \d+ other rows: \d+ segments, .+ MB of rows\); .+ has \d+ events up to 20`, out)
	publish(5)
	require.NoError(t, i.stop())
	out, err = run(cfg.DatabaseURL, "backup", "--to", dir)
	require.NoError(t, err)
	require.Regexp(t, `^\d\d? events backed up`, out, "only what is new")

	_, err = run("", "restore", "--from", filepath.Dir(dir), "--check")
	require.ErrorContains(t, err, "is no backup")
	out, err = run("", "restore", "--from", dir, "--check")
	require.NoError(t, err)
	require.Regexp(t, `^The backup is complete: \d+ events and \d+ other rows in \d+ segments, made at .+ by dev, with SHARDS=4\.`, out)

	target := devstack.TestPostgres(t)
	t.Setenv("SHARDS", "7")
	_, err = run(target, "restore", "--from", dir)
	require.ErrorContains(t, err, "SHARDS: is 7, but the backup is of a store with 4: set it to that")
	t.Setenv("SHARDS", "4")
	out, err = run(target, "restore", "--from", dir)
	require.NoError(t, err)
	require.Regexp(t, `^\d+ events restored in .+, as of 20.+verify`, out)
	out, err = run(target, "verify")
	require.NoError(t, err, out)
	require.Contains(t, out, "The read tables equal the fold of the history.")
	_, err = run(target, "restore", "--from", dir)
	require.ErrorContains(t, err, "the database is not empty")
	restoredServes(t, cfg, target, sub)
	_, err = run(target, "backup")
	require.ErrorContains(t, err, `required flag(s) "to" not set`)
}

// A restore that was killed has left half a store.
func TestNoServiceStartsOnARestoreThatDidNotEnd(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	pool, err := postgres.Open(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	_, err = pool.Exec(t.Context(), `INSERT INTO store_settings (name, value) VALUES ('restore_unfinished', '2026-01-02T03:04:05Z')`)
	require.NoError(t, err)
	err = runService(t.Context(), cfg, slog.New(slog.DiscardHandler), options{host: "127.0.0.1"})
	require.ErrorIs(t, err, backup.ErrUnfinished)
	require.ErrorContains(t, err, "drop the schema")
}

// restoredServes starts a service on a restored database: not on the original's Redis, but on an
// empty one, which it fills.
func restoredServes(t *testing.T, original config.Config, databaseURL, sub string) {
	t.Helper()
	cfg := original
	cfg.DatabaseURL = databaseURL
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := runService(ctx, cfg, slog.New(slog.DiscardHandler), options{host: "127.0.0.1", onReady: func(string) { cancel() }})
	require.ErrorIs(t, err, redis.ErrForeignLog)
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(server.Kill)
	cfg.RedisURL = server.URL()
	b := &recoveryBundle{instance: start(t, cfg, "")}
	b.pool, err = postgres.Open(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(b.pool.Close)
	b.client, err = redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.client.Close() })
	b.verified()
	// what was consumed does not come again, and all else does
	seen := map[string]bool{}
	for len(seen) < 25 {
		for _, m := range b.pull(sub) {
			require.False(t, seen[text(m["messageId"])])
			seen[text(m["messageId"])] = true
			b.ack(sub, m)
		}
	}
	require.Empty(t, list(b.post("/subscriptions/"+sub+"/pull", `{}`).is(http.StatusOK)["messages"]))
	b.post("/publish", `{"queue":"q","payload":1}`).is(http.StatusCreated)
	b.folded()
	b.verified()
	require.NoError(t, b.stop())
}
