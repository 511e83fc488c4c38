package redis

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
)

// A Redis is killed and started again twice, really, while publishers publish and a
// group consumes.
func TestNothingIsLostWhenRedisIsKilled(t *testing.T) {
	t.Parallel()
	const publishers, each = 20, 150
	// so many messages are published and not received at most, so that publishing
	// goes on at every restart
	ahead := make(chan struct{}, 2*publishers)
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: devstack.TestDir(t)})
	require.NoError(t, err)
	t.Cleanup(server.Kill)
	f := groupFixture{client: openWide(t, server.URL()), stream: "s", logs: &logBuffer{}}
	// given two consumers, and publishers that try again until they are answered
	sub := f.subscriber(t, "c", func(c *SubscriberConfig) { c.ClaimIdle = 10 * time.Second })
	a, b := f.subscribe(t, sub), f.subscribe(t, sub)
	publishAll(t, f, publishers, each, ahead)
	// when Redis is killed at a third and at a half of the messages
	restart := restartCommand(t, server)
	restartAt := map[int]bool{publishers * each / 3: true, publishers * each / 2: true}
	var restarting sync.WaitGroup
	got := map[string]bool{}
	for nacks := 0; len(got) < publishers*each; {
		var m *message.Message
		select {
		case m = <-a:
		case m = <-b:
		case <-time.After(receiveLimit):
			require.FailNow(t, "messages are missing", "%d of %d came", len(got), publishers*each)
		}
		if nacks++; nacks%10 == 0 {
			m.Nack()
			continue
		}
		if !got[m.UUID] && restartAt[len(got)] {
			restarting.Go(func() {
				out, err := exec.Command(restart[0], restart[1:]...).CombinedOutput() //nolint:gosec // ourselves
				if err != nil {
					t.Errorf("restart Redis: %v: %s", err, out)
				}
			})
		}
		if !got[m.UUID] {
			got[m.UUID] = true
			<-ahead
		}
		m.Ack()
	}
	restarting.Wait()
	// then every message came and, duplicates included, all are settled
	go discard(a)
	go discard(b)
	require.Eventually(t, func() bool {
		groups, err := f.client.XInfoGroups(t.Context(), f.stream).Result()
		return err == nil && len(groups) == 1 && groups[0].Lag == 0 && groups[0].Pending == 0
	}, receiveLimit, 20*time.Millisecond)
}

func publishAll(t testing.TB, f groupFixture, publishers, each int, ahead chan<- struct{}) {
	t.Helper()
	pub := NewPublisher(f.client)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for p := range publishers {
		running.Go(func() {
			for n := range each {
				select {
				case ahead <- struct{}{}:
				case <-ctx.Done():
					return
				}
				m := messagesOf(fmt.Sprintf("%d/%d", p, n))
				for pub.Publish(f.stream, m...) != nil && ctx.Err() == nil {
					_ = WaitReady(ctx, f.client, slog.New(slog.DiscardHandler))
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		_ = pub.Close()
	})
}

func discard(ch <-chan *message.Message) {
	for m := range ch {
		m.Ack()
	}
}

// cutter is between a client and Redis. Given a text, it loses the next answer that
// holds the text, together with the connection.
type cutter struct {
	net.Listener

	redis string
	lose  atomic.Pointer[string]
}

func newCutter(t testing.TB, redis string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{Listener: l, redis: redis}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.serve(conn)
		}
	}()
	return c
}

func (c *cutter) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", c.redis)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		lose := c.lose.Load()
		if lose != nil && bytes.Contains(buffer[:n], []byte(*lose)) && c.lose.CompareAndSwap(lose, nil) {
			return
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// client returns a client that goes through the cutter and, unlike ours, repeats
// commands.
func (c *cutter) client(t testing.TB) *goredis.Client {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{
		Addr: c.Addr().String(), MaxRetries: 3, DisableIdentity: true, ContextTimeoutEnabled: true,
	})
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Ping(t.Context()).Err())
	return client
}

func TestMessagesWhoseAnswerIsLostAreDeliveredSoon(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	c := newCutter(t, f.client.Options().Addr)
	through := c.client(t)
	ch := f.subscribe(t, f.subscriber(t, "c", func(cfg *SubscriberConfig) {
		cfg.Client, cfg.Window, cfg.ClaimInterval = through, 1, time.Hour
	}))
	// given a subscription that waits for messages
	f.publish(t, "1")
	receiveAll(t, ch, "1")
	f.settled(t)
	// when the answer that holds a message is lost, then the message is not, and it
	// keeps its place
	lose := fieldUUID
	c.lose.Store(&lose)
	f.publish(t, "2", "3")
	receiveAll(t, ch, "2", "3")
	f.settled(t)
}

func TestPublishIsNeverRepeated(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	c := newCutter(t, f.client.Options().Addr)
	pub := NewPublisher(c.client(t))
	t.Cleanup(func() { _ = pub.Close() })
	// when the answer, an entry's id, is lost, the caller is told so
	lose := "-0\r\n"
	c.lose.Store(&lose)
	require.ErrorIs(t, pub.Publish(f.stream, messagesOf("1")...), events.ErrOutcomeUnknown)
	// and the message is there once
	require.Eventually(t, func() bool { return f.client.XLen(t.Context(), f.stream).Val() == 1 }, receiveLimit, time.Millisecond)
	require.NoError(t, pub.Publish(f.stream, messagesOf("2")...))
	require.Equal(t, int64(2), f.client.XLen(t.Context(), f.stream).Val())
}

func TestOutageIsLoggedOnceAndSurvived(t *testing.T) {
	t.Parallel()
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: devstack.TestDir(t)})
	require.NoError(t, err)
	t.Cleanup(server.Kill)
	f := groupFixture{client: openWide(t, server.URL()), stream: "s", logs: &logBuffer{}}
	ch := f.subscribe(t, f.subscriber(t, "c", nil))
	f.publish(t, "1", "2")
	first := receive(t, ch)
	server.Kill()
	// given an ack that Redis cannot be told, it is told when Redis is back
	first.Ack()
	require.Eventually(t, func() bool {
		return f.logs.count("acknowledge messages fails") == 1 && f.logs.count("read messages fails") == 1
	}, receiveLimit, 5*time.Millisecond)
	require.NoError(t, server.Restart(t.Context()))
	receiveAll(t, ch, "2")
	f.settled(t)
	require.Equal(t, 2, f.logs.count("trying again"))
	require.Eventually(t, func() bool { return f.logs.count("works again") == 2 }, receiveLimit, 5*time.Millisecond)
}
