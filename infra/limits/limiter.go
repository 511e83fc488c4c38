package limits

import (
	"fmt"
	"sync"
	"time"
)

// Defaults of the rates. They leave room for any sane producer, and keep one tenant
// from taking a whole instance.
const (
	// DefaultRequestsPerSecond is how many requests a tenant may send.
	DefaultRequestsPerSecond = 5000
	// DefaultBytesPerSecond is how many bytes of bodies a tenant may send.
	DefaultBytesPerSecond = 64 << 20
	// DefaultTenantsMax is how many tenants are remembered, about 150 bytes each.
	DefaultTenantsMax = 10_000
	// DefaultBodyBytesMax is what a body is charged at most: no more of it is read.
	DefaultBodyBytesMax = 16 << 20

	// evictProbes is how many remembered tenants are looked at for one to forget.
	evictProbes = 16
)

// Rates configures a [Limiter].
type Rates struct {
	// Requests and Bytes (of bodies) are what each tenant may send.
	Requests, Bytes Rate
	// TenantsMax is how many tenants are remembered; 0 is DefaultTenantsMax.
	TenantsMax int
	// BodyBytesMax is what a body is charged at most, whatever length it announces;
	// 0 is DefaultBodyBytesMax.
	BodyBytesMax int64
}

// Limiter holds each tenant to its rates. A tenant whose buckets are full is as good
// as unknown and may be forgotten; any other is remembered, so nobody gets a fresh
// bucket by being forgotten. While all that can be remembered are in use, further
// tenants share one tenant's rates, and who is remembered after that begins with what
// was left of them.
//
// It is safe for concurrent use. Time enters as data; times with a monotonic clock
// reading are best. A clock that goes back gives nothing, and a step back takes no
// more than a second's refill.
type Limiter struct {
	requests, bytes bucket
	tenantsMax      int
	bodyBytesMax    int64
	epoch           time.Time
	policy          string
	allowed         [2]string

	mu      sync.Mutex
	tenants map[string]*levels
	// strangers is what tenants beyond tenantsMax share.
	strangers levels
}

// levels are the levels of a tenant's buckets at a time since the epoch.
type levels struct {
	at              time.Duration
	requests, bytes int64
}

// NewLimiter returns a limiter; now is any time before the first request.
func NewLimiter(r Rates, now time.Time) (*Limiter, error) {
	requests, err := newBucket(requestsLimit, r.Requests)
	if err != nil {
		return nil, err
	}
	bytes, err := newBucket(bytesLimit, r.Bytes)
	if err != nil {
		return nil, err
	}
	if r.TenantsMax < 0 || r.BodyBytesMax < 0 {
		return nil, fmt.Errorf("limits: TenantsMax and BodyBytesMax must not be negative, are %d and %d", r.TenantsMax, r.BodyBytesMax)
	}
	l := &Limiter{
		requests: requests, bytes: bytes, epoch: now,
		tenantsMax: r.TenantsMax, bodyBytesMax: r.BodyBytesMax,
		tenants:   map[string]*levels{},
		strangers: levels{requests: requests.full, bytes: bytes.full},
	}
	if l.tenantsMax == 0 {
		l.tenantsMax = DefaultTenantsMax
	}
	if l.bodyBytesMax == 0 {
		l.bodyBytesMax = DefaultBodyBytesMax
	}
	l.policy = l.policyField()
	l.allowed = [2]string{inWords(requests), inWords(bytes)}
	return l, nil
}

// Decision is whether a request may go on, and what its tenant may use after it.
type Decision struct {
	// Refusal is nil where the request may go on. A refused request costs nothing.
	Refusal *Refusal
	// RequestsLeft and BytesLeft may be used at once; 0 where there is no limit.
	RequestsLeft, BytesLeft int64

	// requestsWait and bytesWait are how long until one more unit may be used.
	requestsWait, bytesWait time.Duration
}

// Take decides about a request with a body of so many bytes, and charges both. Of a
// body of unknown length, -1, [Limiter.Spend] is told as it is read; it may begin
// while its tenant is not in debt. A request without a body does not wait for a debt
// of bytes.
func (l *Limiter) Take(tenant string, bodyBytes int64, now time.Time) Decision {
	bodyBytes = min(bodyBytes, l.bodyBytesMax)
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.find(tenant, now)
	refusal := l.refuse(t, bodyBytes)
	if refusal == nil {
		if l.requests.limited() {
			t.requests = l.requests.use(t.requests, 1)
		}
		if l.bytes.limited() && bodyBytes > 0 {
			t.bytes = l.bytes.use(t.bytes, bodyBytes)
		}
	}
	d := Decision{Refusal: refusal}
	if l.requests.limited() {
		d.RequestsLeft, d.requestsWait = l.requests.left(t.requests), l.requests.wait(t.requests, 1)
	}
	if l.bytes.limited() {
		d.BytesLeft, d.bytesWait = l.bytes.left(t.bytes), l.bytes.wait(t.bytes, 1)
	}
	return d
}

// refuse names the limit that a request must wait for, the longer of two; nil for
// none.
func (l *Limiter) refuse(t *levels, bodyBytes int64) *Refusal {
	var forRequests, forBytes time.Duration
	if l.requests.limited() {
		forRequests = l.requests.wait(t.requests, 1)
	}
	if l.bytes.limited() && bodyBytes != 0 {
		forBytes = l.bytes.wait(t.bytes, max(1, bodyBytes))
	}
	switch {
	case forRequests == 0 && forBytes == 0:
		return nil
	case forRequests >= forBytes:
		return &Refusal{name: requestsLimit, allowed: l.allowed[0], retryAfter: forRequests}
	default:
		return &Refusal{name: bytesLimit, allowed: l.allowed[1], retryAfter: forBytes}
	}
}

// Spend charges bytes of a body that did not announce its length, after they were
// read. What is more than there was becomes a debt, of [DebtMax] at most.
func (l *Limiter) Spend(tenant string, bytes int64, now time.Time) {
	if !l.bytes.limited() || bytes <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.find(tenant, now)
	t.bytes = l.bytes.use(t.bytes, bytes)
}

// Tenants is how many tenants are remembered.
func (l *Limiter) Tenants() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.tenants)
}

// find returns a tenant's levels as they are now.
func (l *Limiter) find(tenant string, now time.Time) *levels {
	at := now.Sub(l.epoch)
	if t := l.tenants[tenant]; t != nil {
		l.advance(t, at)
		return t
	}
	l.advance(&l.strangers, at)
	if len(l.tenants) >= l.tenantsMax && !l.forgetOne(at) {
		return &l.strangers
	}
	t := l.strangers
	l.tenants[tenant] = &t
	return &t
}

// forgetOne forgets a tenant with full buckets, if one is soon found.
func (l *Limiter) forgetOne(at time.Duration) bool {
	probes := 0
	for tenant, t := range l.tenants { // begins anywhere
		l.advance(t, at)
		if t.requests == l.requests.full && t.bytes == l.bytes.full {
			delete(l.tenants, tenant)
			return true
		}
		if probes++; probes >= evictProbes {
			break
		}
	}
	return false
}

// advance lets the time until at pass for a tenant.
func (l *Limiter) advance(t *levels, at time.Duration) {
	elapsed := at - t.at
	if elapsed < 0 {
		if elapsed < -clockStepMax {
			t.at = at
		}
		return
	}
	t.at = at
	t.requests = l.requests.refill(t.requests, elapsed)
	t.bytes = l.bytes.refill(t.bytes, elapsed)
}
