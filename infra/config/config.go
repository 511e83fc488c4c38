package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Limits of values. Sizes are in bytes.
const (
	PortMax            = 65535
	MessageSizeMin     = 1 << 10
	MessageSizeMax     = 16 << 20
	TTLSecondsMax      = 365 * 24 * 3600
	ShardsMax          = 64
	ConsumerTimeoutMin = 1000
	ConsumerTimeoutMax = 43_200_000
	AckTimeoutMin      = 100
	AckTimeoutMax      = 60_000
	RetentionDaysMax   = 3650
	QueueLengthMax     = 100_000_000
	KeyPrefixMax       = 50
	ServiceTokenMin    = 16
	PerSecondMax       = 1_000_000_000
	LongPollsMax       = 1_000_000
	ConnectionsMax     = 1_000_000
	HealthSecondsMax   = 3600
	PullMessagesMax    = 1000
	// ConcurrentConsumersMax bounds requests to one webhook, per instance.
	ConcurrentConsumersMax = 64
	ProcessingTimeoutMin   = 1000
	ProcessingTimeoutMax   = 60_000
	// AllowedNetworksMax is how many networks WEBHOOK_ALLOWED_NETWORKS has at most.
	AllowedNetworksMax = 100
	// fileBytesMax bounds a NAME_FILE.
	fileBytesMax = 64 << 10
)

// Config is the service's configuration.
type Config struct {
	Port           int    `env:"PORT" envDefault:"3010"`
	DatabaseURL    string `env:"DATABASE_URL"`
	RedisURL       string `env:"REDIS_URL"`
	RedisKeyPrefix string `env:"REDIS_KEY_PREFIX" envDefault:"mq:"`
	// ServiceToken is what callers of `tallymq serve` present in X-Service-Token.
	ServiceToken string `env:"INTERNAL_SERVICE_TOKEN"`
	// MessageSizeBytesMax bounds a payload.
	MessageSizeBytesMax int `env:"MAX_MESSAGE_SIZE" envDefault:"1048576"`
	// TTLSeconds is how long a message lives that does not say; 0 is for ever.
	TTLSeconds int64 `env:"DEFAULT_TTL" envDefault:"604800"`
	// QueueLengthMax is how many unconsumed messages a queue holds; 0 is any number.
	QueueLengthMax int64 `env:"MAX_QUEUE_LENGTH" envDefault:"10000"`
	// ConsumerTimeoutMs is the default lease of a subscription.
	ConsumerTimeoutMs int `env:"CONSUMER_TIMEOUT" envDefault:"30000"`
	Shards            int `env:"SHARDS" envDefault:"4"`
	// AckTimeoutMs is how long a command waits for Postgres before its answer is
	// that the outcome is unknown.
	AckTimeoutMs int `env:"ACK_TIMEOUT_MS" envDefault:"5000"`
	// RetentionDays is how long messages and their history are kept; 0 is for ever.
	RetentionDays int    `env:"RETENTION_DAYS" envDefault:"30"`
	LogLevel      string `env:"LOG_LEVEL" envDefault:"info"`

	// AuthURL is where the auth service has its keys, "" for none: then only the
	// platform's own services are let in.
	AuthURL string `env:"AUTH_SERVICE_URL"`
	// AuthIssuer and AuthAudience are what tokens must say in iss and aud; the issuer
	// is AuthURL unless it is given.
	AuthIssuer   string `env:"AUTH_ISSUER"`
	AuthAudience string `env:"AUTH_AUDIENCE" envDefault:"tallymq"`
	// EncryptionKeys are the master keys of payload encryption, see infra/keyring.
	EncryptionKeys string `env:"ENCRYPTION_KEYS"`
	// PlatformTenant owns the queues of the internal API.
	PlatformTenant string `env:"PLATFORM_TENANT_ID" envDefault:"00000000-0000-0000-0000-000000000000"`
	// UserURL, NotificationURL and AuditURL are where the services are that messages
	// and lifecycle events are handed on to, "" for none.
	UserURL         string `env:"USER_SERVICE_URL"`
	NotificationURL string `env:"NOTIFICATION_SERVICE_URL"`
	AuditURL        string `env:"AUDIT_SERVICE_URL"`
	// TenantRequests and TenantBytes are what a tenant may send an instance per
	// second; 0 is any number.
	TenantRequests int64 `env:"TENANT_REQUESTS_PER_SECOND" envDefault:"5000"`
	TenantBytes    int64 `env:"TENANT_BYTES_PER_SECOND" envDefault:"67108864"`
	// TenantLongPolls and LongPolls are how many pulls of a tenant, and of all, may
	// wait on an instance at once; Connections how many may be open.
	TenantLongPolls int `env:"TENANT_LONG_POLLS" envDefault:"1000"`
	LongPolls       int `env:"LONG_POLLS" envDefault:"5000"`
	Connections     int `env:"MAX_CONNECTIONS" envDefault:"10000"`
	// IsMetricsEnabled serves /metrics and keeps what the metrics document shows.
	IsMetricsEnabled bool `env:"METRICS_ENABLED" envDefault:"true"`
	// HealthSeconds is how often the components' health is looked at.
	HealthSeconds int64 `env:"HEALTH_CHECK_INTERVAL" envDefault:"30"`
	// PullMessages is how many messages a pull asks for that does not say.
	PullMessages int `env:"MESSAGE_BATCH_SIZE" envDefault:"50"`
	// ConcurrentConsumers is how many requests to a webhook are under way at once, and
	// ProcessingTimeoutMs how long it may take to answer, unless its subscription says.
	ConcurrentConsumers int `env:"MAX_CONCURRENT_CONSUMERS" envDefault:"5"`
	ProcessingTimeoutMs int `env:"PROCESSING_TIMEOUT_MS" envDefault:"15000"`
	// WebhookAllow are networks that webhooks may be in although they are private, such
	// as 10.1.0.0/16, separated by commas.
	WebhookAllow string `env:"WEBHOOK_ALLOWED_NETWORKS"`
}

