package handover

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	cloudevents "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

const consumedSQL = `SELECT count(*) FROM message_records WHERE status = 'consumed'`

func (b *testBundle) to(queue string, s *service) Config {
	cfg := b.config()
	cfg.Queues = []Queue{{Name: queue, URL: s.url()}}
	return cfg
}

func TestMessagesArriveAsCloudEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, nil)
	b.queue("user-events", 1)
	traceparent := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ids := b.publish("user-events", 2, 1, func(c *commands.Publish) {
		c.Key, c.CorrelationID, c.TraceParent = `clé "1" 100%`, "corr", traceparent
		c.ContentType, c.Headers = "application/vnd.user+json", map[string]string{
			"plain": "v", "Evil": "a\r\nX-Service-Token: stolen", "na me": "x", "na:me": "x", "x\r\ny": "x", "é": "x",
			"authorization": "mine", strings.Repeat("n", 101): "x",
		}
	})
	f, _ := b.forward(b.to("user-events", s))
	s.requireAll(ids)
	b.count(2, consumedSQL)
	require.Equal(t, int64(2), b.status(f, "user-events", StateIdle).HandedOn)
	got := s.got()
	require.Len(t, got, 2, "each once")
	h := got[0].header
	require.Equal(t, `{"n" : 0}`, string(got[0].body), "byte for byte")
	require.Equal(t, []string{token}, h["X-Service-Token"])
	require.Equal(t, "application/vnd.user+json", h.Get("Content-Type"))
	require.Equal(t, traceparent, h.Get("Traceparent"))
	require.Equal(t, "cl%C3%A9%20%221%22%20100%25", h.Get("Ce-Partitionkey"))
	var custom []string
	for name, values := range h {
		if strings.HasPrefix(name, "X-Message-") {
			custom = append(custom, name+"="+strings.Join(values, ","))
		}
	}
	require.ElementsMatch(t, []string{"X-Message-Plain=v", "X-Message-Evil=a%0D%0AX-Service-Token:%20stolen", "X-Message-Authorization=mine"}, custom)
	require.Empty(t, h.Get("Authorization"))
	// as others read it
	e, err := binding.ToEvent(t.Context(), cloudevents.NewMessage(h, io.NopCloser(bytes.NewReader(got[0].body))))
	require.NoError(t, err)
	require.NoError(t, e.Validate())
	require.Equal(t, "1.0", e.SpecVersion())
	require.Equal(t, ids[0], e.ID())
	require.Equal(t, "tallymq.message", e.Type())
	require.Equal(t, "/tenants/"+platform+"/queues/user-events", e.Source())
	key, err := url.PathUnescape(text(e.Extensions()["partitionkey"])) // which the SDK leaves to its caller
	require.NoError(t, err)
	require.Equal(t, `clé "1" 100%`, key)
	require.Equal(t, map[string]any{"partitionkey": e.Extensions()["partitionkey"], "partition": "0", "offset": "0", "correlationid": "corr"}, e.Extensions())
	require.Equal(t, "application/vnd.user+json", e.DataContentType())
	require.Equal(t, `{"n" : 0}`, string(e.Data()))
	require.WithinDuration(t, time.Now(), e.Time(), time.Minute)
	require.Equal(t, "1", got[1].header.Get("Ce-Offset"))
}

func TestOrderAndCompletenessWhileTheServiceMisbehaves(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, moody)
	b.queue("user-events", 4)
	f, _ := b.forward(b.to("user-events", s), func(p *pace) { p.timeout = 300 * time.Millisecond })
	var ids []string
	for range 5 {
		ids = append(ids, b.publish("user-events", 60, 7)...)
		require.Eventually(t, func() bool { return len(s.taken()) > chance(len(ids)) }, time.Minute, time.Millisecond)
		s.down()
		b.status(f, "user-events", StateFailing)
		s.up()
	}
	s.requireAll(ids)
	s.requireOrder()
	b.count(len(ids), consumedSQL)
	b.status(f, "user-events", StateIdle)
}

func TestASuccessorGoesOnWhereItsPredecessorEnded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, func(r *http.Request) int {
		if chance(4) == 0 {
			return moody(r)
		}
		return http.StatusOK
	})
	b.queue("user-events", 4)
	cfg := b.to("user-events", s)
	quickly := func(p *pace) { p.timeout = 300 * time.Millisecond }
	_, stop := b.forward(cfg, quickly)
	var ids []string
	for range 10 {
		before := len(s.taken())
		ids = append(ids, b.publish("user-events", 100, 11)...)
		_, stopNext := b.forward(cfg, quickly) // stands by
		enough := before + 1 + chance(60)
		require.Eventually(t, func() bool { return len(s.taken()) >= enough }, time.Minute, time.Millisecond)
		stop()
		stop = stopNext
	}
	s.requireAll(ids)
	s.requireOrder()
	b.count(len(ids), consumedSQL)
}

func TestACrashRepeatsAtMostAWindow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, nil)
	b.queue("user-events", 2)
	ids := b.publish("user-events", 3*WindowMax, 5)
	cfg := b.to("user-events", s)
	dying := cfg
	dying.Commands = hang{Commands: b.Dispatcher}
	_, stop := b.forward(dying)
	require.Eventually(t, func() bool { return len(s.taken()) == WindowMax }, time.Minute, time.Millisecond)
	stop()
	b.forward(cfg)
	s.requireAll(ids)
	s.requireOrder()
	requests := len(s.got())
	require.Equal(t, len(ids)+WindowMax, requests, "what was not settled came again, all else once")
	b.count(len(ids), consumedSQL)
}

// hang is a write side on which no settlement gets through.
type hang struct{ Commands }

func (hang) Ack(_ context.Context, _ commands.Caller, _ string, _ []string) ([]commands.Settled, error) {
	return nil, commands.ErrUnavailable
}

func TestARefusedMessageBecomesADeadLetterAndOthersGoOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var poison string
	s := newService(t, nil)
	b.queue("user-events", 1)
	ids := b.publish("user-events", 10, 3)
	poison = ids[4]
	s.set(func(r *http.Request) int {
		if r.Header.Get("Ce-Id") == poison {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	b.forward(b.to("user-events", s))
	s.requireAll(append(ids[:4:4], ids[5:]...))
	s.requireOrder()
	b.count(1, `SELECT count(*) FROM message_records WHERE status = 'dead_letter'`)
	b.count(9, consumedSQL)
	tries := 0
	for _, r := range s.got() {
		if r.id() == poison {
			tries++
		}
	}
	require.Equal(t, RefusalsMax, tries)
	var reason string
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT data->>'error' FROM event_history WHERE kind = 'message.dead_lettered'`).Scan(&reason))
	require.Equal(t, "the service answered 422 Unprocessable Entity", reason)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	elsewhere := newService(t, nil)
	var tries atomic.Int64
	s := newService(t, func(*http.Request) int {
		tries.Add(1)
		return http.StatusTemporaryRedirect
	})
	b.queue("user-events", 1)
	b.publish("user-events", 1, 1)
	b.forward(b.to("user-events", s))
	require.Eventually(t, func() bool { return tries.Load() > RefusalsMax+1 }, 30*time.Second, 10*time.Millisecond)
	require.Empty(t, elsewhere.got())
	b.count(0, `SELECT count(*) FROM message_records WHERE status = 'dead_letter'`)
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
