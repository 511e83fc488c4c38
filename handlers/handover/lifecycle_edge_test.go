package handover

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

// An event that the service refuses is never left out; what is before it still goes.
func TestARefusedEventIsTriedForEver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.queue("q", 1)
	ids := b.publish("q", 40, 1)
	poison := ids[20]
	s := newService(t, nil)
	refuse := func(*http.Request) int {
		if strings.Contains(s.last(), `"id":"`+poison+`"`) {
			return http.StatusBadRequest
		}
		return http.StatusOK
	}
	s.set(refuse)
	f, _ := b.forward(b.eventsTo(s))
	require.Eventually(t, func() bool {
		taken := s.events(false)
		return len(taken) > 0 && taken[len(taken)-1].ID == ids[19]
	}, time.Minute, time.Millisecond)
	before := len(s.got())
	require.Eventually(t, func() bool { return len(s.got()) > before+2*RefusalsMax }, time.Minute, time.Millisecond)
	require.Equal(t, "the service answered 400 Bad Request", b.status(f, EventsName, StateFailing).LastError)
	require.Equal(t, ids[19], s.events(false)[len(s.events(false))-1].ID)
	s.set(nil)
	b.requireEvents(s)
	b.status(f, EventsName, StateIdle)
}

func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.queue("q", 1)
	for range 3 {
		b.publish("q", 10, 1, func(c *commands.Publish) { c.Payload = json.RawMessage(`"` + strings.Repeat("x", 300_000) + `"`) })
	}
	b.publish("q", 1, 1, func(c *commands.Publish) {
		c.Payload = json.RawMessage(`"` + strings.Repeat("x", BatchBytesMax+1) + `"`)
	})
	s := newService(t, nil)
	b.forward(b.eventsTo(s))
	b.requireEvents(s)
	for _, r := range s.got() {
		var batch []lifecycleEvent
		require.NoError(t, json.Unmarshal(r.body, &batch))
		bytes := 0
		for _, e := range batch {
			bytes += len(e.Data)
		}
		require.True(t, bytes <= BatchBytesMax || len(batch) == 1, "%d events of %d bytes", len(batch), bytes)
	}
	// a service that takes less gets less at once
	b = setup(t)
	b.queue("q", 1)
	b.publish("q", 100, 1)
	s = newService(t, nil)
	s.set(func(*http.Request) int {
		if len(s.last()) > 5000 {
			return http.StatusRequestEntityTooLarge
		}
		return http.StatusOK
	})
	b.forward(b.eventsTo(s))
	b.requireEvents(s)
}

func TestEventsWaitForTheirPayloadsToBeOpened(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.queue("q", 1)
	b.publish("q", 1, 1)
	s := newService(t, nil)
	cfg := b.eventsTo(s)
	failures := 0
	cfg.OpenEvent = func(_ context.Context, tenantID, kind string, data []byte) ([]byte, error) {
		if kind != "message.published" || tenantID != platform {
			return data, nil
		}
		if failures++; failures < 5 {
			return nil, io.ErrUnexpectedEOF
		}
		return []byte(`"opened"`), nil
	}
	b.forward(cfg)
	b.requireEvents(s)
	all := s.events(false)
	require.Equal(t, `"opened"`, string(all[len(all)-1].Data))
}

// last is the body of the last request that came: of a service that one shard sends to.
func (s *service) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.receipts[len(s.receipts)-1].body)
}
