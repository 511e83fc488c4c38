package devstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresOptions says where a Postgres runs.
type PostgresOptions struct {
	// Dir holds its data; it is made if need be. Postgres does not run as root:
	// root's servers run as user postgres (else nobody), and where that user
	// cannot reach Dir the data are in a directory of /var/lib/tallymq that
	// belongs to Dir.
	Dir string
	// Port is on loopback; 0 takes a free one.
	Port int
	// Log takes the server's output; nil is a file in Dir.
	Log io.Writer
}

// Postgres is a private Postgres with one user and one database, both tallymq.
type Postgres struct {
	process

	port int
	lock *os.File
}

// Name of the database and its owner.
const postgresName = "tallymq"

// postgresSettings keep a small server quick to start; what they leave alone is
// durability.
var postgresSettings = []string{
	"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=100", "shared_buffers=128MB",
	"wal_compression=on", "max_wal_size=2GB", "log_min_messages=warning", "log_line_prefix=%m [%p] ", "timezone=UTC",
}

// StartPostgres starts a Postgres, after creating its data on first use, and
// returns once it answers. Stop it in the end.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	p, err := startPostgres(ctx, o, bin)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	p.lock = lock
	return p, nil
}

func startPostgres(ctx context.Context, o PostgresOptions, bin string) (*Postgres, error) {
	log, err := logTo(o.Log, o.Dir, "postgres.log")
	if err != nil {
		return nil, err
	}
	as, err := runAs()
	if err != nil {
		return nil, err
	}
	data, err := dataDir(o.Dir, as)
	if err != nil {
		return nil, err
	}
	if err := initdb(ctx, bin, data, as, log); err != nil {
		return nil, err
	}
	p := &Postgres{}
	p.ready = p.ping
	p.command = func() *exec.Cmd {
		args := []string{"-D", data, "-p", strconv.Itoa(p.port)}
		for _, s := range postgresSettings {
			args = append(args, "-c", s)
		}
		cmd := exec.Command(filepath.Join(bin, "postgres"), args...) //nolint:gosec,noctx // found by postgresBin; ends by Stop
		cmd.Dir = data
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = attributes(syscall.SIGINT)
		cmd.SysProcAttr.Credential = as
		return cmd
	}
	err = onPort(o.Port, func(port int) error {
		p.port = port
		return p.start(ctx)
	})
	return p, err
}

// URL is a DATABASE_URL.
func (p *Postgres) URL() string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", postgresName, p.port, postgresName)
}

// Kill ends the server and its backends as a crash would.
func (p *Postgres) Kill() {
	backends := children(p.pid())
	p.kill()
	for _, pid := range backends {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Restart starts the server again, on the same port and data, after Kill. It
// tries for a while: the last backend may still hold on to shared memory.
func (p *Postgres) Restart(ctx context.Context) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := p.start(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * readyRetry)
	}
}

// Stop shuts the server down; sessions are ended.
func (p *Postgres) Stop(ctx context.Context) error {
	defer func() { _ = p.lock.Close() }()
	return p.stop(ctx, syscall.SIGINT)
}

func (p *Postgres) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var one int
	if err := conn.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

// postgresBin finds the directory of the server's programs: on the PATH, or where
// packages put them, newest version first.
func postgresBin() (string, error) {
	var dirs []string
	if program, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(program))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("find postgres: %w", err)
		}
		slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		if isProgram(filepath.Join(dir, "initdb")) && isProgram(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", missing("PostgreSQL (initdb, postgres)", "postgresql", "postgresql@15")
}

// version is the first number in a path.
func version(path string) int {
	digits := strings.FieldsFunc(path, func(r rune) bool { return r < '0' || r > '9' })
	if len(digits) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(digits[0])
	return n
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

// runAs is whom the server runs as: nil is us.
func runAs() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // nil is a valid credential
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("postgres refuses to run as root, and there is no user postgres or nobody to run it as")
}

// dataDir makes and returns the directory of the data.
func dataDir(dir string, as *syscall.Credential) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if as != nil && !reachable(dir) {
		sum := sha256.Sum256([]byte(dir))
		dir = filepath.Join("/var/lib/tallymq", hex.EncodeToString(sum[:8]))
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server's user must reach what is inside
		return "", fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if as != nil {
		if err := os.Chown(data, int(as.Uid), int(as.Gid)); err != nil {
			return "", fmt.Errorf("data directory: %w", err)
		}
	}
	return data, nil
}

// reachable reports whether any user can pass through dir and all above it.
func reachable(dir string) bool {
	for {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// initdb creates the data unless they are there.
func initdb(ctx context.Context, bin, data string, as *syscall.Credential, log io.Writer) error {
	if _, err := os.Stat(filepath.Join(data, "tallymq.ready")); err == nil {
		return nil
	}
	// What an interrupted creation left behind would be taken for data.
	left, err := filepath.Glob(filepath.Join(data, "*"))
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("initdb: %w", err)
		}
	}
	run := func(stdin, program string, args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...) //nolint:gosec // found by postgresBin
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = data, strings.NewReader(stdin), log, log
		cmd.SysProcAttr = attributes(syscall.SIGKILL)
		cmd.SysProcAttr.Credential = as
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s in %s: %w", program, data, err)
		}
		return nil
	}
	if err := run("", "initdb", "-D", data, "-U", postgresName, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"); err != nil {
		return err
	}
	if err := run("CREATE DATABASE "+postgresName+"\n", "postgres", "--single", "-D", data, "template1"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(data, "tallymq.ready"), nil, 0o600); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	return nil
}
