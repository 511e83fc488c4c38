package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

func (f topicFixture) updated(version int64, partitions int) events.Append {
	return events.Append{
		ID: f.id, TenantID: tenant, Version: version + 1, State: []byte(`{"name":"` + f.name + `"}`), Guard: events.Guard{TopicVersion: version},
		Event: events.TopicUpdated{TopicConfig: events.TopicConfig{TopicID: f.id, Name: f.name, PartitionCount: partitions}},
	}
}

func (f topicFixture) purged(version int64) events.Append {
	return events.Append{ID: f.id, TenantID: tenant, Version: version, Guard: events.Guard{TopicVersion: version}, Event: events.TopicPurged{TopicID: f.id}}
}

func (f topicFixture) deleted(version int64) events.Append {
	return events.Append{ID: f.id, TenantID: tenant, Version: version + 1, Guard: events.Guard{TopicVersion: version}, Event: events.TopicDeleted{TopicID: f.id, Name: f.name}}
}

func (f topicFixture) unsubscribed(req events.LeaseRequest) events.Append {
	return events.Append{
		ID: req.SubscriptionID, TenantID: tenant, Version: req.SubscriptionVersion + 1, Group: req.Group, Guard: events.Guard{SubscriptionVersion: req.SubscriptionVersion},
		Event: events.SubscriptionDeleted{SubscriptionID: req.SubscriptionID, TopicID: f.id, ConsumerGroup: req.Group, ConsumerName: req.Consumer},
	}
}

func (f topicFixture) paused(req events.LeaseRequest) events.Append {
	return events.Append{
		ID: req.SubscriptionID, TenantID: tenant, Version: req.SubscriptionVersion + 1, State: []byte(`{"name":"paused"}`), Group: req.Group,
		Guard: events.Guard{SubscriptionVersion: req.SubscriptionVersion}, Event: events.SubscriptionPaused{SubscriptionID: req.SubscriptionID, TopicID: f.id},
	}
}

func (f topicFixture) consumed(t testing.TB, req events.LeaseRequest, m events.Leased) events.Append {
	t.Helper()
	return events.Append{ID: newID(t), TenantID: tenant, Event: events.MessageConsumed{Delivery: f.delivery(req, m)}, Guard: events.Guard{Lease: m.Lease}}
}

func (f topicFixture) lease(t testing.TB, req events.LeaseRequest, n int) []events.Leased {
	t.Helper()
	req.MessagesMax = n
	leased, err := f.b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	return leased
}

// discarded is what the log says of every event that discards, in order.
func (f topicFixture) discarded(t testing.TB) (out []events.Discarded) {
	t.Helper()
	entries, err := f.b.client.XRange(t.Context(), LogStream(f.b.prefix, f.shard), "-", "+").Result()
	require.NoError(t, err)
	for _, e := range entries {
		data, ok := e.Values["payload"].(string)
		require.True(t, ok)
		if !strings.Contains(data, `,"discarded":`) {
			continue
		}
		var event struct {
			Discarded events.Discarded `json:"discarded"`
		}
		require.NoError(t, json.Unmarshal([]byte(data), &event), data)
		out = append(out, event.Discarded)
	}
	return out
}

func statuses(out []events.Outcome) (list []events.Status) {
	for _, o := range out {
		list = append(list, o.Status)
	}
	return list
}

// keysOf are the names of the keys that are there because of an id.
func (b *testBundle) keysOf(t testing.TB, id string) []string {
	t.Helper()
	keys, err := b.client.Keys(t.Context(), b.prefix+"*").Result()
	require.NoError(t, err)
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.Contains(k, id) })
}

func TestNewPartitionsHaveEveryGroupFromTheirBeginning(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	early, late := topic.subscription(t, "early", "earliest"), topic.subscription(t, "late", "latest")
	require.Equal(t, events.StatusStale, b.append(t, topic.shard, topic.updated(2, 3))[0].Status)
	require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.updated(1, 3))[0].Status)
	for p := range 3 {
		groups, err := b.client.XInfoGroups(t.Context(), QueueStream(b.prefix, topic.shard, topic.id, p)).Result()
		require.NoError(t, err)
		require.Len(t, groups, 2)
		for _, g := range groups {
			require.Equal(t, "0-0", g.LastDeliveredID)
		}
	}
	// a message that was decided on the old terms is decided anew
	m := topic.message(t, 2, "1")
	require.Equal(t, events.StatusStale, b.append(t, topic.shard, m)[0].Status)
	m.Guard.TopicVersion = 2
	b.append(t, topic.shard, m)
	require.Len(t, topic.lease(t, early, 5), 1)
	require.Len(t, topic.lease(t, late, 5), 1)
}

