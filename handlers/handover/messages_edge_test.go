package handover

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

func TestASlowServiceHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	release := make(chan struct{})
	slow := newService(t, func(r *http.Request) int {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return http.StatusOK
	})
	well := newService(t, nil)
	cfg := b.config()
	cfg.Queues = []Queue{{Name: "user-events", URL: slow.url()}, {Name: "notifications", URL: well.url()}}
	b.queue("user-events", 4)
	b.queue("notifications", 4)
	stuck := b.publish("user-events", 100, 10)
	f, _ := b.forward(cfg, func(p *pace) { p.timeout = time.Minute })
	require.Eventually(t, func() bool { return len(slow.got()) > 0 }, time.Minute, time.Millisecond)
	well.requireAll(b.publish("notifications", 200, 10))
	require.Equal(t, StateOK, b.status(f, "user-events", StateOK).State)
	require.Empty(t, slow.taken())
	close(release)
	slow.requireAll(stuck)
}

func TestLeasesAreRenewedAndWhatIsGoneIsGivenUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, func(*http.Request) int { return http.StatusInternalServerError })
	b.queue("user-events", 1)
	b.publish("user-events", 5, 1)
	f, _ := b.forward(b.to("user-events", s), func(p *pace) { p.extendEvery = 10 * time.Millisecond })
	require.Contains(t, b.status(f, "user-events", StateFailing).LastError, "500")
	_, err := b.PurgeQueue(t.Context(), b.platform(), "user-events", nil)
	require.NoError(t, err)
	b.status(f, "user-events", StateIdle)
	s.set(nil)
	s.requireAll(b.publish("user-events", 5, 1))
}

func TestAQueueThatIsMadeLaterOrAnewIsFound(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, nil)
	f, _ := b.forward(b.to("user-events", s))
	require.Contains(t, b.status(f, "user-events", StateFailing).LastError, "no queue")
	b.queue("user-events", 1)
	s.requireAll(b.publish("user-events", 3, 1))
	_, err := b.DeleteQueue(t.Context(), b.platform(), "user-events", nil)
	require.NoError(t, err)
	b.queue("user-events", 2)
	s.requireAll(b.publish("user-events", 3, 1))
}

func TestAPayloadThatIsNotJSONKeepsItsType(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, nil)
	b.queue("user-events", 1)
	s.requireAll(func() []string {
		ids := b.publish("user-events", 1, 1, func(c *commands.Publish) {
			c.ContentType, c.Payload = "text/plain", json.RawMessage(`"héllo"`)
		})
		b.forward(b.to("user-events", s))
		return ids
	}())
	r := s.got()[0]
	require.Equal(t, "application/json", r.header.Get("Content-Type"))
	require.Equal(t, "text/plain", r.header.Get("Ce-Messagecontenttype"))
	require.Equal(t, `"héllo"`, string(r.body))
}

func TestWithoutAURLNothingIsDone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.queue("user-events", 1)
	b.publish("user-events", 3, 1)
	cfg := b.config()
	cfg.Queues = []Queue{{Name: "user-events"}}
	f := New(cfg)
	f.Run(t.Context()) // at once
	require.Empty(t, f.Status())
	b.count(0, `SELECT count(*) FROM message_subscriptions`)
	b.count(0, `SELECT count(*) FROM handover_checkpoints`)
}
