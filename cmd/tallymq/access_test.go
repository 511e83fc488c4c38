package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/limits"
)

const (
	tenantA      = "11111111-1111-4111-8111-111111111111"
	tenantB      = "22222222-2222-4222-8222-222222222222"
	accessToken  = "the-service-token-of-the-tests"
	accessIssuer = "https://auth.example"
)

// authService stands for the platform's: it signs tokens and publishes its key.
type authService struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	url string
}

func newAuthService(t *testing.T) *authService {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256",
		"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
	}}})
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/jwks.json" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(set)
	}))
	t.Cleanup(server.Close)
	return &authService{t: t, key: key, url: server.URL}
}

// bearer is the Authorization header of a caller.
func (a *authService) bearer(tenant, subject string, scopes ...string) []string {
	return a.signed(tenant, subject, time.Now().Add(time.Hour), scopes...)
}

func (a *authService) signed(tenant, subject string, expires time.Time, scopes ...string) []string {
	a.t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": accessIssuer, "aud": "tallymq", "sub": subject, "tenant_id": tenant, "scope": strings.Join(scopes, " "), "exp": expires.Unix(),
	})
	token.Header["kid"] = "k1"
	text, err := token.SignedString(a.key)
	require.NoError(a.t, err)
	return []string{"Authorization", "Bearer " + text}
}

// guarded is an instance that lets in whom the auth service knows.
func guarded(t *testing.T) (*instance, *authService) {
	t.Helper()
	auth := newAuthService(t)
	cfg := testConfig(t)
	cfg.AuthURL, cfg.AuthIssuer, cfg.PlatformTenant = auth.url, accessIssuer, platformTenant
	return start(t, cfg, accessToken), auth
}

var everyScope = []string{web.ScopeAdmin, web.ScopePublish, web.ScopeConsume, web.ScopeRead}

// guardedRoute is a route with what it asks of its callers.
type guardedRoute struct {
	// scopes are those of which one is enough.
	scopes []string
	// body is one that is valid. {queue} stands for a queue, {other} for another one,
	// {sub} for a subscription, and {soon} for a time that comes.
	body string
	// query is what its path needs behind a question mark.
	query string
	// owned says that the route is about a queue, subscription, message, schedule or job
	// that is somebody's.
	owned bool
	// uses says that allowedProducers or allowedConsumers decide.
	uses string
	// platform says that of tenants' tokens only the platform's own are good.
	platform bool
}

var (
	adminScopes     = []string{web.ScopeAdmin}
	subscribeScopes = []string{web.ScopeAdmin, web.ScopeConsume}
	readScopes      = []string{web.ScopeRead, web.ScopeAdmin}
	publishScopes   = []string{web.ScopePublish}
	consumeScopes   = []string{web.ScopeConsume}
	scheduleScopes  = []string{web.ScopePublish, web.ScopeAdmin}
	letterScopes    = []string{web.ScopeRead, web.ScopeConsume, web.ScopeAdmin}
)