// Load reads an environment as os.Environ returns it.
func Load(environ []string) (Config, error) {
	values, errs := expand(environ)
	cfg, err := env.ParseAsWithOptions[Config](env.Options{Environment: values})
	if all, ok := errors.AsType[env.AggregateError](err); ok {
		for _, e := range all.Errors {
			errs = append(errs, named(e))
		}
	} else if err != nil {
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = cfg.check()
	}
	return cfg, errors.Join(errs...)
}

var canonicalUUID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// expand turns environ into a map and reads the files of NAME_FILE variables.
func expand(environ []string) (map[string]string, []error) {
	values := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		values[name] = value
	}
	var errs []error
	for _, name := range names() {
		path := values[name+"_FILE"]
		if path == "" {
			continue
		}
		if values[name] != "" {
			errs = append(errs, fmt.Errorf("%s: set it or %s_FILE, not both", name, name))
			continue
		}
		info, err := os.Stat(path)
		if err == nil && info.Size() > fileBytesMax {
			err = fmt.Errorf("%s has %d bytes; allowed: %d", path, info.Size(), fileBytesMax)
		}
		var data []byte
		if err == nil {
			data, err = os.ReadFile(path)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s_FILE: %w", name, err))
			continue
		}
		values[name] = strings.TrimSpace(string(data))
	}
	return values, errs
}

// names are all variables.
func names() []string {
	var out []string
	for f := range reflect.TypeFor[Config]().Fields() {
		out = append(out, f.Tag.Get("env"))
	}
	return out
}

// named puts the variable's name where the library has the Go field's.
func named(err error) error {
	var parse env.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	f, _ := reflect.TypeFor[Config]().FieldByName(parse.Name)
	if f.Type.Kind() == reflect.Bool {
		return fmt.Errorf("%s: must be true or false", f.Tag.Get("env"))
	}
	return fmt.Errorf("%s: must be a whole number", f.Tag.Get("env"))
}

func (c *Config) check() []error {
	var errs []error
	between := func(name string, n, least, most int64) {
		if n < least || n > most {
			errs = append(errs, fmt.Errorf("%s: is %d; allowed: %d to %d", name, n, least, most))
		}
	}
	between("PORT", int64(c.Port), 0, PortMax)
	between("MAX_MESSAGE_SIZE", int64(c.MessageSizeBytesMax), MessageSizeMin, MessageSizeMax)
	between("DEFAULT_TTL", c.TTLSeconds, 0, TTLSecondsMax)
	between("MAX_QUEUE_LENGTH", c.QueueLengthMax, 0, QueueLengthMax)
	between("CONSUMER_TIMEOUT", int64(c.ConsumerTimeoutMs), ConsumerTimeoutMin, ConsumerTimeoutMax)
	between("SHARDS", int64(c.Shards), 1, ShardsMax)
	between("ACK_TIMEOUT_MS", int64(c.AckTimeoutMs), AckTimeoutMin, AckTimeoutMax)
	between("TENANT_REQUESTS_PER_SECOND", c.TenantRequests, 0, PerSecondMax)
	between("TENANT_BYTES_PER_SECOND", c.TenantBytes, 0, PerSecondMax)
	between("TENANT_LONG_POLLS", int64(c.TenantLongPolls), 1, LongPollsMax)
	between("LONG_POLLS", int64(c.LongPolls), 1, LongPollsMax)
	between("MAX_CONNECTIONS", int64(c.Connections), 1, ConnectionsMax)
	between("HEALTH_CHECK_INTERVAL", c.HealthSeconds, 1, HealthSecondsMax)
	between("MESSAGE_BATCH_SIZE", int64(c.PullMessages), 1, PullMessagesMax)
	between("MAX_CONCURRENT_CONSUMERS", int64(c.ConcurrentConsumers), 1, ConcurrentConsumersMax)
	between("PROCESSING_TIMEOUT_MS", int64(c.ProcessingTimeoutMs), ProcessingTimeoutMin, ProcessingTimeoutMax)
	between("RETENTION_DAYS", int64(c.RetentionDays), 0, RetentionDaysMax)
	return append(errs, c.checkTexts()...)
}

