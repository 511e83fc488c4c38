package main

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
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
