package main

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// command runs the program with a store.
func (b *recoveryBundle) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	t.Setenv("DATABASE_URL", b.cfg.DatabaseURL)
	t.Setenv("REDIS_URL", b.cfg.RedisURL)
	t.Setenv("REDIS_KEY_PREFIX", b.cfg.RedisKeyPrefix)
	cmd := root()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// planted is a queue with a message of every kind, and where Redis has them.
type planted struct {
	*recoveryBundle

	prefix, topic                         string
	fresh, leased, parked, settled, later string
	entries                               map[string]string
}

func plant(t *testing.T) planted {
	t.Helper()
	p := planted{recoveryBundle: setupRecovery(t)}
	p.queue("q", "")
	sub := p.subscription("q", "g", "")
	for _, id := range []*string{&p.settled, &p.parked, &p.leased, &p.fresh} {
		*id = text(p.post("/publish", `{"queue":"q","payload":1}`).is(http.StatusCreated)["messageId"])
	}
	p.later = text(p.post("/publish/delayed", `{"queue":"q","payload":1,"delayMs":10000000}`).is(http.StatusCreated)["messageId"])
	pulled := list(p.post("/subscriptions/"+sub+"/pull", `{"maxMessages":3}`).is(http.StatusOK)["messages"])
	require.Equal(t, []string{p.settled, p.parked, p.leased}, []string{text(pulled[0]["messageId"]), text(pulled[1]["messageId"]), text(pulled[2]["messageId"])})
	p.ack(sub, pulled[0])
	p.post("/subscriptions/"+sub+"/nack", map[string]any{"ackTokens": []any{pulled[1]["ackToken"]}, "delayMs": 10_000_000}).is(http.StatusOK)
	p.folded()
	p.topic = text(p.get("/queues/q").is(http.StatusOK)["id"])
	p.prefix = fmt.Sprintf("%s{%d}:", p.cfg.RedisKeyPrefix, events.ShardOf(devTenant, "q", p.cfg.Shards))
	p.entries = map[string]string{}
	for _, e := range p.client.XRange(t.Context(), p.prefix+"q:"+p.topic+":0", "-", "+").Val() {
		p.entries[e.Values["_watermill_message_uuid"].(string)] = e.ID
	}
	require.NoError(t, p.stop())
	return p
}

