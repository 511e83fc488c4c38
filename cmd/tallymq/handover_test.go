package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
)

// takingService stands in for one of the platform's: it takes everything, now and then
// only when asked again.
type takingService struct {
	url string

	mu       sync.Mutex
	requests int
	refused  []string
	// messages are the payloads' n by queue and key, each once, in the order in which
	// they came; events the shard and position of each event.
	messages map[string][]int
	seen     map[string]bool
	events   map[string]bool
}

func newTakingService(t testing.TB, token string) *takingService {
	t.Helper()
	s := &takingService{messages: map[string][]int{}, seen: map[string]bool{}, events: map[string]bool{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.requests++; s.requests%5 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.Header.Get(headerToken) != token {
			s.refused = append(s.refused, "wrong token")
		}
		if err := s.take(r.Header, body); err != nil {
			s.refused = append(s.refused, err.Error())
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *takingService) take(h http.Header, body []byte) error {
	if strings.HasPrefix(h.Get("Content-Type"), "application/cloudevents-batch+json") {
		var batch []struct {
			Shard    int    `json:"shard"`
			Position string `json:"position"`
		}
		if err := json.Unmarshal(body, &batch); err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		for _, e := range batch {
			s.events[fmt.Sprint(e.Shard, "/", e.Position)] = true
		}
		return nil
	}
	var payload struct {
		N int `json:"n"`
	}
	if err := json.Unmarshal(body, &payload); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if id := h.Get("Ce-Id"); !s.seen[id] {
		s.seen[id] = true
		_, queue, _ := strings.Cut(h.Get("Ce-Source"), "/queues/")
		name := queue + " " + h.Get("Ce-Partitionkey")
		s.messages[name] = append(s.messages[name], payload.N)
	}
	return nil
}

// got returns how many messages came.
func (s *takingService) got() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// What the internal API takes reaches the services it is for, and everything that
// happens reaches the audit service, whichever instance is there to hand it on.
func TestThePlatformsServicesGetWhatIsForThem(t *testing.T) {
	t.Parallel()
	const token, keys, each = "the platform's own token", 3, 12
	user, notification, audit := newTakingService(t, token), newTakingService(t, token), newTakingService(t, token)
	cfg := testConfig(t)
	cfg.ServiceToken, cfg.UserURL, cfg.NotificationURL, cfg.AuditURL = token, user.url, notification.url, audit.url
	headers := []string{headerToken, token, headerTenant, devTenant}
	publish := func(i *instance, from int) {
		for _, queue := range []string{"user-events", "user-notifications", "notifications", "audit-logs"} {
			for n := from; n < from+each; n++ {
				body := fmt.Sprintf(`{"key":"k%d","payload":{"n":%d}}`, n%keys, n)
				i.call(http.MethodPost, internalPrefix+"/"+queue, body, headers...).is(http.StatusCreated)
			}
		}
	}
	arrived := func(n int) {
		for s, queues := range map[*takingService]int{user: 2, notification: 1, audit: 1} {
			eventually(t, "messages arrive", func() bool { return s.got() == queues*n })
		}
	}
	first := start(t, cfg, token)
	second := start(t, cfg, token)
	eventually(t, "the queues are made", func() bool {
		return first.call(http.MethodGet, internalPrefix+"/notification-queue", nil, headers...).status == http.StatusOK &&
			first.call(http.MethodGet, internalPrefix+"/audit-queue-status", nil, headers...).status == http.StatusOK
	})
	publish(first, 0)
	arrived(each)
	// when one instance ends, the other goes on
	require.NoError(t, first.stop())
	publish(second, each)
	arrived(2 * each)
	// and so does one that comes later, of what nobody was there for
	publish(second, 2*each)
	require.NoError(t, second.stop())
	third := start(t, cfg, token)
	arrived(3 * each)

	for s, queues := range map[*takingService][]string{user: {"user-events", "user-notifications"}, notification: {"notifications"}, audit: {"audit-logs"}} {
		s.mu.Lock()
		require.Empty(t, s.refused)
		require.Len(t, s.messages, len(queues)*keys)
		for _, queue := range queues {
			for k := range keys {
				var want []int
				for n := k; n < 3*each; n += keys {
					want = append(want, n)
				}
				require.Equal(t, want, s.messages[fmt.Sprintf("%s k%d", queue, k)])
			}
		}
		if s != audit {
			require.Empty(t, s.events)
		}
		s.mu.Unlock()
	}
	third.call(http.MethodPost, apiPrefix+"/queues", `{"name":"orders"}`, headers...).is(http.StatusCreated) // another tenant's events are handed on too
	requireAudited(t, cfg.DatabaseURL, audit)
}

// requireAudited waits until an audit service has all that is in the history.
func requireAudited(t testing.TB, databaseURL string, audit *takingService) {
	t.Helper()
	pool, err := postgres.Open(t.Context(), databaseURL)
	require.NoError(t, err)
	defer pool.Close()
	eventually(t, "all events arrive", func() bool {
		var all, consumed int
		err := pool.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE kind = 'message.consumed') FROM event_history`).Scan(&all, &consumed)
		audit.mu.Lock()
		defer audit.mu.Unlock()
		return err == nil && consumed > 0 && len(audit.events) == all
	})
}
