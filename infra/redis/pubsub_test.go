package redis

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
)

// suite makes publishers and subscribers for Watermill's universal test suite.
type suite struct {
	client *goredis.Client
	window int
	// group names the consumer group of a test's subscribers.
	group func(t *testing.T) string
}

// sharedGroup makes the subscribers of a test compete.
func sharedGroup(t *testing.T) string { return t.Name() }

// ownGroup gives every subscriber the whole stream.
func ownGroup(*testing.T) string { return watermill.NewShortUUID() }

func newSuite(t *testing.T, window int, group func(*testing.T) string) (suite, tests.Features) {
	t.Helper()
	url, prefix := devstack.TestRedis(t)
	return suite{client: openWide(t, url), window: window, group: group}, tests.Features{
		ConsumerGroups: true,
		Persistent:     true,
		// A group's order is kept for one subscriber, one message at a time.
		GuaranteedOrder:                     window == 1,
		GuaranteedOrderWithSingleSubscriber: window == 1,
		GenerateTopicFunc:                   func(c tests.TestContext) string { return prefix + string(c.TestID) },
	}
}

// openWide returns a client with a connection for every subscription of a suite.
func openWide(t testing.TB, url string) *goredis.Client {
	t.Helper()
	options, err := goredis.ParseURL(url)
	require.NoError(t, err)
	options.MaxRetries, options.ContextTimeoutEnabled, options.DisableIdentity = -1, true, true
	options.PoolSize = 500
	client := goredis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func (s suite) pubSub(t *testing.T) (message.Publisher, message.Subscriber) {
	return s.pubSubOf(t, s.group(t))
}

func (s suite) pubSubOf(t *testing.T, group string) (message.Publisher, message.Subscriber) {
	sub, err := NewSubscriber(SubscriberConfig{
		Client: s.client, Group: group, Consumer: watermill.NewShortUUID(), Window: s.window, Logger: slog.New(slog.DiscardHandler),
		Block: 100 * time.Millisecond, NackDelay: time.Millisecond, NackDelayMax: 5 * time.Millisecond,
		ClaimIdle: 3 * time.Second, ClaimInterval: 100 * time.Millisecond, DrainTimeout: 300 * time.Millisecond,
	})
	require.NoError(t, err)
	pub := NewPublisher(s.client)
	// Some tests of the suite leave theirs open.
	t.Cleanup(func() {
		_ = pub.Close()
		_ = sub.Close()
	})
	return pub, sub
}

func TestWatermillSuiteInOrder(t *testing.T) {
	t.Parallel()
	s, features := newSuite(t, 1, sharedGroup)
	tests.TestPubSub(t, features, s.pubSub, s.pubSubOf)
}

func TestWatermillSuiteWindowed(t *testing.T) {
	t.Parallel()
	s, features := newSuite(t, 64, sharedGroup)
	tests.TestPubSub(t, features, s.pubSub, s.pubSubOf)
}

// What only a group of its own can show: everything from the beginning.
func TestWatermillSuiteNewGroupReceivesOldMessages(t *testing.T) {
	t.Parallel()
	s, features := newSuite(t, 64, ownGroup)
	features.NewSubscriberReceivesOldMessages = true
	tests.TestNewSubscriberReceivesOldMessages(t, tests.TestContext{TestID: tests.NewTestID(), Features: features}, s.pubSub)
}

// The window keeps the stream's order too as long as nothing is nacked.
func TestWatermillSuiteOrderInAWindow(t *testing.T) {
	t.Parallel()
	s, features := newSuite(t, 64, sharedGroup)
	features.GuaranteedOrder, features.GuaranteedOrderWithSingleSubscriber = true, true
	tests.TestPublishSubscribeInOrder(t, tests.TestContext{TestID: tests.NewTestID(), Features: features}, s.pubSub)
}

// restartArgument makes this test program, run with it and a URL, POST to the URL.
const restartArgument = "restart-redis"

// restartCommand returns a command that kills a Redis and starts it again, on the
// same port and data, and ends when it is ready. The command is this test program
// itself, which asks the process that runs the server; its exit code is the answer.
func restartCommand(t *testing.T, server *devstack.Redis) []string {
	t.Helper()
	var one sync.Mutex
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one.Lock()
		defer one.Unlock()
		server.Kill()
		if err := server.Restart(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	t.Cleanup(control.Close)
	program, err := os.Executable()
	require.NoError(t, err)
	return []string{program, restartArgument, control.URL}
}

//nolint:gochecknoinits // it must run before package testing looks at the arguments
func init() {
	if len(os.Args) != 3 || os.Args[1] != restartArgument {
		return
	}
	response, err := http.Post(os.Args[2], "", nil) //nolint:gosec // the test that runs us says where
	if err != nil {
		os.Exit(1)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		os.Exit(1)
	}
	os.Exit(0)
}