// Whatever is changed behind the service's back is found and named, and a repair puts it right.
func TestVerifyNamesWhatIsWrongInRedis(t *testing.T) { //nolint:paralleltest // the environment is the process's
	p := plant(t)
	stream, ctx := p.prefix+"q:"+p.topic+":0", t.Context()
	out, err := p.command(t, "verify")
	require.NoError(t, err, out)
	require.Regexp(t, `delivery \(Redis\) +4 messages that are not settled, in \d+ queues: as history says`, out)
	for _, fault := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"an entry of a stream is lost", func() error { return p.client.XDel(ctx, stream, p.entries[p.leased]).Err() }, []string{"has lost the entry of offset 2, message " + p.leased}},
		{"a message is settled behind its group's back", func() error {
			if err := p.client.XReadGroup(ctx, &goredis.XReadGroupArgs{Group: "g", Consumer: "g", Streams: []string{stream, ">"}, Count: 1, Block: -1}).Err(); err != nil {
				return err
			}
			return p.client.XAck(ctx, stream, "g", p.entries[p.leased]).Err()
		}, []string{
			"group g: message " + p.leased + " is not settled by history (attempt 1 is next), and Redis does not hold it", "NOT BALANCED",
		}},
		{"a group's place is moved on", func() error { return p.client.XGroupSetID(ctx, stream, "g", "$").Err() }, []string{"message " + p.fresh + " is not settled by history"}},
		{"a group's place is moved back", func() error { return p.client.XGroupSetID(ctx, stream, "g", "0").Err() }, []string{"Redis holds message " + p.settled + " (attempt 1 is next), which is settled by history"}},
		{"a retry is lost", func() error { return p.client.Del(ctx, p.prefix+"parked:"+p.topic+":g").Err() }, []string{"message " + p.parked + " is not settled by history (attempt 2 is next), and Redis does not hold it"}},
		{"a retry comes twice", func() error {
			return p.client.XAdd(ctx, &goredis.XAddArgs{Stream: p.prefix + "retry:" + p.topic + ":g", Values: []any{
				"_watermill_message_uuid", p.parked, "metadata", "\x80", "payload", "1", "pos", "1-1", "off", "1", "part", "0", "att", "2", "base", "0",
			}}).Err()
		}, []string{"Redis holds message " + p.parked + " (attempt 2 is next) 2 times"}},
		{"a scheduled message is lost", func() error { return p.client.HDel(ctx, p.prefix+"scheduled:"+p.topic, p.later).Err() }, []string{"message " + p.later + " waits to be released by history"}},
		{"a count is wrong", func() error { return p.client.HIncrBy(ctx, p.prefix+"groups:"+p.topic, "g", 1).Err() }, []string{"NOT BALANCED: 1"}},
		{"offsets begin anew", func() error { return p.client.HSet(ctx, p.prefix+"topic:"+p.topic, "o:0", 2).Err() }, []string{"partition 0: the next offset is 2 in Redis, and 4 by history"}},
		{"a group is gone", func() error { return p.client.HDel(ctx, p.prefix+"groups:"+p.topic, "g").Err() }, []string{"group g is in history and not in Redis"}},
		{"an epoch is gone", func() error { return p.client.Del(ctx, p.prefix+"epoch").Err() }, []string{"log (Redis)", "is empty", "tallymq repair"}},
		{"everything is gone", func() error { return p.client.FlushAll(ctx).Err() }, []string{"LOST: shard 0 is empty"}},
	} {
		require.NoError(t, fault.do(), fault.name)
		out, err := p.command(t, "verify")
		require.Equal(t, exitError{status: 1}, err, "%s: %s", fault.name, out)
		for _, want := range fault.want {
			require.Contains(t, out, want, fault.name)
		}
		out, err = p.command(t, "repair", "--force")
		require.NoError(t, err, fault.name)
		require.Regexp(t, `^\d+ events folded, \d+ messages put back in .+\. The log is known by epoch .+ now\.\n$`, out)
		out, err = p.command(t, "verify")
		require.NoError(t, err, "%s, repaired: %s", fault.name, out)
	}
	out, err = p.command(t, "repair")
	require.NoError(t, err)
	require.Contains(t, out, "Nothing is missing")
	// a checkpoint that is ahead of the log is as if the log had lost its end
	_, err = p.pool.Exec(ctx, `UPDATE projection_checkpoints SET position = position + (1::bigint << 40)`)
	require.NoError(t, err)
	out, err = p.command(t, "verify")
	require.Equal(t, exitError{status: 1}, err)
	require.Contains(t, out, "LOST: the log of shard 0 ends at")
}

// What the log has and Postgres has not is folded before anything is put back, though no service
// runs.
func TestARepairFoldsTheRestFirst(t *testing.T) {
	b := setupRecovery(t)
	b.queue("q", "")
	sub := b.subscription("q", "g", "")
	b.folded()
	require.NoError(t, b.stop())
	alone := b.cfg
	alone.AckTimeoutMs = 100
	i := startRoles(t, alone, roles{roleCommand})
	for range 20 {
		i.post("/publish", `{"queue":"q","payload":1}`, "Prefer", "respond-async").is(http.StatusAccepted)
	}
	require.NoError(t, i.stop())
	out, err := b.command(t, "repair", "--force")
	require.NoError(t, err)
	require.Regexp(t, `, 20 messages put back`, out)
	b.instance = start(t, b.cfg, "")
	seen := 0
	for seen < 20 {
		seen += len(b.pull(sub))
	}
	b.verified()
	// without its stores it says what it needs
	t.Setenv("REDIS_URL", "")
	cmd := root()
	cmd.SetArgs([]string{"repair"})
	cmd.SetErr(&bytes.Buffer{})
	require.ErrorContains(t, cmd.ExecuteContext(t.Context()), "REDIS_URL: is not set")
}
