package main

import (
	"log/slog"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/limits"
	"github.com/tallymq/tallymq/infra/telemetry"
)

func TestTheDocumentIsValidAndItsExamplesAre(t *testing.T) {
	t.Parallel()
	doc := loadDocument(t)
	require.NoError(t, doc.Validate(t.Context()))
	require.True(t, doc.IsOpenAPI31OrLater())
	var tags []string
	for _, tag := range doc.Tags {
		tags = append(tags, tag.Name)
		require.NotEmpty(t, tag.Description, tag.Name)
	}
	ids := map[string]bool{}
	for _, op := range operationsOf(doc) {
		what := op.method + " " + op.path
		require.NotEmpty(t, op.OperationID, what)
		require.False(t, ids[op.OperationID], what)
		ids[op.OperationID] = true
		require.NotEmpty(t, op.Summary, what)
		require.Len(t, op.Tags, 1, what)
		require.Contains(t, tags, op.Tags[0], what)
		require.NotNil(t, op.Security, what)
		if op.RequestBody != nil {
			for mediaType, media := range op.RequestBody.Value.Content {
				require.True(t, media.Example != nil || len(media.Examples) > 0, "%s: %s has no example", what, mediaType)
			}
		}
	}
}

var pathParameter = regexp.MustCompile(`:[^/]+|\{[^}]+\}`)

// What is routed is documented, and what is documented is routed.
func TestEveryRouteIsDocumented(t *testing.T) {
	t.Parallel()
	var routed, documented []string
	for _, r := range edgeRoutes(t) {
		if r.Method != echo.RouteNotFound {
			routed = append(routed, r.Method+" "+pathParameter.ReplaceAllString(r.Path, "{}"))
		}
	}
	for _, op := range operationsOf(loadDocument(t)) {
		documented = append(documented, op.method+" "+pathParameter.ReplaceAllString(op.path, "{}"))
	}
	slices.Sort(routed)
	slices.Sort(documented)
	require.Equal(t, documented, slices.Compact(routed))
}

// edgeRoutes are the routes of an instance with all roles.
func edgeRoutes(t testing.TB) []*echo.Route {
	t.Helper()
	cfg, err := config.Load(nil)
	require.NoError(t, err)
	limiter, err := limits.NewLimiter(limits.Rates{}, time.Now())
	require.NoError(t, err)
	s := &service{cfg: cfg, logger: slog.New(slog.DiscardHandler), limiter: limiter, roles: allRoles(), draining: t.Context()}
	s.health = &health{s: s}
	s.metrics = telemetry.NewMetrics(telemetry.Config{Version: version, Now: time.Now})
	return s.edge(options{}, s.routes).Routes()
}
