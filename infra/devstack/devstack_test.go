package devstack

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("DEVSTACK_TEST_CHILD"); dir != "" {
		runChild(dir)
		return
	}
	os.Exit(Main(m))
}

// runChild starts a Redis, prints its address and waits to be killed.
func runChild(dir string) {
	r, err := StartRedis(context.Background(), RedisOptions{Dir: dir})
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(os.Stdout, r.Addr()+"\n")
	select {}
}

func redisDo(t *testing.T, addr, command string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, command+"\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	require.NoError(t, err)
	if strings.HasPrefix(line, "$") {
		line, err = reader.ReadString('\n')
		require.NoError(t, err)
	}
	return strings.TrimSpace(line)
}

// A crash can cut a transaction in the middle. Redis by itself would leave it open, and
// lose at the next start but one what was acknowledged behind it.
func TestRedisMendsATransactionThatACrashCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := StartRedis(t.Context(), RedisOptions{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(r.Kill)
	restart := func() {
		r.Kill()
		require.NoError(t, r.Restart(t.Context()))
	}
	script := func(name string) {
		require.Equal(t, "+OK", redisDo(t, r.Addr(), `EVAL "redis.call('SET','`+name+`-1','x') return redis.call('SET','`+name+`-2','x')" 0`))
	}
	script("first")
	script("cut")
	// given the last transaction is not whole
	r.Kill()
	files, err := filepath.Glob(filepath.Join(dir, "appendonlydir", "*.incr.aof"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	info, err := os.Stat(files[0])
	require.NoError(t, err)
	require.NoError(t, os.Truncate(files[0], info.Size()-3))
	require.NoError(t, r.Restart(t.Context()))
	// when more is written and it starts again, twice
	script("acknowledged")
	restart()
	script("later")
	restart()
	// then all is there but the half
	for name, there := range map[string]string{"first": ":2", "cut": ":0", "acknowledged": ":2", "later": ":2"} {
		require.Equal(t, there, redisDo(t, r.Addr(), "EXISTS "+name+"-1 "+name+"-2"), name)
	}
}

func TestRedisKeepsDataAcrossKillAndRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := StartRedis(t.Context(), RedisOptions{Dir: dir})
	require.NoError(t, err)
	require.Equal(t, "+OK", redisDo(t, r.Addr(), "SET a 1"))
	r.Kill()
	require.NoError(t, r.Restart(t.Context()))
	require.Equal(t, "1", redisDo(t, r.Addr(), "GET a"))
	// and nobody else may run on the same data meanwhile
	_, err = StartRedis(t.Context(), RedisOptions{Dir: dir})
	require.ErrorContains(t, err, "in use by process")
	require.NoError(t, r.Stop(t.Context()))
	// and the data outlive the server
	r, err = StartRedis(t.Context(), RedisOptions{Dir: dir})
	require.NoError(t, err)
	require.Equal(t, "1", redisDo(t, r.Addr(), "GET a"))
	require.NoError(t, r.Stop(t.Context()))
}

func TestPostgresKeepsDataAcrossKillAndRestart(t *testing.T) {
	t.Parallel()
	dir := TestDir(t)
	p, err := StartPostgres(t.Context(), PostgresOptions{Dir: dir})
	require.NoError(t, err)
	do := func(sql string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), p.URL())
		require.NoError(t, err)
		defer func() { _ = conn.Close(context.Background()) }()
		_, err = conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	do("CREATE TABLE a (n int)")
	p.Kill()
	require.NoError(t, p.Restart(t.Context()))
	do("INSERT INTO a VALUES (1)")
	require.NoError(t, p.Stop(t.Context()))
	p, err = StartPostgres(t.Context(), PostgresOptions{Dir: dir})
	require.NoError(t, err)
	do("DROP TABLE a")
	require.NoError(t, p.Stop(t.Context()))
}

func TestServersDieWithTheirParent(t *testing.T) {
	t.Parallel()
	child := exec.Command(os.Args[0]) //nolint:gosec // ourselves
	child.Env = append(os.Environ(), "DEVSTACK_TEST_CHILD="+t.TempDir())
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	addr, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	addr = strings.TrimSpace(addr)
	require.Equal(t, "+PONG", redisDo(t, addr, "PING"))
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, 10*time.Second, 20*time.Millisecond)
}

func TestMissingProgramsAreNamedWithTheCommandThatInstallsThem(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := StartRedis(t.Context(), RedisOptions{Dir: t.TempDir()})
	var m *MissingError
	require.ErrorAs(t, err, &m)
	require.Equal(t, "redis-server", m.Program)
	require.Contains(t, m.Error(), "install")
}

func TestDataOfRootStandWhereTheServersUserCanReachThem(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(t.TempDir(), "closed")
	require.NoError(t, os.Mkdir(closed, 0o700))
	require.True(t, reachable(TestDir(t)))
	require.False(t, reachable(filepath.Join(closed, "below")))
	data, err := dataDir(closed, nil)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(closed, "data"), data, "without root the data stay where they were asked for")
}

func TestEveryTestHasItsOwnCorner(t *testing.T) {
	t.Parallel()
	_, a := TestRedis(t)
	_, b := TestRedis(t)
	require.NotEqual(t, a, b)
	for range 2 {
		conn, err := pgx.Connect(t.Context(), TestPostgres(t))
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "CREATE TABLE mine (n int)")
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	}
}
