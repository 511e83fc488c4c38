package main

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNothingIsLostWhilePostgresDiskIsFull(t *testing.T) { //nolint:paralleltest // it needs the machine's two cores
	throughOutage(t, func(r *lossRun) func() { return r.fillDisk() })
}

// fillDisk makes Postgres' files grow no more, as on a disk that is full, until end is called.
func (r *lossRun) fillDisk() (end func()) {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.stores.dir, "postgres", "data", "postmaster.pid"))
	require.NoError(r.t, err)
	first, _, _ := strings.Cut(string(text), "\n")
	owner, err := os.Stat("/proc/" + first) //nolint:gosec // the server wrote it
	require.NoError(r.t, err)
	stat, isUnix := owner.Sys().(*syscall.Stat_t)
	require.True(r.t, isUnix)
	limit := func(soft string) {
		cmd := exec.Command("prlimit", "--pid", first, "--fsize="+soft+":") //nolint:gosec // the test's own
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}}
		out, err := cmd.CombinedOutput()
		require.NoError(r.t, err, "%s", out)
		// Sessions have the limit that they began with.
		_, err = r.pool.Exec(r.t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`)
		require.NoError(r.t, err)
		r.pool.Reset()
	}
	// Segments of the write-ahead log fit; what messages are kept in does not, before long.
	limit(strconv.Itoa(16 << 20))
	for n := range 100 {
		fill := make([]byte, 225_000)
		_, _ = rand.Read(fill)
		body := map[string]any{"queue": "orders", "key": "big", "payload": map[string]any{"key": "big", "seq": n, "fill": base64.StdEncoding.EncodeToString(fill)}}
		require.Equal(r.t, http.StatusAccepted, r.post("/publish", body, "Prefer", "respond-async").status)
		r.published.Add(1)
	}
	return func() { limit("unlimited") }
}
