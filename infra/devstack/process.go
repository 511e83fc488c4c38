package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Limits of starting and stopping a server.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
	readyRetry   = 20 * time.Millisecond
	// portTries is how often a start is tried again when another process took the
	// port between our looking and the server's binding it.
	portTries = 5
)

// MissingError reports a program that is not installed.
type MissingError struct {
	Program string
	// Hint is what to do about it.
	Hint string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed; %s", e.Program, e.Hint)
}

func missing(program, aptPackage, formula string) error {
	hint := "install it with this system's package manager"
	switch {
	case runtime.GOOS == "darwin":
		hint = "run: brew install " + formula
	case onPath("apt-get"):
		hint = "run: sudo apt-get install " + aptPackage
	}
	return &MissingError{Program: program, Hint: hint}
}

func onPath(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// process is a server that runs as our child.
type process struct {
	command func() *exec.Cmd
	ready   func(ctx context.Context) error

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// start starts the server and returns once it is ready.
func (p *process) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cmd := p.command()
	exited := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The parent-death signal is tied to the thread that forks, so this
		// thread stays with the child for as long as it lives.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p.mu.Lock()
	p.cmd, p.exited = cmd, exited
	p.mu.Unlock()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s ended while starting (%s); its log says why", filepath.Base(cmd.Path), cmd.ProcessState)
		case <-ctx.Done():
			p.signal(syscall.SIGKILL)
			<-exited
			return fmt.Errorf("%s is not ready: %w (last: %w)", filepath.Base(cmd.Path), ctx.Err(), err)
		case <-time.After(readyRetry):
		}
	}
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p *process) gone() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// signal sends a signal unless the process has ended already.
func (p *process) signal(sig syscall.Signal) {
	select {
	case <-p.gone():
	default:
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = p.cmd.Process.Signal(sig)
	}
}

// kill ends the process at once, as a crash would, and waits for its end.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.gone()
}

// stop asks the process to end and kills it when it does not.
func (p *process) stop(ctx context.Context, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	p.signal(sig)
	select {
	case <-p.gone():
		return nil
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("pid %d did not stop in time and was killed", p.pid())
	}
}

// freePort returns a loopback port that nobody listens on right now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a port, at once
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("find a free port: not TCP")
	}
	return addr.Port, nil
}

// onPort runs start on the port asked for, or on free ones until one works.
func onPort(port int, start func(port int) error) error {
	if port != 0 {
		return start(port)
	}
	var err error
	for range portTries {
		if port, err = freePort(); err != nil {
			return err
		}
		if err = start(port); err == nil || errors.Is(err, context.Canceled) {
			return err
		}
	}
	return err
}

// lockDir makes sure that one process at a time runs on dir.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the servers' user must reach what is inside
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by process %s: stop that one first", dir, holder[:n])
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return f, nil
}

// logTo is where a server's output goes: the writer given, else a file in dir.
func logTo(w io.Writer, dir, name string) (io.Writer, error) {
	if w != nil {
		return w, nil
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("server log: %w", err)
	}
	return f, nil
}
