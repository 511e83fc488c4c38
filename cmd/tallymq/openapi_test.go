package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/config"
)

// The document is the truth: each of its examples is sent and taken, each status of
// each operation is provoked, and every answer is as the document says.
func TestTheDocumentIsTrue(t *testing.T) { //nolint:tparallel // what was met is counted when all have ended
	t.Parallel()
	s := newStage(t)
	t.Run("operations", func(t *testing.T) {
		var internal []documentedOp
		for _, op := range operationsOf(s.truth.doc) {
			if strings.HasPrefix(op.path, internalPrefix) {
				internal = append(internal, op)
				continue
			}
			t.Run(op.OperationID, func(t *testing.T) {
				t.Parallel()
				s.prove(t, op)
			})
		}
		t.Run("internal", func(t *testing.T) {
			t.Parallel()
			for _, op := range internal {
				s.prove(t, op) // one by one: they share the platform's queues
			}
		})
	})
	for _, op := range operationsOf(s.truth.doc) {
		for _, status := range op.statuses() {
			assert.True(t, s.truth.met[fmt.Sprint(op.OperationID, " ", status)], "%s: %d is documented and was not provoked", op.OperationID, status)
		}
	}
	assert.Equal(t, documentedCodes(s.truth), keys(s.truth.codes), "codes that are documented, and those that came")
}

// everywhere are statuses that any operation might have.
var everywhere = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusPreconditionFailed,
	http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable,
}

// prove sends each example of an operation and then provokes each of its statuses.
func (s *stage) prove(t *testing.T, op documentedOp) {
	t.Helper()
	for _, e := range op.examples() {
		c := s.newScene(t, op)
		got := s.truth.send(t, s.main.url, c.request(op, e))
		require.Less(t, got.status, http.StatusMultipleChoices, "%s: example %q is not taken: %s", op.OperationID, e.name, got.body)
	}
	for _, status := range op.statuses() {
		s.provoke(t, op, status, s.wayTo(op, status))
	}
	// What would provoke a status elsewhere gets no answer here that is not documented.
	for _, status := range everywhere {
		if !slices.Contains(op.statuses(), status) {
			c := s.newScene(t, op)
			i, r := commonWays[status](c, op)
			s.truth.send(t, i.url, r)
		}
	}
	if slices.Contains(op.scopes(), web.ScopePublish) {
		status := http.StatusTooManyRequests
		if success, ok := takesNoRoom[op.OperationID]; ok {
			status = success
		}
		s.provoke(t, op, status, full)
	}
}

func (s *stage) wayTo(op documentedOp, status int) way {
	if own, ok := ways[op.OperationID][status]; ok {
		return own
	}
	return commonWays[status]
}

func (s *stage) provoke(t *testing.T, op documentedOp, status int, provoke way) {
	t.Helper()
	require.NotNil(t, provoke, "%s: nothing provokes %d", op.OperationID, status)
	c := s.newScene(t, op)
	i, r := provoke(c, op)
	got := s.truth.send(t, i.url, r)
	require.Equal(t, status, got.status, "%s %s: %s", op.method, op.path, got.body)
	for _, undo := range c.undo {
		undo()
	}
}

// documentedCodes are the codes of errors by status.
func documentedCodes(d *truth) []string {
	found := map[string]bool{}
	for _, op := range operationsOf(d.doc) {
		for _, status := range op.statuses() {
			for _, media := range op.Responses.Status(status).Value.Content {
				for _, part := range media.Schema.Value.AllOf {
					if code := part.Value.Properties["code"]; part.Ref == "" && code != nil {
						for _, value := range code.Value.Enum {
							found[fmt.Sprint(status, " ", value)] = true
						}
					}
				}
			}
		}
	}
	return keys(found)
}

func keys(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for key := range set {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{truth: newTruth(t), auth: newAuthService(t)}
	configure := func(cfg config.Config, change func(*config.Config)) config.Config {
		cfg.AuthURL, cfg.AuthIssuer, cfg.PlatformTenant = s.auth.url, accessIssuer, platformTenant
		change(&cfg)
		return cfg
	}
	s.main = start(t, configure(testConfig(t), func(cfg *config.Config) { cfg.QueueLengthMax = queueFullAt }), accessToken)
	s.limited = start(t, configure(testConfig(t), func(cfg *config.Config) { cfg.TenantRequests = 1 }), accessToken)
	own := ownStores(t)
	lost := configure(testConfig(t), func(cfg *config.Config) {
		cfg.RedisURL, cfg.DatabaseURL, cfg.AckTimeoutMs = own.redis.URL(), own.postgres.URL(), config.AckTimeoutMin
	})
	s.broken = start(t, lost, accessToken)
	own.redis.Kill()
	own.postgres.Kill()
	s.starting = startWithoutStores(t, lost)
	return s
}

// startWithoutStores runs an instance whose stores are away, and returns once it listens.
func startWithoutStores(t *testing.T, cfg config.Config) *instance {
	t.Helper()
	port, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg.Port = port.Addr().(*net.TCPAddr).Port
	require.NoError(t, port.Close())
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- runService(ctx, cfg, slog.New(slog.DiscardHandler), options{host: "127.0.0.1", token: accessToken})
	}()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	i := &instance{t: t, cfg: cfg, url: fmt.Sprintf("http://127.0.0.1:%d", cfg.Port)}
	eventually(t, "it listens", func() bool {
		resp, err := http.Get(i.url + "/livez")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil
	})
	return i
}
