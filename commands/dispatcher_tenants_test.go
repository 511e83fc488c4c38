package commands_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// queueCommands are all that change a queue, subscriptionCommands a subscription.
func (i *instance) queueCommands(t testing.TB) map[string]func(commands.Caller, string) error {
	return map[string]func(commands.Caller, string) error{
		"update": func(c commands.Caller, name string) error {
			return must3(i.UpdateQueue(t.Context(), c, commands.UpdateQueue{Queue: name, Description: new("theirs")}))
		},
		"update of a version": func(c commands.Caller, name string) error {
			return must3(i.UpdateQueue(t.Context(), c, commands.UpdateQueue{Queue: name, IfVersion: new(int64(99)), PartitionCount: new(0)}))
		},
		"purge": func(c commands.Caller, name string) error {
			_, err := i.PurgeQueue(t.Context(), c, name, nil)
			return err
		},
		"delete": func(c commands.Caller, name string) error {
			_, err := i.DeleteQueue(t.Context(), c, name, new(int64(99)))
			return err
		},
	}
}

func (i *instance) subscriptionCommands(t testing.TB) map[string]func(commands.Caller, string) error {
	return map[string]func(commands.Caller, string) error{
		"update": func(c commands.Caller, id string) error {
			return must3(i.UpdateSubscription(t.Context(), c, commands.UpdateSubscription{SubscriptionID: id, MaxPollRecords: new(0)}))
		},
		"pause": func(c commands.Caller, id string) error {
			return must3(i.PauseSubscription(t.Context(), c, id, new(int64(99))))
		},
		"resume": func(c commands.Caller, id string) error { return must3(i.ResumeSubscription(t.Context(), c, id, nil)) },
		"delete": func(c commands.Caller, id string) error {
			_, err := i.DeleteSubscription(t.Context(), c, id, nil)
			return err
		},
	}
}

// without is an error's text with one word taken out.
func without(err error, word string) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for n := 0; n+len(word) <= len(text); n++ {
		if text[n:n+len(word)] == word {
			return text[:n] + text[n+len(word):]
		}
	}
	return text
}

func TestWhatIsAnotherTenantsIsAsMissing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 2)
	_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: "news", IsPublic: true})
	require.NoError(t, err)
	id := i.subscribe(t, "orders", "g")
	callers := map[string]commands.Caller{"a tenant": as(otherTenant, "a"), "the platform for a tenant": {TenantID: otherTenant, Platform: true, Async: true}}
	for who, caller := range callers {
		for what, do := range i.queueCommands(t) {
			for _, theirs := range []string{"orders", "news", tenant + ":orders", tenant + ":news"} {
				missing := "nowhere"
				if len(theirs) > len(tenant) {
					missing = tenant + ":nowhere"
				}
				err := do(caller, theirs)
				requireRefusal(t, err, commands.CodeQueueNotFound)
				require.Equal(t, without(do(caller, missing), missing), without(err, theirs), "%s: %s of %s", who, what, theirs)
			}
		}
		for what, do := range i.subscriptionCommands(t) {
			none := newID()
			err := do(caller, id)
			requireRefusal(t, err, commands.CodeSubscriptionNotFound)
			require.Equal(t, without(do(caller, none), none), without(err, id), "%s: %s", who, what)
		}
		// nobody publishes to another tenant's queue; of a private one they do not learn that it is there
		requireRefusal(t, i.publishBatch(t, caller, false, message(tenant+":orders", "1"))[0].Err, commands.CodeQueueNotFound)
		requireRefusal(t, i.publishBatch(t, caller, false, message(tenant+":news", "1"))[0].Err, commands.CodeForbidden)
	}
	// nothing came of it
	history := i.kinds(t, b, "orders", 2)
	require.Contains(t, history, events.KindTopicCreated)
	require.Equal(t, int64(1), i.update(t, commands.UpdateQueue{}).Version)
	i.publish(t, "orders", "1")
	require.Len(t, i.pull(t, id, 1), 1)
}

func TestAPublicQueueIsConsumedAcrossTenants(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, theirs := b.instance(t).run(t), b.instance(t).run(t)
	_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: "orders", IsPublic: true})
	require.NoError(t, err)
	reader := as(otherTenant, "reader")
	cmd := commands.CreateSubscription{ID: newID(), Queue: tenant + ":orders", ConsumerGroup: "g", OffsetResetPolicy: "earliest"}
	s, _, err := theirs.CreateSubscription(t.Context(), reader, cmd)
	require.NoError(t, err)
	require.Equal(t, []string{tenant + ":orders", otherTenant}, []string{s.QueueName(), s.TenantID})
	mine := i.subscribe(t, "orders", "g")
	id := s.Config.SubscriptionID
	// groups of one name are each tenant's own: both get every message
	i.publish(t, "orders", "1")
	pull := func() ([]commands.Pulled, error) {
		return theirs.Pull(t.Context(), reader, commands.Pull{SubscriptionID: id, WaitMs: 1000})
	}
	got, err := pull()
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, "1", string(i.pull(t, mine, 1)[0].Payload))
	out, err := theirs.Ack(t.Context(), reader, id, []string{got[0].AckToken})
	require.NoError(t, err)
	require.Equal(t, "acked", out[0].Status)
	// they are who consumed
	last := i.history(t, b, "orders", 5)[4]
	require.Equal(t, []string{otherTenant, otherTenant + ":g"}, []string{last.TenantID, last.Event.(events.MessageConsumed).ConsumerGroup})
	// their subscription is theirs to change
	_, _, err = theirs.PauseSubscription(t.Context(), reader, id, nil)
	require.NoError(t, err)
	_, _, err = theirs.ResumeSubscription(t.Context(), reader, id, nil)
	require.NoError(t, err)
	_, _, err = i.PauseSubscription(t.Context(), async, id, nil)
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	// purges name their groups
	i.publish(t, "orders", "2")
	i.purge(t)
	require.Equal(t, map[string]int64{"g": 2, otherTenant + ":g": 1}, i.last(t, b, 9).(events.TopicPurged).Discarded.Groups)
}

