package handover

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// receipt is a request that a service got.
type receipt struct {
	header http.Header
	body   []byte
	// status is what it was answered with, 0 for nothing.
	status int
}

func (r receipt) id() string { return r.header.Get("Ce-Id") }

// service is one that things are handed on to. It can go away and come back.
type service struct {
	t       testing.TB
	address string

	mu       sync.Mutex
	server   *http.Server
	receipts []receipt
	// behave answers a request, 0 with nothing; nil is 204.
	behave func(r *http.Request) int
}

func newService(t testing.TB, behave func(r *http.Request) int) *service {
	t.Helper()
	s := &service{t: t, address: "127.0.0.1:0", behave: behave}
	s.up()
	t.Cleanup(s.down)
	return s
}

func (s *service) url() string { return "http://" + s.address + "/handed/on?x=1" }

func (s *service) up() {
	listener, err := net.Listen("tcp", s.address)
	require.NoError(s.t, err)
	s.address = listener.Addr().String()
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

// down breaks all connections.
func (s *service) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.server.Close()
}

func (s *service) set(behave func(r *http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behave = behave
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was cut off: nothing was received
	}
	s.mu.Lock()
	at := len(s.receipts)
	s.receipts = append(s.receipts, receipt{header: r.Header, body: body})
	behave := s.behave
	s.mu.Unlock()
	status := http.StatusNoContent
	if behave != nil {
		status = behave(r)
	}
	s.mu.Lock()
	s.receipts[at].status = status
	s.mu.Unlock()
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Retry-After", "0")
	w.WriteHeader(status)
}

func (s *service) got() []receipt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.receipts)
}

// taken are the ids of messages that it has taken, each once, in the order in which
// they first came, whatever it answered then.
func (s *service) taken() map[string]bool {
	out := map[string]bool{}
	for _, r := range s.got() {
		if r.status/100 == 2 {
			out[r.id()] = true
		}
	}
	return out
}

// requireAll waits until the service has taken messages.
func (s *service) requireAll(ids []string) {
	s.t.Helper()
	missing := ""
	require.Eventually(s.t, func() bool {
		taken := s.taken()
		for _, id := range ids {
			if !taken[id] {
				missing = id
				return false
			}
		}
		return true
	}, 2*time.Minute, 5*time.Millisecond, "message %s is missing", missing)
}

// requireOrder requires that of each partition, every message came for the first time
// after all that are before it.
func (s *service) requireOrder() {
	s.t.Helper()
	next := map[string]int64{}
	for _, r := range s.got() {
		partition := r.header.Get("Ce-Partition")
		offset, err := strconv.ParseInt(r.header.Get("Ce-Offset"), 10, 64)
		require.NoError(s.t, err)
		require.LessOrEqual(s.t, offset, next[partition], "partition %s", partition)
		if offset == next[partition] {
			next[partition]++
		}
	}
}

// moody answers at random: well, late, not at all, with a fault, that it is too much.
func moody(r *http.Request) int {
	switch n := chance(100); {
	case n < 60:
		return http.StatusOK
	case n < 70:
		return http.StatusServiceUnavailable
	case n < 78:
		return http.StatusTooManyRequests
	case n < 86:
		return 0
	case n < 90: // hangs until the other side has enough
		<-r.Context().Done()
		return 0
	default: // late
		t := time.NewTimer(time.Duration(chance(100)) * time.Millisecond)
		defer t.Stop()
		<-t.C
		return http.StatusAccepted
	}
}

// chance is one of 0 to n-1.
func chance(n int) int { return rand.IntN(n) } //nolint:gosec // not a secret

// lifecycleEvent is what tests look at of an event.
type lifecycleEvent struct {
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	Tenantid string          `json:"tenantid"`
	Shard    int             `json:"shard"`
	Position string          `json:"position"`
	Data     json.RawMessage `json:"data"`
}

// events are those of all batches that were taken, in order.
func (s *service) events(all bool) []lifecycleEvent {
	s.t.Helper()
	var out []lifecycleEvent
	for _, r := range s.got() {
		if r.header.Get("Content-Type") != mimeBatch || (!all && r.status/100 != 2) {
			continue
		}
		var batch []lifecycleEvent
		require.NoError(s.t, json.Unmarshal(r.body, &batch))
		out = append(out, batch...)
	}
	return out
}
