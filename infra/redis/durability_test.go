package redis

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
)

func TestSettingsThatLoseWhatWasAnsweredAreNamed(t *testing.T) {
	t.Parallel()
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: filepath.Join(devstack.TestDir(t), "redis")})
	require.NoError(t, err)
	t.Cleanup(server.Kill)
	client, err := Open(server.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	require.Empty(t, Durability(t.Context(), client))
	require.NoError(t, client.ConfigSet(t.Context(), "appendfsync", "everysec").Err())
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	require.Equal(t, []string{
		"Redis has appendfsync everysec; it should have always", "Redis has maxmemory-policy allkeys-lru; it should have noeviction",
	}, Durability(t.Context(), client))
}
