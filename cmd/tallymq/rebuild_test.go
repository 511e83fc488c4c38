package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/projections"
)

// tableHashes are the hashes of all read tables.
func tableHashes(t *testing.T, cfg config.Config) map[string]string {
	t.Helper()
	conn, err := postgres.Connect(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	out := map[string]string{}
	for _, table := range projections.ReadTables() {
		out[table], err = projections.TableHash(t.Context(), conn, table)
		require.NoError(t, err)
	}
	return out
}

func execute(t *testing.T, cfg config.Config, statements ...string) {
	t.Helper()
	conn, err := postgres.Connect(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// projection is what GET /admin/projections says of the read tables.
type projection struct {
	Version, CodeVersion int
	Checkpoints          []struct{ Position string }
	Rebuild              *struct {
		ID, Status, Reason string
		Events             int64
		Tables             []struct {
			Table, SHA256 string
			Differed      bool
		}
	}
}

func (i *instance) projection() projection {
	i.t.Helper()
	var page struct{ Data []projection }
	i.get("/admin/projections").decode(http.StatusOK, &page)
	require.Len(i.t, page.Data, 1)
	return page.Data[0]
}

// traffic publishes, consumes and reads until it is stopped; nothing of it may fail.
type traffic struct {
	stop   context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	failed []string
	done   int
}

// asking sends a request and notes whether it was answered well.
func (tr *traffic) asking(ctx context.Context, method, url, body string) []byte {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	var text []byte
	status := 0
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		status = resp.StatusCode
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		tr.failed = append(tr.failed, err.Error())
	case status >= http.StatusMultipleChoices:
		tr.failed = append(tr.failed, method+" "+url+": "+string(text))
	default:
		tr.done++
	}
	return text
}

func (i *instance) traffic(queue, sub string) *traffic {
	ctx, stop := context.WithCancel(context.Background())
	tr := &traffic{stop: stop}
	base := i.url + apiPrefix
	for _, work := range []func(){
		func() { tr.asking(ctx, http.MethodPost, base+"/publish", `{"queue":"`+queue+`","payload":{"a":1}}`) },
		func() {
			tr.asking(ctx, http.MethodPost, base+"/publish", `{"queue":"`+queue+`","key":"k","payload":2}`)
		},
		func() {
			var pulled struct {
				Messages []struct {
					AckToken string `json:"ackToken"`
				} `json:"messages"`
			}
			_ = json.Unmarshal(tr.asking(ctx, http.MethodPost, base+"/subscriptions/"+sub+"/pull", `{"waitMs":100}`), &pulled)
			tokens := []string{}
			for _, m := range pulled.Messages {
				tokens = append(tokens, m.AckToken)
			}
			if text, err := json.Marshal(map[string]any{"ackTokens": tokens}); err == nil && len(tokens) > 0 {
				tr.asking(ctx, http.MethodPost, base+"/subscriptions/"+sub+"/ack", string(text))
			}
		},
		func() {
			for _, path := range []string{"/queues/" + queue, "/messages?queue=" + queue, "/subscriptions/" + sub, "/subscriptions/" + sub + "/ledger"} {
				tr.asking(ctx, http.MethodGet, base+path, "")
			}
		},
	} {
		tr.wg.Go(func() {
			for ctx.Err() == nil {
				work()
			}
		})
	}
	return tr
}

func (tr *traffic) end(t *testing.T) {
	t.Helper()
	tr.stop()
	tr.wg.Wait()
	require.Empty(t, tr.failed)
	require.Greater(t, tr.done, 20)
}

// ownTraffic is an instance with a queue and a group, without limits.
func ownTraffic(t *testing.T) (cfg config.Config, i *instance, sub string) {
	t.Helper()
	cfg = testConfig(t)
	cfg.TenantRequests, cfg.TenantBytes, cfg.QueueLengthMax = 0, 0, 0
	i = start(t, cfg, "")
	i.queue("orders", `,"partitionCount":2`)
	return cfg, i, i.subscription("orders", "g", "")
}

func requireVerified(t *testing.T, cfg config.Config) {
	t.Helper()
	conn, err := postgres.Connect(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	report, err := projections.Verify(t.Context(), conn, projections.VerifyOptions{Shards: cfg.Shards, Batch: 777})
	require.NoError(t, err)
	require.True(t, report.OK(), "%+v", report)
}

// The read tables are rebuilt again and again by request while a service works: nobody
// notices, and nothing is lost.
func TestARebuildByRequestUnderTraffic(t *testing.T) {
	t.Parallel()
	cfg, i, sub := ownTraffic(t)
	tr := i.traffic("orders", sub)
	seen := map[string]bool{}
	for n := range 3 {
		if n == 2 {
			execute(t, cfg, `UPDATE message_topics SET description = 'nobody said so' WHERE name = 'orders'`)
		}
		var asked struct{ ID string }
		i.post("/admin/projections/rebuild", `{"projection":"read"}`).decode(http.StatusAccepted, &asked)
		require.False(t, seen[asked.ID])
		seen[asked.ID] = true
		eventually(t, "it is rebuilt", func() bool {
			p := i.projection()
			require.Equal(t, asked.ID, p.Rebuild.ID)
			return p.Rebuild.Status == projections.RebuildDone
		})
		for _, table := range i.projection().Rebuild.Tables {
			require.Equal(t, n == 2 && table.Table == "message_topics", table.Differed, table.Table)
			require.Len(t, table.SHA256, 64)
		}
	}
	tr.end(t)
	queue := i.get("/queues/orders").is(http.StatusOK)
	require.Nil(t, queue["description"])
	require.NoError(t, i.stop())
	requireVerified(t, cfg)
}

// What is asked of an instance that folds nothing waits for one that does; a rebuild that
// an instance has left is taken up by the next.
func TestARebuildOutlivesItsInstance(t *testing.T) {
	t.Parallel()
	cfg, i, sub := ownTraffic(t)
	tr := i.traffic("orders", sub)
	eventually(t, "there is traffic", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.done > 30
	})
	tr.end(t)
	// given a rebuild that its process has left in the middle
	ctx, cancel := context.WithCancel(t.Context())
	_, err := projections.Rebuild(ctx, projections.RebuildOptions{
		Shards:  cfg.Shards,
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, cfg.DatabaseURL) },
		Progress: func(p projections.RebuildProgress) {
			if p.Phase == projections.PhaseCompare {
				cancel()
			}
		},
	})
	cancel()
	require.Error(t, err)
	// then the instance takes it up
	eventually(t, "it is rebuilt", func() bool {
		p := i.projection()
		return p.Rebuild != nil && p.Rebuild.Status == projections.RebuildDone
	})
	require.NoError(t, i.stop())
	readers := startWith(t, cfg, slog.New(slog.DiscardHandler), options{roles: roles{roleCommand, roleQuery}})
	var asked struct{ ID, Status string }
	readers.post("/admin/projections/rebuild", `{}`).decode(http.StatusAccepted, &asked)
	require.Equal(t, projections.RebuildWaiting, asked.Status)
	start(t, cfg, "")
	eventually(t, "it is rebuilt", func() bool {
		p := readers.projection()
		require.Equal(t, asked.ID, p.Rebuild.ID)
		return p.Rebuild.Status == projections.RebuildDone
	})
}