func TestAPermissionThatIsRevokedEndsConsuming(t *testing.T) {
	t.Parallel()
	closing := map[string]commands.UpdateQueue{
		"other consumers": {AllowedConsumers: &[]string{"somebody"}},
		"made private":    {IsPublic: new(false)},
	}
	// What is private has no subscriptions of others: they end, a moment after nobody may
	// use them any more.
	refused := func(t *testing.T, name string, err error) {
		t.Helper()
		var r *commands.Refusal
		require.ErrorAs(t, err, &r)
		codes := []commands.Code{commands.CodeForbidden}
		if name == "made private" {
			codes = append(codes, commands.CodeSubscriptionNotFound)
		}
		require.Contains(t, codes, r.Code)
	}
	for name, update := range closing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			i, other := b.instance(t).run(t), b.instance(t).run(t)
			_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: "orders", IsPublic: true, AllowedConsumers: []string{"reader"}})
			require.NoError(t, err)
			reader := as(otherTenant, "reader")
			cmd := commands.CreateSubscription{ID: newID(), Queue: tenant + ":orders", ConsumerGroup: "g", OffsetResetPolicy: "earliest"}
			_, _, err = i.CreateSubscription(t.Context(), as(otherTenant, "stranger"), cmd)
			requireRefusal(t, err, commands.CodeForbidden)
			s, _, err := i.CreateSubscription(t.Context(), reader, cmd)
			require.NoError(t, err)
			id := s.Config.SubscriptionID
			i.publish(t, "orders", "1")
			held, err := other.Pull(t.Context(), reader, commands.Pull{SubscriptionID: id})
			require.NoError(t, err)
			require.Len(t, held, 1)
			waiting := []<-chan polled{i.poll(t, reader, id), other.poll(t, reader, id)}
			i.update(t, update)
			i.publish(t, "orders", "2")
			for _, w := range waiting {
				refused(t, name, await(t, w).err)
			}
			for _, on := range []*instance{i, other} {
				_, err = on.Pull(t.Context(), reader, commands.Pull{SubscriptionID: id})
				refused(t, name, err)
				_, err = on.Ack(t.Context(), reader, id, []string{held[0].AckToken})
				refused(t, name, err)
			}
			if name == "made private" {
				_, err = i.DeleteSubscription(t.Context(), reader, id, nil)
				requireRefusal(t, err, commands.CodeSubscriptionNotFound)
				return
			}
			// and it is as it was when the permission comes back
			i.update(t, commands.UpdateQueue{IsPublic: new(true), AllowedConsumers: &[]string{"reader"}})
			out, err := i.Ack(t.Context(), reader, id, []string{held[0].AckToken})
			require.NoError(t, err)
			require.Equal(t, "acked", out[0].Status)
			_, err = i.DeleteSubscription(t.Context(), reader, id, nil)
			require.NoError(t, err)
		})
	}
}

// What a deleted member of another tenant's group held goes back in that tenant's name.
func TestAReleasedMessageIsItsGroupsTenants(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: "orders", IsPublic: true})
	require.NoError(t, err)
	reader := as(otherTenant, "reader")
	var ids []string
	for _, name := range []string{"a", "b"} {
		s, _, err := i.CreateSubscription(t.Context(), reader, commands.CreateSubscription{ID: newID(), Queue: tenant + ":orders", ConsumerGroup: "g", ConsumerName: name})
		require.NoError(t, err)
		ids = append(ids, s.Config.SubscriptionID)
	}
	i.publish(t, "orders", "1")
	_, err = i.Pull(t.Context(), reader, commands.Pull{SubscriptionID: ids[0]})
	require.NoError(t, err)
	_, err = i.DeleteSubscription(t.Context(), reader, ids[0], nil)
	require.NoError(t, err)
	failed := i.history(t, b, "orders", 6)[5]
	require.Equal(t, []any{events.KindMessageFailed, otherTenant}, []any{failed.Event.Kind(), failed.TenantID})
	got, err := i.Pull(t.Context(), reader, commands.Pull{SubscriptionID: ids[1], WaitMs: 2000})
	require.NoError(t, err)
	require.Equal(t, 2, got[0].Attempt)
}
