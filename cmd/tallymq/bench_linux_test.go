package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
)

// What bench measures is for people; that it measures without a failure is for us.
func TestBenchMeasuresAPrivateInstance(t *testing.T) { //nolint:paralleltest // it takes the whole machine
	out, err := exec.CommandContext(t.Context(), buildProgram(t), "bench", "--duration", "300ms", "--connections", "8").CombinedOutput() //nolint:gosec // built by the test
	require.NoError(t, err, "%s", out)
	for _, want := range []string{"no-op ", "publish 201 ", "publish 202 ", "projector lag ", "batch publish 201 ", "pull and ack "} {
		require.Contains(t, string(out), want)
	}
	require.NotRegexp(t, `failed [1-9]`, string(out))
}

// However bench ends, what it started ends too.
func TestTheMeasuredInstanceEndsWithBench(t *testing.T) { //nolint:paralleltest // it takes the whole machine
	bench := exec.CommandContext(t.Context(), buildProgram(t), "bench", "--duration", "1m") //nolint:gosec // built by the test
	bench.Env = append(os.Environ(), "TMPDIR="+devstack.TestDir(t))
	require.NoError(t, bench.Start())
	child := 0
	eventually(t, "an instance is started", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", bench.Process.Pid))
		for _, thread := range threads {
			list, _ := os.ReadFile(thread)
			if n, err := fmt.Sscan(string(list), &child); n == 1 && err == nil {
				return true
			}
		}
		return false
	})
	require.NoError(t, bench.Process.Kill())
	_ = bench.Wait()
	eventually(t, "the instance has ended", func() bool { return syscall.Kill(child, 0) != nil })
}
