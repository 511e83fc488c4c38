package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/postgres"
)

func masterKey(t *testing.T, id string) string {
	t.Helper()
	key := make([]byte, 32)
	_, err := rand.Read(key)
	require.NoError(t, err)
	return id + ":" + base64.StdEncoding.EncodeToString(key)
}

// filesWith lists the files under a directory that hold a text.
func filesWith(t *testing.T, dir, text string) []string {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // a file that went meanwhile
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(text)) { //nolint:gosec // the test's own servers write there
			found = append(found, path)
		}
		return nil
	}))
	return found
}

// Nothing readable of a payload is in Redis, in its file, or anywhere in Postgres' data;
// and everybody who may read it reads it as it was.
func TestPayloadsAreEncryptedEverywhere(t *testing.T) {
	t.Parallel()
	own := ownStores(t)
	withKeys := func(keys string) config.Config {
		cfg := testConfig(t)
		cfg.RedisURL, cfg.DatabaseURL, cfg.RedisKeyPrefix, cfg.EncryptionKeys = own.redis.URL(), own.postgres.URL(), "mq:", keys
		return cfg
	}
	first := masterKey(t, "first")
	i := start(t, withKeys(first), "")
	const canary = "canary-7f3a9c51"
	payload := `{"secret" : "` + canary + `", "n": 1.0}`
	require.Equal(t, http.StatusCreated, i.post("/queues", `{"name":"q"}`).status)
	var sub struct{ ID string }
	i.post("/subscriptions", `{"queue":"q","consumerGroup":"g"}`).decode(http.StatusCreated, &sub)
	var published struct {
		MessageID string
		Duplicate bool
	}
	i.post("/publish", `{"queue":"q","key":"k","payload":`+payload+`}`, "Idempotency-Key", "once").decode(http.StatusCreated, &published)
	id := published.MessageID
	i.post("/publish", `{"queue":"q","key":"k","payload":`+payload+`}`, "Idempotency-Key", "once").decode(http.StatusCreated, &published)
	require.True(t, published.Duplicate)
	require.Equal(t, id, published.MessageID)
	reads := func(i *instance) {
		t.Helper()
		for _, path := range []string{"/messages/" + id, "/messages/" + id + "/events", "/events?messageId=" + id} {
			a := i.get(path)
			require.Equal(t, http.StatusOK, a.status, path)
			require.Contains(t, string(a.body), canary, path)
			require.NotContains(t, string(a.body), "mqenc", path)
		}
	}
	reads(i)
	var message struct{ PayloadSize int }
	i.get("/messages/"+id).decode(http.StatusOK, &message)
	require.Equal(t, len(payload), message.PayloadSize)
	require.Contains(t, string(i.post("/subscriptions/"+sub.ID+"/pull", `{"waitMs":5000}`).body), `"payload":`+payload, "byte for byte")

	// what is stored says nothing
	conn, err := postgres.Connect(t.Context(), own.postgres.URL())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	var data string
	require.NoError(t, conn.QueryRow(t.Context(), `SHOW data_directory`).Scan(&data))
	_, err = conn.Exec(t.Context(), `CHECKPOINT`)
	require.NoError(t, err)
	require.NotEmpty(t, filesWith(t, data, `"key":"k"`), "the files are where we look: what is not encrypted is there")
	require.Empty(t, filesWith(t, data, canary))
	require.NotEmpty(t, filesWith(t, own.dir, "message.published"))
	require.Empty(t, filesWith(t, own.dir, canary))
	require.NoError(t, i.stop())

	// another master in front: what the old one wrapped is still read
	second := masterKey(t, "second")
	i = start(t, withKeys(second+","+first), "")
	reads(i)
	require.Equal(t, http.StatusCreated, i.post("/publish", `{"queue":"q","payload":2}`).status)
	require.NoError(t, i.stop())
	// without it the service does not start, and says why
	for name, keys := range map[string]string{"other keys": second, "no keys": ""} {
		err := runService(t.Context(), withKeys(keys), slog.New(slog.DiscardHandler), options{host: "127.0.0.1"})
		require.ErrorContains(t, err, "ENCRYPTION_KEYS", name)
		require.ErrorContains(t, err, "first", name)
	}
	err = runService(t.Context(), withKeys("bad"), slog.New(slog.DiscardHandler), options{host: "127.0.0.1"})
	require.ErrorContains(t, err, "ENCRYPTION_KEYS")
	require.NotContains(t, err.Error(), strings.TrimPrefix(first, "first:"))
}
