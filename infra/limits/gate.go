package limits

import (
	"fmt"
	"sync"
	"time"
)

// Defaults of the gate for pulls that wait.
const (
	// DefaultWaitingPerTenant is how many pulls of one tenant may wait.
	DefaultWaitingPerTenant = 1000
	// DefaultWaitingPerInstance is how many pulls of all tenants may wait.
	DefaultWaitingPerInstance = 5000

	// gateRetryAfter: when a place becomes free is not known.
	gateRetryAfter = time.Second
)

// Gate bounds how many are inside at once, of each tenant and of all. It is safe for
// concurrent use, and remembers only tenants who are inside.
type Gate struct {
	what                   string
	perTenant, perInstance int

	mu     sync.Mutex
	inside map[string]int
	all    int
}

// NewGate returns a gate; what names those who pass it ("waiting pulls"). A limit of
// 0 or less is none.
func NewGate(what string, perTenant, perInstance int) *Gate {
	return &Gate{what: what, perTenant: perTenant, perInstance: perInstance, inside: map[string]int{}}
}

// Enter lets one of a tenant's in, or refuses at once with a *[Refusal]. leave must
// be called when it is done; more calls of it do nothing.
func (g *Gate) Enter(tenant string) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.perTenant > 0 && g.inside[tenant] >= g.perTenant {
		return nil, g.refusal("tenant", g.perTenant)
	}
	if g.perInstance > 0 && g.all >= g.perInstance {
		return nil, g.refusal("instance", g.perInstance)
	}
	g.inside[tenant]++
	g.all++
	return sync.OnceFunc(func() { g.left(tenant) }), nil
}

func (g *Gate) left(tenant string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.inside[tenant]--; g.inside[tenant] == 0 {
		delete(g.inside, tenant)
	}
}

// Inside is how many are inside, of all tenants.
func (g *Gate) Inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all
}

func (g *Gate) refusal(of string, most int) *Refusal {
	return &Refusal{name: g.what + " per " + of, allowed: fmt.Sprintf("at most %d", most), retryAfter: gateRetryAfter}
}
