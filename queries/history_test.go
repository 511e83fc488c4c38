package queries

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/postgres"
)

// told are changes in short: kind, version, who, what and what else.
func toldChanges(list []Change) []string {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = fmt.Sprintf("%s v%d", c.Kind, c.Version)
		if c.Actor != nil {
			out[i] += " by " + *c.Actor
		}
		if c.RequestID != nil {
			out[i] += " in " + *c.RequestID
		}
		for _, f := range c.Fields {
			out[i] += fmt.Sprintf(" %s:%s->%s", f.Field, f.From, f.To)
		}
		if c.Details != nil {
			out[i] += " " + string(c.Details)
		}
	}
	return out
}

// pagedChanges reads a history one by one, and requires that it is the same as at once.
func pagedChanges(t *testing.T, read func(Page) ([]Change, bool, error)) []Change {
	t.Helper()
	whole, next, err := read(Page{Limit: 100})
	require.NoError(t, err)
	require.False(t, next)
	page := Page{Limit: 1}
	for i, c := range whole {
		one, next, err := read(page)
		require.NoError(t, err)
		require.Equal(t, []Change{c}, one)
		require.Equal(t, i+1 < len(whole), next)
		page.After = []string{fmt.Sprint(c.Position)}
	}
	return whole
}

func TestWhoChangedWhat(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	alice := w.caller
	alice.Subject, alice.RequestID = "alice", "r1"
	first := w.queue("orders", 1, true)
	change := func(cmd commands.UpdateQueue) {
		cmd.Queue = "orders"
		_, _, err := w.UpdateQueue(ctx, alice, cmd)
		require.NoError(t, err)
	}
	change(commands.UpdateQueue{Description: new("d"), PartitionCount: new(3), SchemaDefinition: json.RawMessage(`{"a": 1, "b": [1.0]}`)})
	change(commands.UpdateQueue{Description: new(""), SchemaDefinition: json.RawMessage(`{"b": [ 1.0 ], "a": 2, "c": null}`)})
	sub := w.subscribe(alice, "orders", "g", func(c *commands.CreateSubscription) {
		c.ConsumerName, c.HandlerConfig = "c", json.RawMessage(`{"ordered":true,"mine":1}`)
	})
	theirs := w.subscribe(commands.Caller{TenantID: tenantID(2), Async: true}, tenantID(1)+":orders", "g")
	w.publish(commands.Publish{})
	_, _, err := w.UpdateSubscription(ctx, alice, commands.UpdateSubscription{SubscriptionID: sub, HandlerConfig: json.RawMessage(`{"ordered":true,"mine":2}`), MaxPollRecords: new(7)})
	require.NoError(t, err)
	require.NoError(t, w.Suspend(ctx, sub, "it failed"))
	_, _, err = w.ResumeSubscription(ctx, alice, sub, nil)
	require.NoError(t, err)
	_, err = w.Seek(ctx, alice, commands.Seek{SubscriptionID: sub, To: "latest"})
	require.NoError(t, err)
	ended := w.subscribe(alice, "orders", "h")
	_, err = w.DeleteSubscription(ctx, alice, ended, nil)
	require.NoError(t, err)
	_, err = w.PurgeQueue(ctx, alice, "orders", nil)
	require.NoError(t, err)
	_, err = w.DeleteQueue(ctx, alice, "orders", nil)
	require.NoError(t, err)
	second := w.queue("orders", 1, false)
	w.foldAll(second)

	db := postgres.ForTenant(w.pool, tenantID(1))
	queue := pagedChanges(t, func(p Page) ([]Change, bool, error) { return QueueHistory(ctx, db, tenantID(1), "orders", p) })
	told := toldChanges(queue)
	require.Len(t, told, 6)
	require.Contains(t, told[0], "topic.created v1 allowedConsumers:null->[]")
	require.Contains(t, told[0], ` name:null->"orders" partitionCount:null->1`)
	require.Equal(t, []string{
		`topic.updated v2 by alice in r1 description:null->"d" partitionCount:1->3 schemaDefinition:null->{"a":1,"b":[1.0]}`,
		`topic.updated v3 by alice in r1 description:"d"->null schemaDefinition.a:1->2`,
	}, told[1:3])
	require.Regexp(t, `^topic\.purged v3 by alice in r1 \{"discarded":\{"groups":\{"g":0,"`+tenantID(2)+`:g":1\},"from":"[0-9]+-[0-9]+"\}\}$`, told[3])
	require.Regexp(t, `^topic\.deleted v4 by alice in r1 status:"active"->"archived" \{"discarded":.*\}$`, told[4])
	require.Contains(t, told[5], "topic.created v1")
	for i, c := range queue {
		require.Equal(t, []string{first, second}[i/5], c.TopicID)
		require.Nil(t, c.SubscriptionID)
	}

	subscription := pagedChanges(t, func(p Page) ([]Change, bool, error) { return SubscriptionHistory(ctx, db, tenantID(1), sub, p) })
	told = toldChanges(subscription)
	require.Len(t, told, 6)
	require.Contains(t, told[0], `subscription.created v1 by alice in r1 consumerGroup:null->"g" consumerName:null->"c"`)
	require.Contains(t, told[0], `{"joined":{"group":"g","began":true,"offsets":[0,0,0]}}`)
	require.Equal(t, []string{
		`subscription.updated v2 by alice in r1 handlerConfig.mine:1->2 maxPollRecords:500->7`,
		`subscription.paused v3 by system status:"active"->"paused" {"reason":"it failed"}`,
		`subscription.resumed v4 by alice in r1 status:"paused"->"active"`,
	}, told[1:4])
	// where it went on is in one of the three partitions
	require.Regexp(t, `^subscription\.sought v4 by alice in r1 \{"moved":\{"group":"g","before":1,"after":0,"offsets":\[[01],[01],[01]\],"attemptsBefore":1\},"to":"latest"\}$`, told[4])
	require.Regexp(t, `^topic\.deleted v4 by alice in r1 status:"active"->"deleted" `, told[5])
	told = toldChanges(pagedChanges(t, func(p Page) ([]Change, bool, error) { return SubscriptionHistory(ctx, db, tenantID(1), ended, p) }))
	require.Len(t, told, 2, "the queue's end is no change of a subscription that had ended")
	require.Contains(t, told[1], `subscription.deleted v2 by alice in r1 status:"active"->"deleted"`)

	// others see their own alone, as if there was nothing
	other := postgres.ForTenant(w.pool, tenantID(2))
	for _, id := range []string{sub, newID()} {
		_, _, err = SubscriptionHistory(ctx, other, tenantID(2), id, Page{Limit: 1})
		require.ErrorIs(t, err, ErrNotFound)
	}
	for _, name := range []string{"orders", tenantID(1) + ":orders", "never"} {
		_, _, err = QueueHistory(ctx, other, tenantID(2), name, Page{Limit: 1})
		require.ErrorIs(t, err, ErrNotFound)
	}
	list, _, err := SubscriptionHistory(ctx, other, tenantID(2), theirs, Page{Limit: 5})
	require.NoError(t, err)
	require.Len(t, list, 1, "the queue's end is its owner's")
}
