package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/history"
)

// sourced is what a shell has for a variable after it read a file.
func sourced(t *testing.T, path, name string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `unset "$2"; . "$1"; eval "printf %s \"\$$2\""`, "sh", path, name).Output() //nolint:gosec // a test's own
	require.NoError(t, err)
	return string(out)
}

// What `dev` runs can be read by other programs: here, all of its history.
func TestProgramsReachTheStoresOfDev(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(nil)
	require.NoError(t, err)
	cfg.Port = 0
	dir := devstack.TestDir(t)
	path := filepath.Join(dir, addressesFile)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- errorOf(writer, runDev(ctx, cfg, dir, false, writer)) }()
	// given a service that says where its API and the file are
	var output bytes.Buffer
	for !strings.Contains(output.String(), "keeps the data") {
		chunk := make([]byte, 1000)
		n, err := said.Read(chunk)
		require.NoError(t, err)
		output.Write(chunk[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	require.Contains(t, output.String(), path)
	require.Equal(t, "4", sourced(t, path, "SHARDS"))
	require.Equal(t, "mq:", sourced(t, path, "REDIS_KEY_PREFIX"))
	require.True(t, strings.HasPrefix(sourced(t, path, "REDIS_URL"), "redis://127.0.0.1:"))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	// when a queue is created
	_, api, _ := strings.Cut(output.String(), "http://")
	api, _, _ = strings.Cut(api, "\n")
	res, err := http.Post("http://"+api, "application/json", strings.NewReader(`{"name":"orders"}`))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusCreated, res.StatusCode)
	// then a program that knows the file hears of it
	sub, err := history.Open(t.Context(), history.Config{DatabaseURL: sourced(t, path, "DATABASE_URL"), Group: "audit", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { _ = sub.Close() }()
	heard := make(chan events.Record, 100)
	for _, topic := range sub.Topics() {
		messages, err := sub.Subscribe(t.Context(), topic)
		require.NoError(t, err)
		go func() {
			for m := range messages {
				if r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload); err == nil {
					heard <- r
				}
				m.Ack()
			}
		}()
	}
	for name := ""; name != "orders"; { // the platform's queues are others
		select {
		case r := <-heard:
			name = r.Event.(events.TopicCreated).Name
		case <-time.After(time.Minute):
			require.FailNow(t, "nothing was heard of the queue")
		}
	}
	require.NoError(t, sub.Close())
	// and the file goes with the servers
	cancel()
	require.NoError(t, <-ended)
	require.NoFileExists(t, path)
}

// errorOf closes what was written to, and is the error.
func errorOf(w *io.PipeWriter, err error) error {
	_ = w.Close()
	return err
}

func TestAddressesThatTheEnvironmentNamesAreNotWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	cfg := config.Config{DatabaseURL: "postgres://me:secret@db/mq", RedisURL: "redis://127.0.0.1:1", RedisKeyPrefix: "it's:", Shards: 2}
	remove, err := shareAddresses(dir, config.Config{DatabaseURL: cfg.DatabaseURL}, cfg)
	require.NoError(t, err)
	path := filepath.Join(dir, addressesFile)
	require.Empty(t, sourced(t, path, "DATABASE_URL"))
	require.Equal(t, "redis://127.0.0.1:1", sourced(t, path, "REDIS_URL"))
	require.Equal(t, "it's:", sourced(t, path, "REDIS_KEY_PREFIX"))
	remove()
	require.NoFileExists(t, path)
}
