package main

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// With a tenant's keys its payloads are gone, on every instance at once; what was counted
// stays counted, and what comes later is sealed with new keys.
func TestATenantsKeysAreDestroyed(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.EncryptionKeys = masterKey(t, "first")
	one, two := start(t, cfg, ""), start(t, cfg, "")
	b := openBooks(t, cfg)
	one.queue("orders", "")
	done, waiting := one.subscription("orders", "done", ""), one.subscription("orders", "waiting", `,"maxRetryAttempts":0`)
	publish := func(i *instance, payload string) string {
		return text(i.post("/publish", `{"queue":"orders","payload":"`+payload+`"}`).is(http.StatusCreated)["messageId"])
	}
	read := func(i *instance, id string) any { return i.get("/messages/" + id).is(http.StatusOK)["payload"] }
	ids := []string{publish(one, "canary-1"), publish(two, "canary-2")}
	one.ack(done, one.pull(done)...)
	for _, i := range []*instance{one, two} {
		require.Equal(t, []any{"canary-1", "canary-2"}, []any{read(i, ids[0]), read(i, ids[1])})
	}
	var tenant string
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT tenant_id::text FROM message_records LIMIT 1`).Scan(&tenant))

	var out bytes.Buffer
	require.NoError(t, destroyKeys(t.Context(), &out, b.pool, cfg, tenant))
	require.Equal(t, "1 keys of tenant "+tenant+" are destroyed.\n", out.String())
	var keys, destroyed int
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT count(*), count(destroyed_at) FROM tenant_keys`).Scan(&keys, &destroyed))
	require.Equal(t, []int{1, 1}, []int{keys, destroyed})
	for _, i := range []*instance{one, two} {
		eventually(t, "it is told", func() bool { return read(i, ids[0]) == nil && read(i, ids[1]) == nil })
		events := i.get("/messages/" + ids[0] + "/events")
		require.Contains(t, string(events.body), `"payload":null`)
		require.NotContains(t, string(events.body), "canary")
		require.NotContains(t, string(i.get("/events?messageId="+ids[0]).body), "canary")
	}
	b.balanced()

	// what is published now is sealed with a new key, everywhere the same
	later := publish(two, "canary-3")
	require.Equal(t, []any{"canary-3", "canary-3"}, []any{read(one, later), read(two, later)})
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT count(*) FROM tenant_keys WHERE wrapped IS NOT NULL AND generation = 2`).Scan(&keys))
	require.Equal(t, 1, keys)
	// what nobody can read any more is a dead letter, and what can be read comes
	got := two.pull(waiting)
	require.Len(t, got, 1)
	require.Equal(t, "canary-3", got[0]["payload"])
	two.ack(waiting, got...)
	var letters []map[string]any
	eventually(t, "dead letters", func() bool {
		letters = list(one.get("/subscriptions/" + waiting + "/dead-letters").is(http.StatusOK)["data"])
		return len(letters) == 2
	})
	require.Equal(t, "unreadable", letters[0]["reason"])
	b.balanced()
	// and can still be erased
	one.post("/messages/"+ids[0]+"/erase", nil).is(http.StatusOK)
	require.Nil(t, read(two, ids[0]))
	b.balanced()

	// the command asks twice
	for arguments, problem := range map[[2]string]string{{"--tenant", tenant}: "--yes", {"--tenant", "T"}: "UUID"} {
		cmd := root()
		cmd.SetArgs([]string{"destroy-keys", arguments[0], arguments[1]})
		require.ErrorContains(t, cmd.ExecuteContext(t.Context()), problem)
	}
	require.NoError(t, one.stop())
	require.NoError(t, two.stop())
}