// Appends that share a call count as they do alone: what is counted in the call is
// there for what needs it, and nothing is counted twice.
func TestOneCallCountsAsManyDo(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprintf("alone %v", alone), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			topic := b.topic(t, "orders", 2)
			req, idle := topic.subscription(t, "g", "earliest"), topic.subscription(t, "idle", "earliest")
			b.append(t, topic.shard, topic.message(t, 0, "0"), topic.message(t, 1, "1"), topic.message(t, 0, "2"))
			held := topic.lease(t, req, 3)
			batch := []events.Append{
				topic.message(t, 0, "3"), topic.consumed(t, req, held[0]), topic.purged(1), topic.consumed(t, req, held[1]),
				topic.message(t, 0, "4"), topic.message(t, 1, "5"), topic.purged(1), topic.message(t, 0, "6"),
				topic.unsubscribed(req), topic.deleted(1), topic.message(t, 0, "7"), topic.deleted(1),
			}
			var out []events.Outcome
			if alone {
				for _, a := range batch {
					out = append(out, b.append(t, topic.shard, a)...)
				}
			} else {
				out = b.append(t, topic.shard, batch...)
			}
			const ok, stale, lost = events.StatusAppended, events.StatusStale, events.StatusLeaseLost
			require.Equal(t, []events.Status{ok, ok, ok, lost, ok, ok, ok, ok, ok, ok, stale, stale}, statuses(out))
			require.Equal(t, []int64{2, 3, 1, 4}, []int64{out[0].Offset, out[4].Offset, out[5].Offset, out[7].Offset})
			var counts []map[string]int64
			for _, d := range topic.discarded(t) {
				counts = append(counts, d.Groups)
			}
			require.Equal(t, []map[string]int64{{"g": 3, "idle": 4}, {"g": 2, "idle": 2}, {"g": 1}, {"idle": 1}}, counts)
			require.Empty(t, b.keysOf(t, topic.id))
			require.Empty(t, b.keysOf(t, idle.SubscriptionID))
			_, err := b.log.Topic(t.Context(), tenant, "orders")
			require.ErrorIs(t, err, events.ErrNoAggregate)
		})
	}
}

func TestANameIsFreeWithinTheCallThatDeletes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	again := topicFixture{b: b, shard: topic.shard, id: newID(t), name: "orders", partitions: 1}
	second := topic.created("orders")
	second.ID, second.Event = again.id, events.TopicCreated{TopicConfig: events.TopicConfig{TopicID: again.id, Name: "orders", PartitionCount: 1}}
	out := b.append(t, topic.shard, second, topic.deleted(1), second, again.message(t, 0, "1"), topic.message(t, 0, "2"), topic.unsubscribed(req))
	require.Equal(t, []events.Status{events.StatusExists, events.StatusAppended, events.StatusAppended, events.StatusAppended, events.StatusStale, events.StatusStale}, statuses(out))
	require.Equal(t, topic.id, out[0].ID)
	a, err := b.log.Topic(t.Context(), tenant, "orders")
	require.NoError(t, err)
	require.Equal(t, again.id, a.ID)
	require.Len(t, again.lease(t, again.subscription(t, "g", "earliest"), 5), 1)
}

// A purge says where in the log the oldest message stands that it may concern.
func TestAPurgeSaysFromWhereOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 3)
	req := topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.purged(1))
	oldest := b.append(t, topic.shard, topic.message(t, 2, "0"), topic.message(t, 0, "1"))[0].Position
	b.append(t, topic.shard, topic.purged(1))
	// what is tried again may be older than all that the partitions hold
	want := []string{"", entryID(oldest)}
	for _, delay := range []int64{0, 3_600_000, 0} {
		first := b.append(t, topic.shard, topic.message(t, 1, "2"), topic.message(t, 1, "3"))[0].Position
		for _, m := range topic.lease(t, req, 2) {
			topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, m), RetryDelayMs: delay}, m)
		}
		require.NoError(t, b.client.XTrimMaxLen(t.Context(), QueueStream(b.prefix, topic.shard, topic.id, 1), 0).Err())
		b.append(t, topic.shard, topic.message(t, 0, "4"), topic.purged(1))
		want = append(want, entryID(first))
	}
	var from []string
	for _, d := range topic.discarded(t) {
		from = append(from, d.From)
	}
	require.Equal(t, want, from)
	require.Empty(t, topic.lease(t, req, 5))
	require.Zero(t, b.client.Exists(t.Context(), b.log.shards[topic.shard].keys.prefix+"waiting:"+topic.id).Val())
}

