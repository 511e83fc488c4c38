//go:build stress

package redis

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
)

// Watermill's stress test: its suite STRESS_TEST_COUNT times at once, 10 by default.
func TestWatermillSuiteStress(t *testing.T) {
	t.Parallel()
	s, features := newSuite(t, 64, sharedGroup)
	tests.TestPubSubStressTest(t, features, s.pubSub, s.pubSubOf)
}
