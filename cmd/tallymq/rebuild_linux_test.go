package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// replayMemoryMax bounds what a replay takes of a machine's memory, however long the
// history is.
const replayMemoryMax = 256 << 20

func TestAReplaysMemoryIsBounded(t *testing.T) {
	t.Parallel()
	cfg, i, _ := ownTraffic(t)
	batch := `{"messages":[` + strings.Repeat(`{"queue":"orders","payload":"`+strings.Repeat("x", 500)+`"},`, 99) + `{"queue":"orders","payload":1}]}`
	for range 600 {
		i.post("/publish/batch", batch, "Prefer", "respond-async")
	}
	i.post("/publish", `{"queue":"orders","payload":1}`)
	require.NoError(t, i.stop())
	cmd := exec.CommandContext(t.Context(), buildProgram(t), "replay") //nolint:gosec // built by the test
	cmd.Env = append(cmd.Environ(), "DATABASE_URL="+cfg.DatabaseURL)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	peak := runMeasured(t, cmd)
	t.Logf("%d MiB for\n%s", peak>>20, out.String())
	require.Less(t, peak, int64(replayMemoryMax))
}

// runMeasured runs a program and returns the most memory that it had, in bytes. What the kernel
// tells at its end begins with the memory of whoever started it, so it is looked at meanwhile.
func runMeasured(t testing.TB, cmd *exec.Cmd) (peak int64) {
	t.Helper()
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			require.NoError(t, err, "%v", cmd.Stderr)
			require.Positive(t, peak)
			return peak
		case <-ticker.C:
			peak = max(peak, mostMemory(cmd.Process.Pid))
		}
	}
}

var mostMemoryLine = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// mostMemory is the most memory that a process had so far, 0 where it is gone.
func mostMemory(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	found := mostMemoryLine.FindSubmatch(status)
	if err != nil || found == nil {
		return 0
	}
	kB, _ := strconv.ParseInt(string(found[1]), 10, 64)
	return kB << 10
}