// guardedRoutes are all routes of the API by method and path. A route that is not here
// fails the test.
var guardedRoutes = map[string]guardedRoute{
	"POST /queues":                   {scopes: adminScopes, body: `{"name":"another"}`},
	"GET /queues":                    {scopes: readScopes},
	"GET /queues/:name":              {scopes: readScopes, owned: true},
	"PUT /queues/:name":              {scopes: adminScopes, body: `{}`, owned: true},
	"DELETE /queues/:name":           {scopes: adminScopes, owned: true},
	"POST /queues/:name/purge":       {scopes: adminScopes, owned: true},
	"POST /publish":                  {scopes: publishScopes, body: `{"queue":"{queue}","payload":1}`, owned: true, uses: "producer"},
	"POST /publish/batch":            {scopes: publishScopes, body: `{"messages":[{"queue":"{queue}","payload":1}],"atomic":true}`, owned: true, uses: "producer"},
	"POST /topics/:name/publish":     {scopes: publishScopes, body: `{"payload":1}`, owned: true, uses: "producer"},
	"POST /subscriptions":            {scopes: subscribeScopes, body: `{"queue":"{queue}","consumerGroup":"g2"}`, owned: true, uses: "consumer"},
	"GET /subscriptions":             {scopes: readScopes},
	"GET /subscriptions/:id":         {scopes: readScopes, owned: true},
	"PUT /subscriptions/:id":         {scopes: subscribeScopes, body: `{}`, owned: true},
	"DELETE /subscriptions/:id":      {scopes: subscribeScopes, owned: true},
	"POST /subscriptions/:id/pause":  {scopes: subscribeScopes, owned: true},
	"POST /subscriptions/:id/resume": {scopes: subscribeScopes, owned: true},
	"POST /subscriptions/:id/pull":   {scopes: consumeScopes, body: `{}`, owned: true, uses: "consumer"},
	"POST /subscriptions/:id/ack":    {scopes: consumeScopes, body: `{"ackTokens":["x"]}`, owned: true, uses: "consumer"},
	"POST /subscriptions/:id/nack":   {scopes: consumeScopes, body: `{"ackTokens":["x"]}`, owned: true, uses: "consumer"},
	"POST /subscriptions/:id/extend": {scopes: consumeScopes, body: `{"ackTokens":["x"],"leaseMs":5000}`, owned: true, uses: "consumer"},
	"GET /messages":                  {scopes: readScopes},
	"GET /messages/:id":              {scopes: readScopes, owned: true},
	"GET /messages/:id/events":       {scopes: readScopes, owned: true},
	"GET /events":                    {scopes: readScopes},
	"GET /metrics":                   {scopes: readScopes},
	"GET /metrics/topics":            {scopes: readScopes},
	"GET /metrics/consumers":         {scopes: readScopes},

	"POST /publish/delayed":                 {scopes: publishScopes, body: `{"queue":"{queue}","payload":1,"delayMs":60000}`, owned: true, uses: "producer"},
	"POST /publish/scheduled":               {scopes: publishScopes, body: `{"queue":"{queue}","payload":1,"scheduledAt":"{soon}"}`, owned: true, uses: "producer"},
	"POST /messages/:id/cancel":             {scopes: scheduleScopes, owned: true, uses: "producer"},
	"POST /messages/:id/erase":              {scopes: adminScopes, owned: true},
	"POST /schedules":                       {scopes: scheduleScopes, body: `{"queue":"{queue}","payload":1,"cron":"@daily"}`, owned: true, uses: "producer"},
	"POST /schedules/:id/pause":             {scopes: scheduleScopes, owned: true},
	"POST /schedules/:id/resume":            {scopes: scheduleScopes, owned: true},
	"DELETE /schedules/:id":                 {scopes: scheduleScopes, owned: true},
	"POST /subscriptions/:id/seek":          {scopes: subscribeScopes, body: `{"to":"latest"}`, owned: true, uses: "consumer"},
	"POST /subscriptions/:id/test-filter":   {scopes: subscribeScopes, body: `{"payload":1}`, owned: true, uses: "consumer"},
	"GET /subscriptions/:id/secret":         {scopes: subscribeScopes, owned: true, uses: "consumer"},
	"POST /subscriptions/:id/rotate-secret": {scopes: subscribeScopes, owned: true, uses: "consumer"},
	"POST /subscriptions/:id/redrive":       {scopes: subscribeScopes, body: `{}`, owned: true, uses: "consumer"},
	"POST /queues/:name/replay":             {scopes: adminScopes, body: `{"queue":"{other}"}`, owned: true},
	"POST /jobs/:id/cancel":                 {scopes: subscribeScopes, owned: true},

	"GET /subscriptions/:id/dead-letters": {scopes: letterScopes, owned: true},
	"GET /subscriptions/:id/ledger":       {scopes: readScopes, owned: true},
	"GET /messages/:id/explain":           {scopes: readScopes, query: "subscription={sub}", owned: true},
	"GET /messages/:id/proof":             {scopes: readScopes, owned: true},
	"GET /schedules":                      {scopes: readScopes},
	"GET /schedules/:id":                  {scopes: readScopes, owned: true},
	"GET /jobs":                           {scopes: readScopes},
	"GET /jobs/:id":                       {scopes: readScopes, owned: true},

	"GET /queues/:name/history":       {scopes: readScopes, owned: true},
	"GET /subscriptions/:id/history":  {scopes: readScopes, owned: true},
	"GET /admin/projections":          {scopes: adminScopes, platform: true},
	"POST /admin/projections/rebuild": {scopes: adminScopes, body: `{}`, platform: true},
}

// openRoutes need no token.
var openRoutes = []string{"GET /health", "GET /status"}

