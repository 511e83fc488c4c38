package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/proof"
)

// prove runs prove as a process of the service's environment would.
func prove(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := root()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetArgs(append([]string{"prove"}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// A message is proved by command and by HTTP, checked without any store, and what is
// changed afterwards is refused; verify finds it in the store.
func TestAMessageIsProvedAndCheckedOffline(t *testing.T) {
	cfg := testConfig(t)
	cfg.Shards = 2
	i := start(t, cfg, "")
	t.Setenv("DATABASE_URL", cfg.DatabaseURL)
	t.Setenv("REDIS_URL", "")
	i.queue("orders", "")
	sub := i.subscription("orders", "g", "")
	id := text(i.post("/publish", `{"queue":"orders","payload":{"n" : 1},"headers":{"h":"\"payload\":2"}}`).is(http.StatusCreated)["messageId"])
	dir := t.TempDir()
	old, file, file2, fromHTTP := filepath.Join(dir, "old.json"), filepath.Join(dir, "proof.json"), filepath.Join(dir, "proof2.json"), filepath.Join(dir, "http.json")
	_, err := prove(t, "--heads", "--tenant", devTenant, "-o", old)
	require.NoError(t, err)
	i.ack(sub, i.pull(sub)...)
	eventually(t, "both events are folded", func() bool { return len(list(i.get("/messages/" + id + "/events").is(http.StatusOK)["data"])) == 2 })

	_, err = prove(t, id, "-o", file)
	require.NoError(t, err)
	_, err = prove(t, id, "-o", file2, "--since", old)
	require.NoError(t, err)
	answer := i.get("/messages/" + id + "/proof")
	answer.is(http.StatusOK)
	require.NoError(t, os.WriteFile(fromHTTP, answer.body, 0o600))
	stdout, err := prove(t, id)
	require.NoError(t, err)
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(written), stdout)
	require.JSONEq(t, stdout, string(answer.body))

	var heads proof.Heads
	text, err := os.ReadFile(old)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &heads))
	require.Len(t, heads.Heads, 1)
	key := base64.StdEncoding.EncodeToString(heads.PublicKey)

	// From here on there is no database.
	require.NoError(t, i.stop())
	t.Setenv("DATABASE_URL", "")
	for _, path := range []string{file, fromHTTP, file2} {
		said, err := prove(t, "--check", path, "--key", key)
		require.NoError(t, err)
		require.Contains(t, said, "PROVED: these 2 events of message "+id+" stand in the log of tenant "+devTenant)
		require.Contains(t, said, "signed by the key that you gave, "+key)
		require.Contains(t, said, "Not proved: that the message has no other events.")
	}
	said, err := prove(t, "--check", file2, "--head", old)
	require.NoError(t, err)
	require.Contains(t, said, "which the file itself names")
	require.Contains(t, said, "The log only grew since the head that you kept")
	said, err = prove(t, "--check", file2)
	require.NoError(t, err)
	require.Contains(t, said, "The log only grew since it had ")
	_, err = prove(t, "--check", file, "--head", old)
	require.ErrorContains(t, err, "since: proves nothing from size")
	_, err = prove(t, "--check", file, "--key", base64.StdEncoding.EncodeToString(make([]byte, 32)))
	require.ErrorIs(t, err, proof.ErrKey)

	// Every byte of an event counts.
	var d proof.Document
	require.NoError(t, json.Unmarshal(written, &d))
	for n := range d.Events[0].Data {
		changed := d.Events[0]
		changed.Data = changed.Data[:n] + "~" + changed.Data[n+1:]
		require.Error(t, proof.Document{Format: d.Format, MessageID: d.MessageID, Events: []proof.Event{changed}, Seals: d.Seals[:1], Head: d.Head, PublicKey: d.PublicKey}.Check(proof.CheckOptions{}), n)
	}
	changed := filepath.Join(dir, "changed.json")
	require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(stdout, `{\"n\" : 1}`, `{\"n\" : 2}`, 1)), 0o600))
	_, err = prove(t, "--check", changed)
	require.ErrorContains(t, err, "NOT PROVED: "+changed+": events[0]: seal ")
}

func TestVerifyHoldsHistoryAgainstItsSeals(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg, "")
	t.Setenv("DATABASE_URL", cfg.DatabaseURL)
	t.Setenv("REDIS_URL", "")
	i.queue("orders", "")
	i.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)
	verify := func() (string, error) {
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetArgs([]string{"verify"})
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	said, err := verify()
	require.NoError(t, err, said)
	require.Regexp(t, `history +\d+ seals as sealed: \d+ events`, said)
	// A change that the read tables do not show.
	conn, err := postgres.Connect(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	_, err = conn.Exec(t.Context(), `UPDATE event_history SET metadata = metadata || '{"actor":"nobody"}' WHERE kind = 'message.published'`)
	require.NoError(t, err)
	said, err = verify()
	require.Equal(t, exitError{status: 1}, err)
	require.Contains(t, said, "seals NOT AS SEALED: 1")
	require.Contains(t, said, "history is not what was sealed: 1 events were, and 1 are there, of which some were changed")
	id := text(list(i.get("/messages?queue=orders").is(http.StatusOK)["data"])[0]["messageId"])
	require.Equal(t, http.StatusInternalServerError, i.get("/messages/"+id+"/proof").status)
}

func TestProveSaysWhatIsWrong(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg, "")
	t.Setenv("DATABASE_URL", cfg.DatabaseURL)
	i.queue("orders", "")
	id := text(i.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)["messageId"])
	dir := t.TempDir()
	other := filepath.Join(dir, "other.json")
	_, err := prove(t, "--heads", "--tenant", newID(), "-o", other)
	require.NoError(t, err)
	broken := filepath.Join(dir, "broken.json")
	require.NoError(t, os.WriteFile(broken, []byte("{"), 0o600))
	for _, tc := range []struct {
		args string
		says string
	}{
		{"", "give one message id, or --heads, or --check FILE"},
		{"x", `"x": is no message id; allowed: a UUID in lower case`},
		{newID(), "history has no message"},
		{id + " --tenant " + newID(), "history has no message"},
		{id + " --tenant x", `--tenant: is "x"; allowed: a UUID`},
		{id + " --heads", "--check and --heads take no message id"},
		{id + " --key x", "--key: goes with --check"},
		{id + " --head x", "--head: goes with --check"},
		{id + " --since /nowhere", "--since: open /nowhere"},
		{id + " --since " + broken, "--since: " + broken + ": the file is no such JSON"},
		{id + " --since " + other, "--since: has no head of the log of tenant " + devTenant},
		{id + " -o " + dir + "/no/file", "--output: "},
		{"--check /nowhere", "--check: open /nowhere"},
		{"--check " + broken, "the file is no such JSON"},
		{"--check " + other, "the file is no such JSON"},
		{"--check " + broken + " --since x", "--check: goes with --key and --head alone"},
	} {
		_, err := prove(t, strings.Fields(tc.args)...)
		require.ErrorContains(t, err, tc.says, tc.args)
	}
	file := filepath.Join(dir, "proof.json")
	_, err = prove(t, id, "-o", file)
	require.NoError(t, err)
	_, err = prove(t, "--check", file, "--key", "x")
	require.ErrorContains(t, err, "--key: is no Ed25519 public key in base64, of 32 bytes")
	_, err = prove(t, "--check", file, "--head", other)
	require.ErrorContains(t, err, "--head: has no head of the log")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 3, "no parts of files are left")
}
