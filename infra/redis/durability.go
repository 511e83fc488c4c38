package redis

import (
	"context"
	"fmt"

	goredis "github.com/redis/go-redis/v9"
)

// Durability returns in words what settings of the server let it lose what it has
// answered; none where it does not show them.
func Durability(ctx context.Context, client goredis.UniversalClient) []string {
	var problems []string
	for _, want := range []struct{ name, value string }{
		{"appendonly", "yes"}, {"appendfsync", "always"}, {"maxmemory-policy", "noeviction"},
	} {
		got, err := client.ConfigGet(ctx, want.name).Result()
		if value := got[want.name]; err == nil && value != "" && value != want.value {
			problems = append(problems, fmt.Sprintf("Redis has %s %s; it should have %s", want.name, value, want.value))
		}
	}
	return problems
}
