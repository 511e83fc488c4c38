package redis

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// commandCounter counts a client's round trips: pipelines, and commands by name.
type commandCounter struct {
	pipelines atomic.Int64
	xadds     atomic.Int64
	xacks     atomic.Int64
	// gate holds them back while it is locked; arrived counts those that reached it.
	gate    sync.RWMutex
	arrived atomic.Int64
}

// hold holds commands back until the function it returns is called.
func (c *commandCounter) hold(t testing.TB) (release func()) {
	t.Helper()
	c.gate.Lock()
	release = sync.OnceFunc(c.gate.Unlock)
	t.Cleanup(release)
	return release
}

// pass waits at the gate.
func (c *commandCounter) pass() {
	c.arrived.Add(1)
	c.gate.RLock()
	defer c.gate.RUnlock()
}

func (c *commandCounter) DialHook(next goredis.DialHook) goredis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *commandCounter) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if cmd.Name() == "xack" {
			c.pass()
			c.xacks.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (c *commandCounter) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		if cmds[0].Name() == "xadd" {
			c.pass()
			c.pipelines.Add(1)
			c.xadds.Add(int64(len(cmds)))
		}
		return next(ctx, cmds)
	}
}

// counted returns the fixture's client with a counter. The client is the test's own.
func (f groupFixture) counted() *commandCounter {
	c := &commandCounter{}
	f.client.AddHook(c)
	return c
}

func (f groupFixture) publisher(t testing.TB) *Publisher {
	t.Helper()
	pub := NewPublisher(f.client)
	t.Cleanup(func() { _ = pub.Close() })
	return pub
}

func numbered(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%06d", i)
	}
	return list
}

func (f groupFixture) payloads(t testing.TB) []string {
	t.Helper()
	entries, err := f.client.XRange(t.Context(), f.stream, "-", "+").Result()
	require.NoError(t, err)
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = fmt.Sprint(e.Values[fieldPayload])
	}
	return list
}

func TestOnePublishIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	counter, pub := f.counted(), f.publisher(t)
	want := numbered(500)
	require.NoError(t, pub.Publish(f.stream, messagesOf(want...)...))
	require.Equal(t, int64(1), counter.pipelines.Load())
	require.Equal(t, want, f.payloads(t))
	require.NoError(t, pub.Publish(f.stream), "nothing is published by nothing")
}

func TestPublishBeyondTheLimitsKeepsItsOrder(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	counter, pub := f.counted(), f.publisher(t)
	want := numbered(2*PublishMessagesMax + 1)
	require.NoError(t, pub.Publish(f.stream, messagesOf(want...)...))
	require.Equal(t, int64(3), counter.pipelines.Load())
	require.Equal(t, want, f.payloads(t))
	// and the same for bytes
	big := strings.Repeat("x", PublishBytesMax/2)
	require.NoError(t, pub.Publish(f.stream, message.NewMessage("a", []byte(big)), message.NewMessage("b", []byte(big)),
		message.NewMessage("c", []byte(big+big))))
	require.Equal(t, int64(6), counter.pipelines.Load())
}

func TestConcurrentPublishesShareRoundTrips(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	counter, pub := f.counted(), f.publisher(t)
	// given as many round trips as may be under way
	release := counter.hold(t)
	var calls sync.WaitGroup
	publish := func(payload string) {
		calls.Go(func() {
			if err := pub.Publish(f.stream, messagesOf(payload)...); err != nil {
				t.Error(err)
			}
		})
	}
	for n := range int64(publishTripsMax) {
		publish("before")
		require.Eventually(t, func() bool { return counter.arrived.Load() == n+1 }, receiveLimit, time.Millisecond)
	}
	// when a hundred calls come meanwhile
	for n := range 100 {
		publish(strconv.Itoa(n))
	}
	require.Eventually(t, func() bool { return len(pub.calls) == 100 }, receiveLimit, time.Millisecond)
	release()
	calls.Wait()
	// then few round trips take them
	require.Equal(t, int64(100+publishTripsMax), counter.xadds.Load())
	require.LessOrEqual(t, counter.pipelines.Load(), int64(3*publishTripsMax))
}

