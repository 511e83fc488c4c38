package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
)

// run runs a command line against an instance.
func (i *instance) run(stdin string, args ...string) (stdout, stderr string, err error) {
	i.t.Helper()
	cmd := root()
	var out, errOut bytes.Buffer
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SetArgs(append(args, "--url", i.url))
	err = cmd.ExecuteContext(i.t.Context())
	return out.String(), errOut.String(), err
}

// documents are lines of different sizes whose keys repeat, some without a key.
func documents(n int) (lines []string, keyOf func(line string) string) {
	for d := range n {
		key := fmt.Sprintf(`"repository":{"full_name":"org/repo-%d"},`, d%7)
		if d%11 == 0 {
			key = ""
		}
		lines = append(lines, fmt.Sprintf(`{%s"n":%d, "text":"é\u00e9 <&> \/", "fill":"%s"}`, key, d, strings.Repeat("x", d*d%5000)))
	}
	return lines, func(line string) string { return keyAt([]byte(line), "repository.full_name") }
}

func TestAFileGoesInAndComesOutByteForByteInOrder(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("hooks", `,"partitionCount":3`)
	sub := i.subscription("hooks", "g", "")
	lines, keyOf := documents(500)
	path := filepath.Join(t.TempDir(), "hooks.ndjson")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))

	_, summary, err := i.run("", "publish", "--queue", "hooks", "--key", "repository.full_name", "--batch", "33", path)
	require.NoError(t, err)
	require.Contains(t, summary, "500 published in ")
	require.Contains(t, summary, ", 0 rejected")

	out, summary, err := i.run("", "consume", "--subscription", sub, "--drain")
	require.NoError(t, err)
	require.Contains(t, summary, "500 consumed in ")
	got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	require.ElementsMatch(t, lines, got)
	byKey := func(lines []string) map[string][]string {
		m := map[string][]string{}
		for _, l := range lines {
			if key := keyOf(l); key != "" {
				m[key] = append(m[key], l)
			}
		}
		return m
	}
	require.Len(t, byKey(lines), 7)
	require.Equal(t, byKey(lines), byKey(got), "the order of a key's messages")
	// and nothing is left
	out, _, err = i.run("", "consume", "--subscription", sub, "--drain")
	require.NoError(t, err)
	require.Empty(t, out)
}

func TestRefusedLinesAreListedAndTheRestGoesIn(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.MessageSizeBytesMax = 2000
	i := start(t, cfg, "")
	i.queue("q", "")
	sub := i.subscription("q", "g", "")
	deep := strings.Repeat("[", 33) + strings.Repeat("]", 33)
	input := strings.Join([]string{
		`{"n":1}`, `{"n":`, `{"a":1,"a":2}`, ``, `"` + strings.Repeat("x", 3000) + `"`, `{"n":2} {}`, "\"\xff\"", `"\u0000"`, deep, "  {\"n\":3}\r",
	}, "\n")
	_, summary, err := i.run(input, "publish", "--queue", "q", "-")
	require.Equal(t, exitError{status: 1}, err)
	require.Contains(t, summary, "2 published in ")
	require.Contains(t, summary, "7 rejected")
	for _, want := range []string{
		"line 2: is not valid JSON", "line 3: is not valid JSON", "line 5: MQ_PAYLOAD_TOO_LARGE: payload has 3002 bytes; allowed: at most 2000 bytes",
		"line 6: is not valid JSON: something follows", "line 7: is not valid JSON", "line 8: has a NUL character", "line 9: is nested deeper; allowed: at most 32 levels",
	} {
		require.Contains(t, summary, want)
	}
	out, _, err := i.run("", "consume", "--subscription", sub, "--count", "2")
	require.NoError(t, err)
	require.Equal(t, "{\"n\":1}\n{\"n\":3}\n", out)
}

func TestClientsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	_, _, err := i.run("1\n", "publish", "--queue", "none", "-")
	require.ErrorContains(t, err, `there is no queue "none"`)
	_, _, err = i.run("", "publish", "--queue", "q", "/nowhere/at/all")
	require.ErrorContains(t, err, "no such file")
	_, _, err = i.run("", "publish", "--queue", "q", "--batch", "1001", "-")
	require.ErrorContains(t, err, "--batch: is 1001; allowed: 1 to 1000")
	_, _, err = i.run("", "publish", "-")
	require.ErrorContains(t, err, `"queue" not set`)
	_, _, err = i.run("", "consume", "--subscription", devTenant)
	require.ErrorContains(t, err, "MQ_SUBSCRIPTION_NOT_FOUND")
}

