package devstack

import (
	"os"
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
	require.Equal(t, append([]string{"redis-server"}, redisSettings...), file.Services["redis"].Command)
}
