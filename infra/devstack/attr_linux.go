package devstack

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// attributes puts a server into a process group of its own, so that a terminal's
// Ctrl-C reaches us alone and we stop servers in order, and ends it when we die.
func attributes(onParentDeath syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: onParentDeath}
}

// children lists a process' direct children.
func children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var list []int
	for field := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(field); err == nil {
			list = append(list, n)
		}
	}
	return list
}
