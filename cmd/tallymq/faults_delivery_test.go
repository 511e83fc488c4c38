package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The real binary, two instances, pushing to endpoints that never answer, answer a byte a
// second, stream without end, reset, answer too late or ask to be left alone, while the
// instances and their stores are killed. After each round every ledger balances, no
// endpoint saw an attempt that is not recorded, nothing acknowledged is missing and each
// key's order holds.
func TestFaultsOfEndpointsInstancesAndStores(t *testing.T) { //nolint:paralleltest // it needs the machine's two cores
	r := newFaultRun(t)
	for n := range faultRoundsWanted(t) {
		r.round(n)
	}
	require.NotZero(t, r.ledgers.Load(), "no ledger was seen while it moved")
	for _, h := range r.hooks {
		failed := map[string]int{}
		for _, s := range h.endpoint.sightings() {
			failed[s.said]++
		}
		require.NotZero(t, failed[h.endpoint.fault.name], "%s never failed", h.name)
		t.Logf("%s: %v", h.name, failed)
	}
}
