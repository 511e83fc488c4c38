//go:build !linux

package devstack

import "syscall"

// attributes puts a server into a process group of its own. Without a
// parent-death signal, a server can outlive us when we are killed; the next start
// finds its data in use and says so.
func attributes(syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// children is unknown here: orphans notice by themselves that their parent died.
func children(int) []int { return nil }