func TestPublishIsGivenUpWhenItsTurnDoesNotCome(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	counter, pub := f.counted(), f.publisher(t)
	release := counter.hold(t)
	var before sync.WaitGroup
	for n := range int64(publishTripsMax) {
		before.Go(func() { _ = pub.Publish(f.stream, messagesOf("before")...) })
		require.Eventually(t, func() bool { return counter.arrived.Load() == n+1 }, receiveLimit, time.Millisecond)
	}
	late := &publishCall{stream: f.stream, until: time.Now(), done: make(chan struct{})}
	require.NoError(t, pub.enqueue(late))
	release()
	before.Wait()
	<-late.done
	require.ErrorIs(t, late.err, ErrPublisherBusy)
}

func TestPublishErrorsSayWhatHappened(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	pub := f.publisher(t)
	require.NoError(t, f.client.Set(t.Context(), f.stream, "not a stream", 0).Err())
	require.ErrorContains(t, pub.Publish(f.stream, messagesOf("1", "2")...), "2 of 2 messages were refused: WRONGTYPE")
	reserved := message.NewMessage("id", nil)
	reserved.Metadata.Set(fieldUUID, "x")
	require.ErrorContains(t, pub.Publish(f.stream, reserved), "is reserved")
}

func TestPublisherCloseLetsCallsFinishAndKeepsTheClient(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	counter, pub := f.counted(), f.publisher(t)
	release := counter.hold(t)
	published, closed := make(chan error, 1), make(chan error, 1)
	go func() { published <- pub.Publish(f.stream, messagesOf("1")...) }()
	require.Eventually(t, func() bool { return counter.arrived.Load() == 1 }, receiveLimit, time.Millisecond)
	go func() { closed <- pub.Close() }()
	require.Never(t, func() bool { return len(closed) > 0 }, 50*time.Millisecond, 5*time.Millisecond)
	release()
	require.NoError(t, <-published)
	require.NoError(t, <-closed)
	require.NoError(t, pub.Close())
	require.ErrorIs(t, pub.Publish(f.stream, messagesOf("2")...), ErrPublisherClosed)
	require.Equal(t, []string{"1"}, f.payloads(t))
}

func TestAcksShareCommands(t *testing.T) {
	t.Parallel()
	f := newGroupFixture(t)
	counter := f.counted()
	ch := f.subscribe(t, f.subscriber(t, "c", func(c *SubscriberConfig) { c.Window = 100 }))
	f.publish(t, numbered(100)...)
	// given an ack on its way to Redis, the acks that come meanwhile share the next
	release, before := counter.hold(t), counter.arrived.Load()
	receive(t, ch).Ack()
	require.Eventually(t, func() bool { return counter.arrived.Load() == before+1 }, receiveLimit, time.Millisecond)
	for range 99 {
		receive(t, ch).Ack()
	}
	release()
	f.settled(t)
	require.LessOrEqual(t, counter.xacks.Load(), int64(10))
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add("id", []byte{0x81, 0xa1, 'k', 0xa1, 'v'}, "payload")
	f.Add("", []byte(nil), "")
	f.Add("id", []byte{0xdf, 0xff, 0xff, 0xff, 0xff}, "payload")
	f.Fuzz(func(t *testing.T, id string, metadata []byte, payload string) {
		m, err := decodeMessage(map[string]any{fieldUUID: id, fieldMetadata: string(metadata), fieldPayload: payload})
		if err != nil {
			return
		}
		// whatever decodes is a message that can be published and comes out the same
		require.NotNil(t, m.Metadata)
		fields, _, err := encodeMessage(m)
		if m.Metadata.Get(fieldUUID) != "" {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		packed, _ := fields[3].([]byte)
		again, err := decodeMessage(map[string]any{fieldUUID: fields[1], fieldMetadata: string(packed), fieldPayload: payload})
		require.NoError(t, err)
		require.True(t, m.Equals(again))
	})
}
