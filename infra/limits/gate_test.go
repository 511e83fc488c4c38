package limits

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheGateBoundsATenantAndAll(t *testing.T) {
	t.Parallel()
	g := NewGate("waiting pulls", 2, 3)
	enter := func(tenant string) func() {
		leave, err := g.Enter(tenant)
		require.NoError(t, err)
		return leave
	}
	refused := func(tenant, name, allowed string) {
		leave, err := g.Enter(tenant)
		require.Nil(t, leave)
		refusal, ok := errors.AsType[*Refusal](err)
		require.True(t, ok, err)
		gotName, gotAllowed := refusal.Limit()
		require.Equal(t, []string{name, allowed}, []string{gotName, gotAllowed})
		require.Positive(t, refusal.RetryAfter())
	}
	first := enter("a")
	enter("a")
	refused("a", "waiting pulls per tenant", "at most 2")
	leaveB := enter("b")
	refused("b", "waiting pulls per instance", "at most 3")
	refused("c", "waiting pulls per instance", "at most 3")
	require.Equal(t, 3, g.Inside())
	// Leaving twice makes one place.
	first()
	first()
	require.Equal(t, 2, g.Inside())
	enter("a")
	refused("a", "waiting pulls per tenant", "at most 2")
	leaveB()
	require.Len(t, g.inside, 1, "who is not inside is not remembered")
}

func TestAGateWithoutLimits(t *testing.T) {
	t.Parallel()
	g := NewGate("waiting pulls", 0, 0)
	for range DefaultWaitingPerInstance + 1 {
		_, err := g.Enter("a")
		require.NoError(t, err)
	}
}

func TestTheGateUnderConcurrency(t *testing.T) {
	t.Parallel()
	g := NewGate("waiting pulls", 3, 5)
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for worker := range 20 {
		wg.Go(func() {
			for range 500 {
				leave, err := g.Enter(fmt.Sprint(worker % 4))
				if err != nil {
					continue
				}
				n := inside.Add(1)
				for was := most.Load(); n > was; was = most.Load() {
					if most.CompareAndSwap(was, n) {
						break
					}
				}
				inside.Add(-1)
				leave()
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(5))
	require.Zero(t, g.Inside())
	require.Empty(t, g.inside)
}
