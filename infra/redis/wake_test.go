package redis

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hangingProxy is between a client and Redis. Connections that are open when it
// hangs stay open and say nothing any more; new ones work.
type hangingProxy struct {
	net.Listener

	hung  atomic.Int64
	count atomic.Int64
	// pongs counts the signs of life that went through.
	pongs atomic.Int64
}

func newHangingProxy(t testing.TB, redis string) *hangingProxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &hangingProxy{Listener: l}
	var conns sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(ctx, "tcp", redis)
			if err != nil {
				_ = client.Close()
				continue
			}
			number := p.count.Add(1)
			stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
			conns.Go(func() { _, _ = io.Copy(server, client) })
			conns.Go(func() {
				defer stop()
				_, _ = io.Copy(p.unlessHung(number, client), server)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		conns.Wait()
	})
	return p
}

// hang makes all connections of now hang.
func (p *hangingProxy) hang() { p.hung.Store(p.count.Load()) }

// unlessHung is the client's end of a connection.
func (p *hangingProxy) unlessHung(number int64, client io.Writer) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		if number <= p.hung.Load() {
			return len(b), nil
		}
		if bytes.Contains(bytes.ToLower(b), []byte("pong")) {
			p.pongs.Add(1)
		}
		return client.Write(b)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestAConnectionForWakeUpsThatHangsIsNoticed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// given an instance whose connections go through a proxy
	proxy := newHangingProxy(t, b.client.Options().Addr)
	through, err := Open("redis://" + proxy.Addr().String())
	require.NoError(t, err)
	behind := New(Config{
		Client: through, Prefix: b.prefix, Shards: 2, IdempotencyTTL: time.Minute, Logger: slog.New(slog.DiscardHandler),
		DecodeTopic: decodeState, DecodeSubscription: decodeState, DecodeSchedule: decodeState,
	})
	behind.wakeSilence = 200 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { behind.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		behind.Close()
		_ = through.Close()
	})
	topic := b.topic(t, "orders", 1)
	name := "topic:" + uniqueTopic(tenant, "orders")
	loaded, err := b.log.Topic(ctx, tenant, "orders")
	require.NoError(t, err)
	cached := func() bool {
		a, _ := behind.aggregates.get(name)
		return a != nil
	}
	load := func() {
		_, drops := behind.aggregates.get(name)
		behind.aggregates.put(name, loaded, drops)
	}
	requireDropped := func(tell bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			if tell {
				_ = b.client.Publish(ctx, behind.shards[topic.shard].keys.wake(), "a "+topic.id).Err()
			}
			return !cached()
		}, 10*time.Second, 5*time.Millisecond)
	}
	load()
	requireDropped(true)
	// all that was told before this is heard
	s := behind.shards[topic.shard]
	require.NoError(t, b.client.Publish(ctx, s.keys.wake(), "f 42 0").Err())
	heard := s.folded.wait(42)
	<-heard.done
	// a connection that is only silent is kept
	connections, pongs := proxy.count.Load(), proxy.pongs.Load()
	load()
	require.Eventually(t, func() bool { return proxy.pongs.Load() >= pongs+5 }, 10*time.Second, 5*time.Millisecond)
	require.True(t, cached())
	require.Equal(t, connections, proxy.count.Load())
	// when it hangs, and with it a wake-up is lost, then another one is made, and
	// what may have been missed is forgotten
	proxy.hang()
	requireDropped(false)
	require.Greater(t, proxy.count.Load(), connections)
	load()
	requireDropped(true)
}
