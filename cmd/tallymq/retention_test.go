package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/retention"
)

// keeper is one whose clock is ahead: what was published a moment ago is old.
func (b *books) keeper(ahead time.Duration) *retention.Keeper {
	b.t.Helper()
	d := commands.NewDispatcher(b.log, commands.Config{
		Shards: b.cfg.Shards, AckTimeout: 10 * time.Second, Now: time.Now, NewID: newID, Rand: chance, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.log.Run(ctx)
	}()
	b.t.Cleanup(func() {
		stop()
		<-ended
	})
	return retention.New(retention.Config{Pool: b.pool, Commands: d, Now: func() time.Time { return time.Now().Add(ahead) }, Logger: slog.New(slog.DiscardHandler)})
}

func (b *books) retained(k *retention.Keeper) int {
	b.t.Helper()
	n, err := k.Round(b.t.Context())
	require.NoError(b.t, err)
	return n
}

// A queue's old messages go once every group has settled them: rows and payloads are gone,
// events and counts stay, and another queue's messages are left alone.
func TestQueuesKeepMessagesForAsLongAsTheySay(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	i := start(t, cfg, "")
	b := openBooks(t, cfg)
	keeper := b.keeper(2 * time.Minute)
	i.queue("short", `,"retentionMs":60000,"partitionCount":2`)
	i.queue("long", `,"retentionMs":3600000`)
	quick, slow := i.subscription("short", "quick", ""), i.subscription("short", "slow", `,"retryDelayMs":3600000,"maxRetryAttempts":2`)
	dead := i.subscription("short", "dead", `,"maxRetryAttempts":0`)
	i.subscription("long", "g", "")
	publish := func(queue, payload string) string {
		return text(i.post("/publish", `{"queue":"`+queue+`","payload":"`+payload+`"}`).is(http.StatusCreated)["messageId"])
	}
	var ids []string
	for n := range 6 {
		ids = append(ids, publish("short", fmt.Sprint("canary-short-", n)))
	}
	other := publish("long", "canary-long")
	later := text(i.post("/publish/delayed", `{"queue":"short","delayMs":3600000,"payload":"canary-later"}`).is(http.StatusCreated)["messageId"])
	i.ack(quick, i.pull(quick)...)
	// one group has settled nothing: all stays
	require.Zero(t, b.retained(keeper))
	held := i.pull(slow)
	require.Len(t, held, 6)
	of := map[string]map[string]any{}
	for _, m := range held {
		of[text(m["messageId"])] = m
	}
	i.ack(slow, of[ids[0]], of[ids[1]], of[ids[4]])
	i.post("/subscriptions/"+slow+"/nack", map[string]any{"ackTokens": []string{text(of[ids[2]]["ackToken"])}}).is(http.StatusOK)
	letters := i.pull(dead)
	tokens := make([]string, len(letters))
	for n, m := range letters {
		tokens[n] = text(m["ackToken"])
	}
	i.post("/subscriptions/"+dead+"/nack", map[string]any{"ackTokens": tokens}).is(http.StatusOK)
	b.balanced()

	// then what was published before the oldest that a group has not settled goes
	require.Equal(t, 2, b.retained(keeper))
	b.balanced()
	gone := func(id, payload string) {
		t.Helper()
		i.get("/messages/"+id).refused(http.StatusNotFound, "MQ_MESSAGE_NOT_FOUND")
		require.Empty(t, b.inPostgres(payload))
		// The log keeps what was folded a moment ago.
		eventually(t, "the log is trimmed", func() bool { return len(b.inRedis(payload)) == 0 })
		events := list(i.get("/messages/" + id + "/events").is(http.StatusOK)["data"])
		require.Equal(t, "message.published", events[0]["type"])
		data, _ := events[0]["data"].(map[string]any)
		require.Nil(t, data["payload"])
		require.Len(t, data["erasedSha256"], 64)
		require.GreaterOrEqual(t, len(events), 4, "what became of it is still known")
	}
	gone(ids[0], "canary-short-0")
	gone(ids[1], "canary-short-1")
	for n, id := range ids[2:] {
		require.Equal(t, fmt.Sprint("canary-short-", n+2), i.get("/messages/" + id).is(http.StatusOK)["payload"])
	}
	require.Zero(t, b.retained(keeper))

	// and the rest once it is settled; what waits to be released stays
	i.ack(slow, of[ids[3]], of[ids[5]])
	require.Zero(t, b.retained(keeper), "one is still to be tried again")
	i.post("/subscriptions/"+slow+"/seek", `{"to":"latest"}`).is(http.StatusOK)
	require.Equal(t, 4, b.retained(keeper))
	b.balanced()
	for n, id := range ids {
		gone(id, fmt.Sprint("canary-short-", n))
	}
	require.Equal(t, "canary-later", i.get("/messages/" + later).is(http.StatusOK)["payload"])
	require.Equal(t, "canary-long", i.get("/messages/" + other).is(http.StatusOK)["payload"])
	require.Empty(t, list(i.get("/subscriptions/" + dead + "/dead-letters").is(http.StatusOK)["data"]))
	var ledger struct{ Published, Dead int64 }
	i.get("/subscriptions/"+dead+"/ledger").decode(http.StatusOK, &ledger)
	require.Equal(t, []int64{7, 6}, []int64{ledger.Published, ledger.Dead}, "counts stay, of what waits too")

	// whoever asks for them gets none, and is told
	sought := i.post("/subscriptions/"+quick+"/seek", `{"to":"earliest"}`).is(http.StatusOK)
	require.Equal(t, true, sought["older"])
	job := i.ended(text(sought["jobId"]))
	require.Equal(t, []float64{0, 6}, []float64{job["done"].(float64), job["failed"].(float64)})
	job = i.ended(text(i.post("/queues/short/replay", `{"subscriptionId":"`+slow+`"}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []float64{0, 6}, []float64{job["done"].(float64), job["failed"].(float64)})
	require.Equal(t, "consumed", i.get("/messages/" + ids[0] + "/explain?subscription=" + quick).is(http.StatusOK)["verdict"])
	late := i.subscription("short", "late", "")
	require.Empty(t, list(i.post("/subscriptions/"+late+"/pull", `{}`).is(http.StatusOK)["messages"]))
	b.balanced()

	// a deleted queue's messages go too, and those of one that nobody reads
	require.Equal(t, http.StatusNoContent, i.call(http.MethodDelete, apiPrefix+"/queues/short", nil).status)
	require.Equal(t, 1, b.retained(keeper))
	require.Empty(t, b.inPostgres("canary-later"))
	i.queue("unread", `,"retentionMs":60000`)
	publish("unread", "canary-unread")
	require.Equal(t, 1, b.retained(keeper))
	require.Empty(t, b.inPostgres("canary-unread"))
	b.balanced()
	require.NoError(t, i.stop())
}
