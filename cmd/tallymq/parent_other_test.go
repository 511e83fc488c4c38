//go:build !linux

package main

import "syscall"

// dieWithParent is for Linux only; elsewhere a test that is killed leaves its
// children behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