func TestConsumeStopsWhenAskedAndPrintsEnvelopes(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("q", "")
	sub := i.subscription("q", "g", "")
	for n := range 3 {
		i.post("/publish", fmt.Sprintf(`{"queue":"q","key":"k","payload":[%d,`+"\n"+`1]}`, n)).is(201)
	}
	out, _, err := i.run("", "consume", "--subscription", sub, "--count", "1", "--envelope")
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &m))
	require.Equal(t, "k", m["key"])
	require.Equal(t, 1, strings.Count(out, "\n"))

	ctx, cancel := context.WithCancel(t.Context())
	cmd := root()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	cmd.SetOut(writer)
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetArgs([]string{"consume", "--subscription", sub, "--url", i.url})
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	buf := make([]byte, 100)
	for got := ""; strings.Count(got, "\n") < 2; {
		n, err := reader.Read(buf)
		require.NoError(t, err)
		got += string(buf[:n])
	}
	cancel()
	require.NoError(t, <-done)
	eventually(t, "what was printed is acknowledged", func() bool {
		state, _ := i.get("/queues/q").is(200)["state"].(map[string]any)
		return state["depth"] == 0.0
	})
}

func TestVerifyAndMigrateByCommand(t *testing.T) {
	cfg := testConfig(t)
	t.Setenv("DATABASE_URL", cfg.DatabaseURL)
	run := func(args ...string) (string, error) {
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	_, err := run("migrate")
	require.NoError(t, err)
	_, err = run("verify")
	require.ErrorContains(t, err, "no service has used this database yet")
	i := start(t, cfg, "")
	i.queue("q", "")
	i.post("/publish", `{"queue":"q","payload":1}`).is(201)
	out, err := run("verify")
	require.NoError(t, err)
	require.Contains(t, out, " events folded. The read tables equal the fold of the history.")
	require.Contains(t, out, "not checked: REDIS_URL is not set")
	// with both stores every group's messages are counted, and one too many is found
	t.Setenv("REDIS_URL", cfg.RedisURL)
	t.Setenv("REDIS_KEY_PREFIX", cfg.RedisKeyPrefix)
	i.subscription("q", "g", "")
	out, err = run("verify")
	require.NoError(t, err, out)
	require.Regexp(t, `ledger +1 groups balanced`, out)
	client, err := redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	topic := text(i.get("/queues/q").is(200)["id"])
	groups := fmt.Sprintf("%s{%d}:groups:%s", cfg.RedisKeyPrefix, events.ShardOf(devTenant, "q", cfg.Shards), topic)
	require.NoError(t, client.HIncrBy(t.Context(), groups, "g", 1).Err())
	out, err = run("verify")
	require.Equal(t, exitError{status: 1}, err)
	require.Contains(t, out, "NOT BALANCED: 1")
	require.Contains(t, out, "published 1 + replayed 0, but consumed 0 + in flight 0 + waiting 1")
	require.NoError(t, client.HIncrBy(t.Context(), groups, "g", -1).Err())
	require.NoError(t, i.stop())
	pool, err := openDatabase(t.Context(), nil)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), `UPDATE message_records SET status = 'consumed'`)
	require.NoError(t, err)
	out, err = run("verify")
	require.Equal(t, exitError{status: 1}, err)
	require.Contains(t, out, "DIFFERENT: 1 changed, 0 deleted, 0 added or doubled")
	require.Regexp(t, `changed message_id .*: status "published" -> "consumed"`, out)
}

func TestHealthByCommand(t *testing.T) {
	i := start(t, testConfig(t), "")
	health := func() error {
		cmd := root()
		cmd.SetArgs([]string{"health"})
		return cmd.ExecuteContext(t.Context())
	}
	t.Setenv("PORT", i.url[strings.LastIndex(i.url, ":")+1:])
	require.NoError(t, health())
	require.NoError(t, i.stop())
	require.Error(t, health())
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestConsumeStopsWhereItCannotPrint(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("q", "")
	sub := i.subscription("q", "g", "")
	for range 3 {
		i.post("/publish", `{"queue":"q","payload":1}`).is(201)
	}
	cmd := root()
	cmd.SetOut(brokenPipe{})
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetArgs([]string{"consume", "--subscription", sub, "--count", "2", "--url", i.url})
	require.ErrorContains(t, cmd.ExecuteContext(t.Context()), "no space left")
	// one pull was spent, and no more
	state, _ := i.get("/queues/q").is(200)["state"].(map[string]any)
	require.Equal(t, []any{2.0, 1.0}, []any{state["pending"], state["lag"]})
}
