package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/redis"
)

// info reads a number from Redis' INFO.
func info(t testing.TB, client *goredis.Client, section, name string) int {
	t.Helper()
	text, err := client.Info(t.Context(), section).Result()
	require.NoError(t, err)
	found := regexp.MustCompile(name + `:(\d+)`).FindStringSubmatch(text)
	require.NotNil(t, found, name)
	n, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return n
}

// Subscriptions that wait for messages ask Redis for nothing and hold no connection.
func TestWebhooksThatIdleCostRedisNothing(t *testing.T) {
	t.Parallel()
	const hooks, seconds = 300, 3
	var received atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { received.Add(1) }))
	t.Cleanup(receiver.Close)
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop(t.Context()) })
	cfg := testConfig(t)
	cfg.RedisURL, cfg.WebhookAllow = server.URL(), devNetworks
	client, err := redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	i := start(t, cfg, "")
	i.queue("orders", "")
	commands := func() int {
		before := info(t, client, "stats", "total_commands_processed")
		<-time.After(seconds * time.Second)
		return info(t, client, "stats", "total_commands_processed") - before
	}
	alone := commands()
	for n := range hooks {
		i.post("/subscriptions", fmt.Sprintf(`{"queue":"orders","consumerGroup":"g%d","subscriptionType":"webhook","handlerConfig":{"url":%q}}`, n, receiver.URL)).is(http.StatusCreated)
	}
	// the last of them has its handler, and what they asked for at first is over
	eventually(t, "their first look", func() bool {
		before := info(t, client, "stats", "total_commands_processed")
		<-time.After(200 * time.Millisecond)
		return info(t, client, "stats", "total_commands_processed")-before < hooks/3
	})
	connections := info(t, client, "clients", "connected_clients")
	require.Less(t, connections, 60)
	require.Less(t, commands()-alone, hooks*seconds/2, "they poll")
	// and all of them are there
	i.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)
	eventually(t, "every webhook gets it", func() bool { return received.Load() == hooks })
}
