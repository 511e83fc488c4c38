package auth

import (
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

// CachedTokensMax bounds how many good tokens are remembered. Each takes at most
// about 1 KiB, most far less.
const CachedTokensMax = 8192

// cache remembers good tokens by their SHA-256, so that a caller's second request
// costs no signature check. Two generations make it forget what is no longer used.
type cache struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]Claims
}

func (c *cache) recall(digest [sha256.Size]byte, now time.Time) (Claims, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	claims, ok := c.young[digest]
	if !ok {
		if claims, ok = c.old[digest]; ok {
			c.keep(digest, claims)
		}
	}
	// One that has run out is judged anew, for the right reason.
	if !ok || !now.Before(claims.ExpiresAt.Add(Leeway)) {
		return Claims{}, false
	}
	claims.Scopes = slices.Clone(claims.Scopes)
	return claims, true
}

func (c *cache) remember(digest [sha256.Size]byte, claims Claims) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(digest, claims)
}

// keep needs the lock.
func (c *cache) keep(digest [sha256.Size]byte, claims Claims) {
	if c.young == nil || len(c.young) >= CachedTokensMax/2 {
		c.young, c.old = map[[sha256.Size]byte]Claims{}, c.young
	}
	c.young[digest] = claims
}
