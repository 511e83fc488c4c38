// Command tallymq is the TallyMQ service and its tools: serve and dev run it,
// publish and consume use it, verify, replay, migrate and bench look after it. It is the
// one place that sees every package and ties them together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev" //nolint:gochecknoglobals // set by the linker

// exitError ends the program with a status and no further words.
type exitError struct{ status int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

func main() {
	// The first signal asks for an orderly end, a second one ends at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := root().ExecuteContext(ctx)
	stop()
	if exit, ok := errors.AsType[exitError](err); ok {
		os.Exit(exit.status)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tallymq:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "tallymq",
		Short:         "An event-sourced message queue that can account for every message",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(serveCommand(), devCommand(), migrateCommand(), verifyCommand(), repairCommand(), replayCommand(), proveCommand(), destroyKeysCommand(), healthCommand(),
		publishCommand(), consumeCommand(), tailCommand(), benchCommand(), receiveCommand(), backupCommand(), restoreCommand())
	return cmd
}
