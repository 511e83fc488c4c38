package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefaultsAreTheContracts(t *testing.T) {
	t.Parallel()
	cfg, err := Load(nil)
	require.NoError(t, err)
	require.Equal(t, Config{
		Port: 3010, RedisKeyPrefix: "mq:", MessageSizeBytesMax: 1_048_576, TTLSeconds: 604_800, QueueLengthMax: 10_000, ConsumerTimeoutMs: 30_000,
		Shards: 4, AckTimeoutMs: 5000, RetentionDays: 30, LogLevel: "info", AuthAudience: "tallymq",
		PlatformTenant: "00000000-0000-0000-0000-000000000000", TenantRequests: 5000, TenantBytes: 64 << 20,
		TenantLongPolls: 1000, LongPolls: 5000, Connections: 10_000, IsMetricsEnabled: true, HealthSeconds: 30,
		PullMessages: 50, ConcurrentConsumers: 5, ProcessingTimeoutMs: 15_000,
	}, cfg)
	require.ErrorContains(t, cfg.Serving(), "DATABASE_URL")
	require.ErrorContains(t, cfg.Serving(), "REDIS_URL")
	require.ErrorContains(t, cfg.Serving(), "INTERNAL_SERVICE_TOKEN")
}

func TestErrorsNameTheVariableAndTheLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ entry, want string }{
		{"PORT=http", "PORT: must be a whole number"},
		{"PORT=70000", "PORT: is 70000; allowed: 0 to 65535"},
		{"MAX_MESSAGE_SIZE=1", "MAX_MESSAGE_SIZE: is 1; allowed: 1024 to 16777216"},
		{"DEFAULT_TTL=-1", "DEFAULT_TTL: is -1"},
		{"CONSUMER_TIMEOUT=999", "CONSUMER_TIMEOUT: is 999; allowed: 1000"},
		{"SHARDS=0", "SHARDS: is 0; allowed: 1 to 64"},
		{"ACK_TIMEOUT_MS=1", "ACK_TIMEOUT_MS: is 1; allowed: 100"},
		{"RETENTION_DAYS=4000", "RETENTION_DAYS: is 4000; allowed: 0 to 3650"},
		{"REDIS_KEY_PREFIX=a{b}", "REDIS_KEY_PREFIX: allowed"},
		{"INTERNAL_SERVICE_TOKEN=short", "INTERNAL_SERVICE_TOKEN: has 5 characters; allowed: 16"},
		{"REDIS_URL=http://x", "REDIS_URL: must be a URL that starts with redis:// or rediss://"},
		{"DATABASE_URL=mysql://x", "DATABASE_URL: must be a URL that starts with postgres://"},
		{"LOG_LEVEL=loud", "LOG_LEVEL: must be one of"},
		{"AUTH_SERVICE_URL=auth", "AUTH_SERVICE_URL: must be a URL that starts with http:// or https://"},
		{"AUDIT_SERVICE_URL=ftp://audit", "AUDIT_SERVICE_URL: must be a URL that starts with http:// or https://"},
		{"USER_SERVICE_URL=user", "USER_SERVICE_URL: must be a URL"},
		{"NOTIFICATION_SERVICE_URL=n", "NOTIFICATION_SERVICE_URL: must be a URL"},
		{"PLATFORM_TENANT_ID=A", "PLATFORM_TENANT_ID: must be a UUID"},
		{"MAX_QUEUE_LENGTH=-1", "MAX_QUEUE_LENGTH: is -1; allowed: 0 to 100000000"},
		{"TENANT_REQUESTS_PER_SECOND=-1", "TENANT_REQUESTS_PER_SECOND: is -1; allowed: 0 to 1000000000"},
		{"TENANT_BYTES_PER_SECOND=-1", "TENANT_BYTES_PER_SECOND: is -1; allowed: 0"},
		{"TENANT_LONG_POLLS=0", "TENANT_LONG_POLLS: is 0; allowed: 1 to 1000000"},
		{"LONG_POLLS=0", "LONG_POLLS: is 0; allowed: 1"},
		{"MAX_CONNECTIONS=0", "MAX_CONNECTIONS: is 0; allowed: 1"},
		{"METRICS_ENABLED=perhaps", "METRICS_ENABLED: must be true or false"},
		{"HEALTH_CHECK_INTERVAL=0", "HEALTH_CHECK_INTERVAL: is 0; allowed: 1 to 3600"},
		{"MESSAGE_BATCH_SIZE=0", "MESSAGE_BATCH_SIZE: is 0; allowed: 1 to 1000"},
		{"MAX_CONCURRENT_CONSUMERS=65", "MAX_CONCURRENT_CONSUMERS: is 65; allowed: 1 to 64"},
		{"PROCESSING_TIMEOUT_MS=999", "PROCESSING_TIMEOUT_MS: is 999; allowed: 1000 to 60000"},
		{"WEBHOOK_ALLOWED_NETWORKS=10.0.0.1/8", "WEBHOOK_ALLOWED_NETWORKS: allowed: at most 100 networks"},
		{"WEBHOOK_ALLOWED_NETWORKS=" + strings.Repeat("10.0.0.0/8,", 100) + "10.0.0.0/8", "at most 100 networks"},
		{"DATABASE_URL_FILE=/nowhere/at/all", "DATABASE_URL_FILE: "},
	} {
		_, err := Load([]string{tc.entry})
		require.ErrorContains(t, err, tc.want, tc.entry)
	}
}

func TestAllErrorsComeAtOnceAndSecretsStayInside(t *testing.T) {
	t.Parallel()
	_, err := Load([]string{"SHARDS=65", "PORT=-1", "DATABASE_URL=://user:hunter2@host", "INTERNAL_SERVICE_TOKEN=hunter2"})
	require.ErrorContains(t, err, "SHARDS")
	require.ErrorContains(t, err, "PORT")
	require.ErrorContains(t, err, "DATABASE_URL")
	require.NotContains(t, err.Error(), "hunter2")
}

func TestAnyNameMayBeAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("a-token-of-sixteen-characters\n"), 0o600))
	cfg, err := Load([]string{"INTERNAL_SERVICE_TOKEN_FILE=" + path})
	require.NoError(t, err)
	require.Equal(t, "a-token-of-sixteen-characters", cfg.ServiceToken)
	_, err = Load([]string{"INTERNAL_SERVICE_TOKEN_FILE=" + path, "INTERNAL_SERVICE_TOKEN=a-token-of-sixteen-characters"})
	require.ErrorContains(t, err, "not both")
	big := filepath.Join(t.TempDir(), "big")
	require.NoError(t, os.WriteFile(big, make([]byte, fileBytesMax+1), 0o600))
	_, err = Load([]string{"REDIS_URL_FILE=" + big})
	require.ErrorContains(t, err, "allowed: 65536")
}

func TestNetworksOfWebhooks(t *testing.T) {
	t.Parallel()
	cfg, err := Load([]string{"WEBHOOK_ALLOWED_NETWORKS=10.1.0.0/16, fd00::/8"})
	require.NoError(t, err)
	allowed, err := cfg.AllowedNetworks()
	require.NoError(t, err)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}, allowed)
}
