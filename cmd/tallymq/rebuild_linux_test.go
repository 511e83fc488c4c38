package main

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

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
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	require.True(t, ok)
	t.Logf("%d MiB for\n%s", usage.Maxrss>>10, out)
	require.Less(t, usage.Maxrss<<10, int64(replayMemoryMax))
}
