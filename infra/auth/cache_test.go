package auth

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRememberedTokenRunsOut(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	token := signers[0].token(nil, map[string]any{"exp": testNow.Add(time.Minute).Unix()})
	b.requireGood(t, token)
	b.clock.forward(time.Minute + Leeway - time.Nanosecond)
	b.requireGood(t, token)
	b.clock.forward(time.Nanosecond)
	b.requireError(t, token, ErrInvalid, "expired")
}

func TestCallersDoNotShareScopes(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	token := signers[0].token(nil, nil)
	for range 3 {
		claims, err := b.Verify(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, []string{ScopePublish, ScopeRead}, claims.Scopes)
		claims.Scopes[0] = ScopeAdmin
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c cache
	digest := func(i int) [sha256.Size]byte { return sha256.Sum256([]byte(fmt.Sprint(i))) }
	claims := Claims{Subject: "s", ExpiresAt: testNow.Add(time.Hour)}
	c.remember(digest(-1), claims)
	for i := range 3 * CachedTokensMax {
		c.remember(digest(i), claims)
		require.LessOrEqual(t, len(c.young)+len(c.old), CachedTokensMax)
		_, used := c.recall(digest(-1), testNow)
		require.True(t, used, "what is in use is kept")
	}
	_, ok := c.recall(digest(0), testNow)
	require.False(t, ok)
	_, ok = c.recall(digest(3*CachedTokensMax-1), testNow)
	require.True(t, ok)
}
