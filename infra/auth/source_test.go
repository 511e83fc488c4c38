package auth

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

const (
	logGone    = "The auth service gives no keys"
	logBack    = "The auth service gives keys again"
	logChanged = "The keys of tokens changed"
)

func TestNewKeyWorksWithoutRestart(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	old, next := signers[1].signer, signer{"ec-2", jwt.SigningMethodES256, ecOther}
	b.requireGood(t, old.token(nil, nil))
	b.clock.forward(DemandInterval)
	b.service.publish(old.jwk(nil), next.jwk(nil))
	b.requireGood(t, next.token(nil, nil))
	b.requireGood(t, old.token(nil, nil))
	require.EqualValues(t, 2, b.service.fetches.Load())
	require.Equal(t, 2, b.logs.count(logChanged))
}

func TestOldKeyStopsWhenItLeavesTheSet(t *testing.T) {
	t.Parallel()
	b := setup(t, 10*time.Millisecond)
	b.run(t)
	old, next := signers[1].signer, signer{"ec-2", jwt.SigningMethodES256, ecOther}
	token := old.token(nil, nil)
	b.requireGood(t, token)
	b.service.publish(next.jwk(nil))
	require.Eventually(t, func() bool { _, err := b.Verify(t.Context(), token); return errors.Is(err, ErrInvalid) }, 5*time.Second, 5*time.Millisecond)
	b.requireError(t, token, ErrInvalid, "not known")
	b.requireGood(t, next.token(nil, nil))
}

// The same kid with another key is another key.
func TestKeyReplacedUnderItsName(t *testing.T) {
	t.Parallel()
	b := setup(t, 10*time.Millisecond)
	b.run(t)
	old, next := signers[2].signer, signer{"ed-1", jwt.SigningMethodEdDSA, edOther}
	token := old.token(nil, nil)
	b.requireGood(t, token)
	b.service.publish(next.jwk(nil))
	require.Eventually(t, func() bool { _, err := b.Verify(t.Context(), token); return errors.Is(err, ErrInvalid) }, 5*time.Second, 5*time.Millisecond)
	b.requireGood(t, next.token(nil, nil))
}

func TestSameSetKeepsGoodTokens(t *testing.T) {
	t.Parallel()
	b := setup(t, 5*time.Millisecond)
	b.run(t)
	b.requireGood(t, signers[0].token(nil, nil))
	set := b.keys.current()
	seen := b.service.fetches.Load()
	require.Eventually(t, func() bool { return b.service.fetches.Load() > seen+2 }, 5*time.Second, time.Millisecond)
	require.Same(t, set, b.keys.current())
	require.Equal(t, 1, b.logs.count(logChanged))
}

func TestUnknownKeysStorm(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	b.requireGood(t, signers[0].token(nil, nil))
	for interval := range 3 {
		b.clock.forward(DemandInterval)
		var wg sync.WaitGroup
		for worker := range 16 {
			wg.Go(func() {
				for i := range 20 {
					kid := fmt.Sprintf("forged-%d-%d", worker, i)
					_, err := b.Verify(t.Context(), signer{kid, jwt.SigningMethodEdDSA, edOther}.token(nil, nil))
					if !errors.Is(err, ErrInvalid) {
						t.Errorf("a forged kid: %v", err)
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, interval+2, b.service.fetches.Load())
	}
	b.clock.forward(DemandInterval - time.Nanosecond)
	b.requireError(t, signer{"x", jwt.SigningMethodEdDSA, edOther}.token(nil, nil), ErrInvalid, "not known")
	require.EqualValues(t, 4, b.service.fetches.Load())
}

// Many callers with the new key share one fetch, and all get in.
func TestNewKeyStormSharesOneFetch(t *testing.T) {
	t.Parallel()
	b := setup(t, 0)
	b.requireGood(t, signers[0].token(nil, nil))
	b.clock.forward(DemandInterval)
	next := signer{"ed-2", jwt.SigningMethodEdDSA, edOther}
	b.service.publish(next.jwk(nil))
	published := *b.service.answer.Load()
	release := make(chan struct{})
	b.service.do(func(w http.ResponseWriter, r *http.Request) { <-release; published(w, r) })
	var wg sync.WaitGroup
	for i := range 200 {
		token := next.token(nil, map[string]any{"sub": fmt.Sprint(i)})
		wg.Go(func() {
			if _, err := b.Verify(t.Context(), token); err != nil {
				t.Errorf("a new key: %v", err)
			}
		})
	}
	require.Eventually(t, func() bool { return b.service.fetches.Load() == 2 }, 5*time.Second, time.Millisecond)
	close(release)
	wg.Wait()
	require.EqualValues(t, 2, b.service.fetches.Load())
}

// A forged kid does not use up what the background needs, nor the other way round.
func TestBackgroundFetchDoesNotDelayDemand(t *testing.T) {
	t.Parallel()
	b := setup(t, time.Hour)
	b.run(t)
	require.Eventually(t, func() bool { return b.Ready() == nil }, 5*time.Second, time.Millisecond)
	next := signer{"ed-2", jwt.SigningMethodEdDSA, edOther}
	b.service.publish(next.jwk(nil))
	b.requireGood(t, next.token(nil, nil))
}

// Readers, rotations, outages and storms at once: for the race detector.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, time.Millisecond)
	b.run(t)
	b.requireGood(t, signers[0].token(nil, nil))
	keys := []map[string]any{signers[0].jwk(nil), signers[1].jwk(nil), signers[2].jwk(nil)}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 100 {
				switch worker {
				case 0:
					b.service.publish(keys[:1+i%3]...)
				case 1:
					b.service.fail()
					_ = b.Ready()
					_ = b.Degraded()
				default:
					b.clock.forward(time.Second)
					if _, err := b.Verify(t.Context(), signers[0].token(nil, map[string]any{"jti": i / 10})); err != nil {
						t.Errorf("a key that is always there: %v", err)
					}
					_, err := b.Verify(t.Context(), signers[1].token(nil, nil))
					if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnavailable) {
						t.Errorf("neither: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}