// registered lists the routes of the API and of the internal API as they are served.
func registered(t *testing.T) (api, internal []string) {
	t.Helper()
	limiter, err := limits.NewLimiter(limits.Rates{}, time.Now())
	require.NoError(t, err)
	s := &service{cfg: testConfig(t), logger: slog.New(slog.DiscardHandler), roles: allRoles(), limiter: limiter}
	s.health = &health{s: s}
	for _, r := range s.edge(options{}, s.routes).Routes() {
		switch {
		case r.Method == echo.RouteNotFound:
		case strings.HasPrefix(r.Path, internalPrefix+"/"):
			internal = append(internal, r.Method+" "+r.Path)
		case strings.HasPrefix(r.Path, apiPrefix+"/"):
			api = append(api, r.Method+" "+strings.TrimPrefix(r.Path, apiPrefix))
		}
	}
	return api, internal
}

// accessCase is a route with the things of one tenant that it is about.
type accessCase struct {
	guardedRoute

	method, path, body string
}

// about makes a request to a route about given things.
func about(name string, r guardedRoute, of things) accessCase {
	method, path, _ := strings.Cut(name, " ")
	fill := strings.NewReplacer(
		":name", of.queue, ":id", of.id(path), "{queue}", of.queue, "{other}", of.other, "{sub}", of.sub,
		"{soon}", time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
	)
	target := apiPrefix + fill.Replace(path)
	if r.query != "" {
		target += "?" + fill.Replace(r.query)
	}
	return accessCase{method: method, path: target, body: fill.Replace(r.body), guardedRoute: r}
}

func (i *instance) try(c accessCase, headers []string) answer {
	i.t.Helper()
	var body any
	if c.body != "" {
		body = c.body
	}
	return i.call(c.method, c.path, body, headers...)
}

func (a answer) decode(status int, into any) {
	a.t.Helper()
	require.Equal(a.t, status, a.status, "%s", a.body)
	require.NoError(a.t, json.Unmarshal(a.body, into))
}

func (a answer) code() string {
	var e struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(a.body, &e)
	return e.Code
}

// Every route that is served, by everybody who may not: no token, a bad one, every
// scope but the right ones, another tenant.
func TestEveryRouteIsGuarded(t *testing.T) {
	t.Parallel()
	i, auth := guarded(t)
	api, internal := registered(t)
	require.NotEmpty(t, internal)
	owner := auth.bearer(tenantA, "owner", everyScope...)
	stranger := auth.bearer(tenantB, "stranger", everyScope...)
	theirs := i.everything("orders", owner)
	i.everything("mine", stranger)
	missing := theirs.missing()
	for _, name := range api {
		if slices.Contains(openRoutes, name) {
			require.Equal(t, http.StatusOK, i.call(http.MethodGet, apiPrefix+strings.TrimPrefix(name, "GET "), nil).status, name)
			continue
		}
		route, known := guardedRoutes[name]
		require.True(t, known, "%s is not in the matrix", name)
		c := about(name, route, theirs)
		// nobody
		for who, headers := range map[string][]string{
			"no token":            nil,
			"garbage":             {"Authorization", "Bearer garbage"},
			"expired":             auth.signed(tenantA, "owner", time.Now().Add(-time.Hour), everyScope...),
			"wrong service token": {headerToken, accessToken + "x", headerTenant, tenantA},
			"a wrong service token beside a good one": append([]string{headerToken, "x"}, owner...),
		} {
			a := i.try(c, headers)
			require.Equal(t, http.StatusUnauthorized, a.status, "%s: %s: %s", name, who, a.body)
			require.Equal(t, web.CodeUnauthorized, a.code(), name)
			require.NotEmpty(t, a.header.Get("WWW-Authenticate"), name)
		}
		// every other scope
		others := slices.DeleteFunc(slices.Clone(everyScope), func(s string) bool { return slices.Contains(route.scopes, s) })
		a := i.try(c, auth.bearer(tenantA, "owner", others...))
		require.Equal(t, http.StatusForbidden, a.status, "%s: %s", name, a.body)
		require.Equal(t, web.CodeForbidden, a.code(), name)
		// the right tenant's token with another tenant's name beside it
		a = i.try(c, append([]string{headerTenant, tenantB}, owner...))
		require.Equal(t, http.StatusForbidden, a.status, "%s: %s", name, a.body)
		if route.platform {
			a := i.try(c, owner)
			require.Equal(t, http.StatusForbidden, a.status, "%s: %s", name, a.body)
			a = i.try(c, []string{headerToken, accessToken})
			require.Less(t, a.status, http.StatusBadRequest, "%s: %s", name, a.body)
		}
		// another tenant: the same answer as for what is not there
		if route.owned {
			got, want := i.try(c, stranger), i.try(about(name, route, missing), stranger)
			require.GreaterOrEqual(t, got.status, http.StatusBadRequest, "%s: %s", name, got.body)
			require.Equal(t, want.status, got.status, name)
			require.Equal(t, blank(want.body, missing), blank(got.body, theirs), name)
		}
	}
	for _, name := range internal {
		method, path, _ := strings.Cut(name, " ")
		for who, headers := range map[string][]string{"no token": nil, "a tenant's token": owner, "wrong service token": {headerToken, "x"}} {
			require.Equal(t, http.StatusUnauthorized, i.call(method, path, `{"payload":1}`, headers...).status, "%s: %s", name, who)
		}
		a := i.call(method, path, `{"payload":1}`, headerToken, accessToken)
		require.Less(t, a.status, http.StatusMultipleChoices, "%s: %s", name, a.body)
	}
	// and each route lets in one who has any of its scopes
	for name, route := range guardedRoutes {
		for _, scope := range route.scopes {
			fresh := i.everything("fresh-"+newID(), owner)
			tenant := tenantA
			if route.platform {
				tenant = platformTenant
			}
			a := i.try(about(name, route, fresh), auth.bearer(tenant, "owner", scope))
			require.Less(t, a.status, http.StatusBadRequest, "%s with %s: %s", name, scope, a.body)
			i.call(http.MethodPost, apiPrefix+"/jobs/"+fresh.job+"/cancel", nil, owner...) // a tenant may have so many
		}
	}
}