// More leases than one step looks at: all end, with the group or with a member.
func TestManyLeasesEndAtOnce(t *testing.T) {
	t.Parallel()
	const many = 2100
	for what, end := range map[string]func(f topicFixture, req events.LeaseRequest) events.Append{
		"purge":  func(f topicFixture, _ events.LeaseRequest) events.Append { return f.purged(1) },
		"group":  func(f topicFixture, req events.LeaseRequest) events.Append { return f.unsubscribed(req) },
		"member": func(f topicFixture, req events.LeaseRequest) events.Append { return f.unsubscribed(req) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			topic := b.topic(t, "orders", 2)
			req := topic.subscription(t, "g", "earliest")
			var other events.LeaseRequest
			if what == "member" {
				other = topic.subscription(t, "g", "earliest")
			}
			for n := 0; n < many; n += 100 {
				var batch []events.Append
				for range 100 {
					batch = append(batch, topic.message(t, n/100%20/19, "1")) // nearly all in one partition
				}
				b.append(t, topic.shard, batch...)
			}
			held := 0
			for held < many-1 {
				held += len(topic.lease(t, req, min(1000, many-1-held)))
			}
			var theirs []events.Leased
			if what == "member" {
				theirs = topic.lease(t, other, 10)
				require.Len(t, theirs, 1)
			}
			b.append(t, topic.shard, end(topic, req))
			due := b.log.shards[topic.shard].keys.due()
			if what != "member" {
				require.Zero(t, b.client.ZCard(t.Context(), due).Val())
				return
			}
			// what a member held is due now, what others hold is theirs
			now := fmt.Sprint(time.Now().Add(time.Second).UnixMilli())
			require.Equal(t, int64(many-1), b.client.ZCount(t.Context(), due, "-inf", now).Val())
			require.Equal(t, int64(many), b.client.ZCard(t.Context(), due).Val())
			require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.consumed(t, other, theirs[0]))[0].Status)
			require.WithinDuration(t, time.Now(), b.log.shards[topic.shard].nextDueAt(), time.Minute)
		})
	}
}

// nextDueAt is for when the alarm is set.
func (s *shard) nextDueAt() time.Time {
	s.nextDue.mu.Lock()
	defer s.nextDue.mu.Unlock()
	return s.nextDue.next
}

// A group that begins anew has nothing to do with what the one before it left due.
func TestWhatAGroupLeftDueIsVoidForTheNextOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.For = time.Millisecond
	b.append(t, topic.shard, topic.message(t, 0, "1"), topic.message(t, 0, "2"))
	held := topic.lease(t, req, 2)
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, held[1]), RetryDelayMs: 5}, held[1])
	b.append(t, topic.shard, topic.unsubscribed(req))
	again := topic.subscription(t, "g", "earliest")
	leased := topic.lease(t, again, 5)
	require.Len(t, leased, 2)
	s := b.log.shards[topic.shard]
	require.Eventually(t, func() bool {
		b.log.moveDue(t.Context(), topic.shard, s, DueWork{Expired: func(_ context.Context, _ int, expired []events.ExpiredLease) error {
			t.Error("a lease of the group before it ran out", expired)
			return nil
		}})
		return b.client.ZCard(t.Context(), s.keys.due()).Val() == 2 // the new leases
	}, 10*time.Second, 5*time.Millisecond)
	require.Empty(t, b.client.Keys(t.Context(), b.prefix+"*parked:*").Val())
	require.Empty(t, topic.lease(t, again, 5))
	for _, m := range leased {
		require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.consumed(t, again, m))[0].Status)
	}
}

// A waiting poll comes back when something changes that it was decided on.
func TestAWaitingPollEndsWithAChange(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(f topicFixture, own, fellow events.LeaseRequest) events.Append{
		"its own pause":     func(f topicFixture, own, _ events.LeaseRequest) events.Append { return f.paused(own) },
		"its own end":       func(f topicFixture, own, _ events.LeaseRequest) events.Append { return f.unsubscribed(own) },
		"the queue's end":   func(f topicFixture, _, _ events.LeaseRequest) events.Append { return f.deleted(1) },
		"the queue changed": func(f topicFixture, _, _ events.LeaseRequest) events.Append { return f.updated(1, 2) },
		"a fellow's pause":  func(f topicFixture, _, fellow events.LeaseRequest) events.Append { return f.paused(fellow) },
		"a fellow's end":    func(f topicFixture, _, fellow events.LeaseRequest) events.Append { return f.unsubscribed(fellow) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.listen(t.Context(), t)
			topic := b.topic(t, "orders", 1)
			own, fellow := topic.subscription(t, "g", "earliest"), topic.subscription(t, "g", "earliest")
			stranger := topic.subscription(t, "h", "earliest")
			done, strangers := b.wait(t, own), b.wait(t, stranger)
			b.append(t, topic.shard, change(topic, own, fellow))
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(pollRecheck / 2):
				require.Fail(t, "the poll goes on waiting")
			}
			if strings.HasPrefix(what, "the queue") {
				require.NoError(t, <-strangers)
				return
			}
			require.Empty(t, strangers, "another group's poll goes on")
		})
	}
}

// wait starts a long poll and returns once it waits.
func (b *testBundle) wait(t testing.TB, req events.LeaseRequest) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := b.log.Lease(ctx, req, 20*time.Second)
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	require.Eventually(t, func() bool {
		b.log.hub.mu.Lock()
		defer b.log.hub.mu.Unlock()
		p := b.log.hub.topics[req.TopicID][req.Group]
		return p != nil && len(p.waiting) > 0
	}, 10*time.Second, time.Millisecond)
	return done
}
