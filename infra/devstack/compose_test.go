package devstack

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// What is measured and tested here is what compose.yaml runs.
func TestComposeRunsRedisWithTheSameSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../compose.yaml")
	require.NoError(t, err)
	var file struct {
		Services map[string]struct {
			Command []string `yaml:"command"`
		} `yaml:"services"`
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	command := file.Services["redis"].Command
	require.Len(t, command, 3)
	// A shell runs it: $$ is compose's way to write $.
	settings := strings.TrimSuffix(strings.Join(redisSettings, " "), " ") + " ''"
	require.Contains(t, command[2], "redis-server "+settings)
	require.Contains(t, command[2], `redis-check-aof --fix "$$manifest"`)
	require.NoError(t, exec.Command("sh", "-n", "-c", strings.ReplaceAll(command[2], "$$", "$")).Run()) //nolint:gosec // only parsed
}