// blank takes out of an answer what names the request and what it was about.
func blank(body []byte, of things) string {
	var e map[string]any
	if json.Unmarshal(body, &e) != nil {
		return string(body)
	}
	delete(e, "requestId")
	text, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	out := string(text)
	for _, name := range []string{of.other, of.queue, of.sub, of.hook, of.message, of.delayed, of.schedule, of.job} {
		out = strings.ReplaceAll(out, name, "*")
	}
	return out
}

// A permission that is taken away is gone at once, for what is held too.
func TestARevokedPermissionIsGone(t *testing.T) {
	t.Parallel()
	i, auth := guarded(t)
	owner := auth.bearer(tenantA, "owner", everyScope...)
	user := auth.bearer(tenantA, "user", web.ScopePublish, web.ScopeConsume)
	mine := i.everything("orders", owner)
	// a scheduled message is cancelled once
	delayed := []string{mine.delayed, i.delayed("orders", owner), i.delayed("orders", owner)}
	uses := func() map[string]int {
		out := map[string]int{}
		mine.delayed, delayed = delayed[0], delayed[1:]
		for name, route := range guardedRoutes {
			if route.uses != "" {
				out[name] = i.try(about(name, route, mine), user).status
			}
		}
		return out
	}
	for name, status := range uses() {
		require.Less(t, status, http.StatusBadRequest, name)
	}
	allow := func(names ...string) {
		a := i.call(http.MethodPut, apiPrefix+"/queues/orders", map[string]any{"allowedProducers": names, "allowedConsumers": names}, owner...)
		require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	}
	allow("somebody else")
	for name, status := range uses() {
		require.Equal(t, http.StatusForbidden, status, name)
	}
	allow("user")
	for name, status := range uses() {
		require.NotEqual(t, http.StatusForbidden, status, name)
	}
}