// logged is a log that can be looked into.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// Deploying another fold rebuilds the read tables, beside an instance of the version
// before that goes on serving.
func TestANewFoldIsDeployed(t *testing.T) {
	t.Parallel()
	cfg, old, sub := ownTraffic(t)
	tr := old.traffic("orders", sub)
	var log logged
	fresh := startWith(t, cfg, slog.New(slog.NewTextHandler(&log, nil)), options{projectionVersion: projections.Version + 1})
	eventually(t, "it is rebuilt", func() bool { return log.has("the read tables are rebuilt") })
	require.True(t, log.has("this program folds differently from what the read tables were folded with; rebuilding them"))
	p := fresh.projection()
	require.Equal(t, []any{projections.Version + 1, projections.Version + 1}, []any{p.Version, p.CodeVersion})
	require.Equal(t, projections.ReasonVersion, p.Rebuild.Reason)
	// the old one's projectors are out, the new one's fold for both
	eventually(t, "publishing goes on", func() bool {
		return old.post("/publish", `{"queue":"orders","payload":1}`).status == http.StatusCreated
	})
	tr.end(t)
	require.NoError(t, old.stop())
	fresh.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)
	require.NoError(t, fresh.stop())
	requireVerified(t, cfg)
}

// A replay that is killed goes on where it was, and its result is the same, byte for byte.
func TestAReplayIsKilledAndGoesOn(t *testing.T) {
	t.Parallel()
	cfg, i, sub := ownTraffic(t)
	tr := i.traffic("orders", sub)
	batch := `{"messages":[` + strings.Repeat(`{"queue":"orders","payload":1},`, 99) + `{"queue":"orders","payload":1}]}`
	for range 300 {
		i.post("/publish/batch", batch, "Prefer", "respond-async")
	}
	tr.end(t)
	i.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)
	require.NoError(t, i.stop())
	want := tableHashes(t, cfg)
	execute(t, cfg, `UPDATE message_records SET retry_count = 5`)
	path := buildProgram(t)
	replay := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), path, "replay", "--projection", "read")
		cmd.Env = append(cmd.Environ(), "DATABASE_URL="+cfg.DatabaseURL)
		return cmd
	}
	pool, err := postgres.Open(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	first := replay()
	require.NoError(t, first.Start())
	var left projections.RebuildState
	require.Eventually(t, func() bool {
		left, err = projections.OpenRebuild(t.Context(), pool)
		return err == nil && left.Events > 0
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, first.Process.Kill())
	require.Error(t, first.Wait())
	left, err = projections.OpenRebuild(t.Context(), pool)
	require.NoError(t, err, "it was over before it was killed")
	var out []byte
	eventually(t, "the server has noticed", func() bool {
		second := replay()
		var text bytes.Buffer
		second.Stdout, second.Stderr = &text, io.Discard
		err := second.Run()
		out = text.Bytes()
		return err == nil
	})
	require.Contains(t, string(out), "events folded with version 1 of the projection; the read tables are swapped, 1 differed.")
	require.Regexp(t, `message_records +sha256 `+want["message_records"]+` +DIFFERED`, string(out))
	require.Regexp(t, `consumption_records +sha256 `+want["consumption_records"]+` +as it was`, string(out))
	standing, err := projections.StandingOf(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, left.ID, standing.Rebuild.ID)
	require.Equal(t, *standing.Rebuild.Total, standing.Rebuild.Events, "what was folded before was not folded again")
	require.Equal(t, want, tableHashes(t, cfg))
	requireVerified(t, cfg)
}

// Where another process rebuilds, replay shows how far it is and what came of it.
func TestAReplayFollowsAnother(t *testing.T) {
	cfg := testConfig(t)
	t.Setenv("DATABASE_URL", cfg.DatabaseURL)
	i := start(t, cfg, "")
	i.queue("q", "")
	i.post("/publish", `{"queue":"q","payload":1}`).is(http.StatusCreated)
	require.NoError(t, i.stop())
	replay := func(args ...string) (string, error) {
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(append([]string{"replay"}, args...))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	_, err := replay("--projection", "other")
	require.EqualError(t, err, `--projection: is "other"; there is: read`)
	began, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var once sync.Once
		_, err := projections.Rebuild(t.Context(), projections.RebuildOptions{
			Shards:  cfg.Shards,
			Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, cfg.DatabaseURL) },
			Progress: func(projections.RebuildProgress) {
				once.Do(func() {
					close(began)
					<-goOn
				})
			},
		})
		ended <- err
	}()
	<-began
	_, err = replay("--restart")
	require.ErrorIs(t, err, projections.ErrRebuildUnderWay)
	shown := make(chan string, 1)
	go func() {
		out, err := replay()
		if err != nil {
			out = err.Error()
		}
		shown <- out
	}()
	close(goOn)
	require.NoError(t, <-ended)
	require.Regexp(t, `message_records +sha256 [0-9a-f]{64}  as it was\n`, <-shown)
	out, err := replay("--restart")
	require.NoError(t, err)
	require.Contains(t, out, "the read tables are swapped, 0 differed.")
}
