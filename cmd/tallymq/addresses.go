package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tallymq/tallymq/infra/config"
)

// addressesFile, beside the data of `dev`, has where its private servers are, as
// assignments for a shell, for as long as they run: the ports differ every time.
const addressesFile = "env"

// shareAddresses writes the file: the URLs of what the environment did not name, as
// others have them already, and what else it takes to read the stores.
func shareAddresses(dir string, named, running config.Config) (remove func(), err error) {
	var lines strings.Builder
	set := func(name, value string) {
		fmt.Fprintf(&lines, "%s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	if named.DatabaseURL == "" {
		set("DATABASE_URL", running.DatabaseURL)
	}
	if named.RedisURL == "" {
		set("REDIS_URL", running.RedisURL)
	}
	set("REDIS_KEY_PREFIX", running.RedisKeyPrefix)
	set("SHARDS", strconv.Itoa(running.Shards))
	path := filepath.Join(dir, addressesFile)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the servers' user must reach what is inside
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	return func() { _ = os.Remove(path) }, nil
}