// A public queue is there for other tenants, under its owner's name; what they do on it
// is their own.
func TestAPublicQueueServesOtherTenants(t *testing.T) {
	t.Parallel()
	i, auth := guarded(t)
	owner := auth.bearer(tenantA, "owner", everyScope...)
	reader := auth.bearer(tenantB, "reader", everyScope...)
	mine := i.things("news", owner)
	const ref = tenantA + ":news"
	require.Equal(t, http.StatusNotFound, i.get("/queues/"+ref, reader...).status)
	require.Equal(t, http.StatusOK, i.call(http.MethodPut, apiPrefix+"/queues/news", `{"isPublic":true}`, owner...).status)
	var queue struct{ ID, TenantID, Name string }
	i.get("/queues/"+ref, reader...).decode(http.StatusOK, &queue)
	require.Equal(t, tenantA, queue.TenantID)
	// the reader's group is their own although the owner has one of that name
	var sub struct{ ID, Queue, TenantID string }
	i.post("/subscriptions", map[string]any{"queue": ref, "consumerGroup": "g", "offsetResetPolicy": "earliest"}, reader...).decode(http.StatusCreated, &sub)
	require.Equal(t, ref, sub.Queue)
	require.Equal(t, tenantB, sub.TenantID)
	var byID struct{ Queue string }
	i.post("/subscriptions", map[string]any{"topicId": queue.ID, "consumerGroup": "by-id"}, reader...).decode(http.StatusCreated, &byID)
	require.Equal(t, ref, byID.Queue)
	i.get("/subscriptions/"+sub.ID, reader...).decode(http.StatusOK, &sub)
	require.Equal(t, ref, sub.Queue)
	var pulled struct {
		Messages []struct{ MessageID, AckToken string }
	}
	i.post("/subscriptions/"+sub.ID+"/pull", `{}`, reader...).decode(http.StatusOK, &pulled)
	require.Len(t, pulled.Messages, 1)
	require.Equal(t, mine.message, pulled.Messages[0].MessageID)
	i.post("/subscriptions/"+mine.sub+"/pull", `{"waitMs":100}`, owner...).decode(http.StatusOK, &pulled)
	require.Len(t, pulled.Messages, 1, "the owner's own group still has it")
	// they read, and change nothing
	require.Equal(t, http.StatusForbidden, i.post("/topics/"+ref+"/publish", `{"payload":1}`, reader...).status)
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		require.Equal(t, http.StatusNotFound, i.call(method, apiPrefix+"/queues/"+ref, `{}`, reader...).status, method)
	}
	require.Equal(t, http.StatusNotFound, i.get("/messages/"+mine.message, reader...).status)
	// until it is private again
	require.Equal(t, http.StatusOK, i.call(http.MethodPut, apiPrefix+"/queues/news", `{"isPublic":false}`, owner...).status)
	require.Equal(t, http.StatusNotFound, i.get("/queues/"+ref, reader...).status)
	// then what they had on it has ended: it fills the queue no more
	require.Equal(t, http.StatusNotFound, i.post("/subscriptions/"+sub.ID+"/pull", `{}`, reader...).status)
	var state struct {
		State struct {
			Groups []struct{ ConsumerGroup string }
		}
	}
	i.get("/queues/news", owner...).decode(http.StatusOK, &state)
	require.Len(t, state.State.Groups, 1)
	require.Equal(t, "g", state.State.Groups[0].ConsumerGroup)
	eventually(t, "the reader is told", func() bool {
		var page struct{ Data []struct{ Subject string } }
		i.get("/events?type=subscription.deleted", reader...).decode(http.StatusOK, &page)
		return len(page.Data) == 2
	})
	i.get("/queues/news", owner...).decode(http.StatusOK, &state)
}

// However a path or method is written, nobody gets in without a token.
func TestOddPathsLetNobodyIn(t *testing.T) {
	t.Parallel()
	i, _ := guarded(t)
	for _, path := range []string{
		"//api/v1/mq/queues", "/api/v1/mq//queues", "/api/v1/mq/queues/", "/API/v1/mq/queues", "/api/v1/mq/./queues", "/api/v1/mq/health/../queues",
		"/api/v1/mq%2fqueues", "/api/v1/mq/%71ueues", "/api/v1/mq/health/queues", "/livez/../api/v1/mq/queues", "/internal/mq/../../api/v1/mq/queues",
		"//internal/mq/metrics", "/internal/mq/%6detrics", "/internal/mq/metrics/", "/Internal/mq/metrics", "/api/v1/mq/queues;x=1", "/api/v1/mq/queues?x=/health",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodHead, "GETX"} {
			a := i.at(method, path, map[string]string{"X-HTTP-Method-Override": http.MethodGet, "X-Original-URL": apiPrefix + "/health"})
			require.Contains(t, []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadRequest}, a.status, "%s %s: %s", method, path, a.body)
		}
	}
}

// at sends a request without a body to a path that is taken as it is.
func (i *instance) at(method, path string, headers map[string]string) answer {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), method, i.url, nil)
	require.NoError(i.t, err)
	path, query, _ := strings.Cut(path, "?")
	req.URL.Opaque, req.URL.RawQuery = "//"+req.URL.Host+path, query
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(i.t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(i.t, err)
	return answer{t: i.t, status: resp.StatusCode, header: resp.Header, body: body}
}
