package redis

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// dead makes a dead letter that is to go to another queue.
func (f topicFixture) dead(t testing.TB, req events.LeaseRequest, m events.Leased) events.Append {
	t.Helper()
	return events.Append{
		ID: newID(t), TenantID: tenant, Forward: true, Guard: events.Guard{Lease: m.Lease},
		Event: events.MessageDeadLettered{Delivery: f.delivery(req, m), Reason: events.ReasonNack, Error: "no"},
	}
}

func (f topicFixture) outbox(t testing.TB) int64 {
	t.Helper()
	return f.b.client.HLen(t.Context(), f.b.log.shards[f.shard].keys.outbox()).Val()
}

func TestADeadLetterStaysInTheOutboxUntilItIsPublished(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 2)
	req := topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.message(t, 1, `"payload"`))
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	a := topic.dead(t, req, leased[0])
	require.Equal(t, events.StatusAppended, b.append(t, topic.shard, a)[0].Status)
	require.Equal(t, events.StatusLeaseLost, b.append(t, topic.shard, topic.dead(t, req, leased[0]))[0].Status)
	require.Equal(t, int64(1), topic.outbox(t))
	// it is handed out whole
	var got []events.DueForward
	failing := DueWork{Forward: func(_ context.Context, shard int, letter events.DueForward) error {
		require.Equal(t, topic.shard, shard)
		got = append(got, letter)
		return errors.New("not now")
	}}
	topic.moveDue(t, failing)
	require.Len(t, got, 1)
	want := leased[0]
	want.LeasedAtMs = 0 // the attempt is over
	require.Equal(t, want, got[0].Message)
	require.Equal(t, a.Event, got[0].Event)
	require.Equal(t, "d|"+a.ID, got[0].Member)
	// one that fails is set aside for a while, and stays
	topic.moveDue(t, failing)
	require.Len(t, got, 1)
	require.Equal(t, int64(1), topic.outbox(t))
	topic.makeDue(t)
	topic.moveDue(t, DueWork{Forward: func(context.Context, int, events.DueForward) error { return nil }})
	require.Zero(t, topic.outbox(t))
	require.Zero(t, b.client.ZCard(t.Context(), b.log.shards[topic.shard].keys.due()).Val())
}

// A queue that takes nothing for long costs a call, not one a letter, and keeps nobody
// else back.
func TestLettersThatCannotGoKeepNothingBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	const letters = 2*dueItemsMax + 50
	topic.publish(t, "", letters)
	req.MessagesMax = letters
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	for chunk := leased; len(chunk) > 0; {
		n := min(len(chunk), AppendOpsMax)
		batch := make([]events.Append, n)
		for i, m := range chunk[:n] {
			batch[i] = topic.dead(t, req, m)
		}
		b.append(t, topic.shard, batch...)
		chunk = chunk[n:]
	}
	b.append(t, topic.shard, topic.scheduled(t, 0, time.Millisecond))
	tried := 0
	released := func() bool {
		topic.moveDue(t, DueWork{Forward: func(context.Context, int, events.DueForward) error {
			tried++
			return errors.New("full")
		}})
		return topic.field(t, "sc") == "0"
	}
	require.Eventually(t, released, receiveLimit, time.Millisecond)
	require.LessOrEqual(t, tried, 3+1, "once for each step")
	require.Equal(t, int64(letters), topic.outbox(t))
}