func (c *Config) checkTexts() []error {
	var errs []error
	if len(c.RedisKeyPrefix) > KeyPrefixMax || strings.ContainsAny(c.RedisKeyPrefix, "{} \t\r\n") {
		errs = append(errs, fmt.Errorf("REDIS_KEY_PREFIX: allowed: at most %d characters without braces and spaces", KeyPrefixMax))
	}
	if c.ServiceToken != "" && len(c.ServiceToken) < ServiceTokenMin {
		errs = append(errs, fmt.Errorf("INTERNAL_SERVICE_TOKEN: has %d characters; allowed: %d or more", len(c.ServiceToken), ServiceTokenMin))
	}
	checkURL := func(name, value string, schemes ...string) {
		if value == "" {
			return
		}
		// The error of url.Parse repeats the URL, which may hold a password.
		u, err := url.Parse(value)
		if err == nil {
			for _, scheme := range schemes {
				// libpq's URLs may name a socket's directory in ?host=.
				if u.Scheme == scheme && (u.Host != "" || u.Query().Get("host") != "") {
					return
				}
			}
		}
		errs = append(errs, fmt.Errorf("%s: must be a URL that starts with %s://", name, strings.Join(schemes, ":// or ")))
	}
	checkURL("REDIS_URL", c.RedisURL, "redis", "rediss")
	checkURL("DATABASE_URL", c.DatabaseURL, "postgres", "postgresql")
	checkURL("AUTH_SERVICE_URL", c.AuthURL, "http", "https")
	checkURL("USER_SERVICE_URL", c.UserURL, "http", "https")
	checkURL("NOTIFICATION_SERVICE_URL", c.NotificationURL, "http", "https")
	checkURL("AUDIT_SERVICE_URL", c.AuditURL, "http", "https")
	if !canonicalUUID.MatchString(c.PlatformTenant) {
		errs = append(errs, errors.New("PLATFORM_TENANT_ID: must be a UUID in lower case"))
	}
	if _, err := c.AllowedNetworks(); err != nil {
		errs = append(errs, err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		errs = append(errs, errors.New("LOG_LEVEL: must be one of debug, info, warn, error"))
	}
	return errs
}

// Serving checks what a service needs beyond what a private one does.
func (c *Config) Serving() error {
	var errs []error
	for _, v := range []struct{ name, value, hint string }{
		{"DATABASE_URL", c.DatabaseURL, "such as postgres://user:password@host:5432/tallymq"},
		{"REDIS_URL", c.RedisURL, "such as redis://host:6379/0"},
		{"INTERNAL_SERVICE_TOKEN", c.ServiceToken, fmt.Sprintf("%d characters or more; callers send it as X-Service-Token", ServiceTokenMin)},
	} {
		if v.value == "" {
			errs = append(errs, fmt.Errorf("%s: is not set; it must be, %s (for a private service without it: tallymq dev)", v.name, v.hint))
		}
	}
	return errors.Join(errs...)
}

// AllowedNetworks is WEBHOOK_ALLOWED_NETWORKS.
func (c *Config) AllowedNetworks() ([]netip.Prefix, error) {
	var allowed []netip.Prefix
	if c.WebhookAllow == "" {
		return nil, nil
	}
	for text := range strings.SplitSeq(c.WebhookAllow, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || prefix != prefix.Masked() || len(allowed) == AllowedNetworksMax {
			return nil, fmt.Errorf("WEBHOOK_ALLOWED_NETWORKS: allowed: at most %d networks such as 10.1.0.0/16, separated by commas", AllowedNetworksMax)
		}
		allowed = append(allowed, prefix)
	}
	return allowed, nil
}

// ProcessingTimeout is PROCESSING_TIMEOUT_MS.
func (c *Config) ProcessingTimeout() time.Duration {
	return time.Duration(c.ProcessingTimeoutMs) * time.Millisecond
}

// Issuer is what tokens must say in iss.
func (c *Config) Issuer() string {
	if c.AuthIssuer != "" {
		return c.AuthIssuer
	}
	return c.AuthURL
}

// HealthInterval is HEALTH_CHECK_INTERVAL.
func (c *Config) HealthInterval() time.Duration { return time.Duration(c.HealthSeconds) * time.Second }

// Level is LOG_LEVEL.
func (c *Config) Level() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel))
	return level
}

// MessageTTL is DEFAULT_TTL.
func (c *Config) MessageTTL() time.Duration { return time.Duration(c.TTLSeconds) * time.Second }

// SessionTimeout is CONSUMER_TIMEOUT.
func (c *Config) SessionTimeout() time.Duration {
	return time.Duration(c.ConsumerTimeoutMs) * time.Millisecond
}

// AckTimeout is ACK_TIMEOUT_MS.
func (c *Config) AckTimeout() time.Duration { return time.Duration(c.AckTimeoutMs) * time.Millisecond }

// Retention is RETENTION_DAYS; 0 is for ever.
func (c *Config) Retention() time.Duration { return time.Duration(c.RetentionDays) * 24 * time.Hour }
