package redis

import (
	_ "embed"
	"fmt"

	goredis "github.com/redis/go-redis/v9"
)

//go:embed scripts/fence.lua
var fenceSource string

//go:embed scripts/common.lua
var commonSource string

//go:embed scripts/append.lua
var appendSource string

//go:embed scripts/lease.lua
var leaseSource string

//go:embed scripts/resume.lua
var resumeSource string

//go:embed scripts/extend.lua
var extendSource string

//go:embed scripts/due.lua
var dueSource string

//go:embed scripts/tick.lua
var tickSource string

//go:embed scripts/trim.lua
var trimSource string

//go:embed scripts/state.lua
var stateSource string

//go:embed scripts/where.lua
var whereSource string

//go:embed scripts/held.lua
var heldSource string

//go:embed scripts/lag.lua
var lagSource string

var (
	appendScript = goredis.NewScript(fenceSource + commonSource + appendSource)
	leaseScript  = goredis.NewScript(fenceSource + commonSource + leaseSource)
	resumeScript = goredis.NewScript(fenceSource + commonSource + resumeSource)
	extendScript = goredis.NewScript(fenceSource + extendSource)
	dueScript    = goredis.NewScript(fenceSource + commonSource + dueSource)
	tickScript   = goredis.NewScript(fenceSource + tickSource)
	trimScript   = goredis.NewScript(fenceSource + trimSource)
	stateScript  = goredis.NewScript(fenceSource + commonSource + stateSource)
	whereScript  = goredis.NewScript(fenceSource + commonSource + whereSource)
	heldScript   = goredis.NewScript(fenceSource + commonSource + heldSource)
	lagScript    = goredis.NewScript(fenceSource + lagSource)
)

// reply reads a script's nested arrays, remembering the first thing that was not
// what the script promises.
type reply struct{ err error }

func (r *reply) list(v any) []any {
	list, ok := v.([]any)
	if !ok {
		r.fail(v, "an array")
	}
	return list
}

func (r *reply) at(list []any, i int) any {
	if i >= len(list) {
		r.fail(list, fmt.Sprintf("an array of more than %d", i))
		return nil
	}
	return list[i]
}

func (r *reply) int(v any) int64 {
	n, ok := v.(int64)
	if !ok {
		r.fail(v, "an integer")
	}
	return n
}

func (r *reply) str(v any) string {
	s, ok := v.(string)
	if !ok {
		r.fail(v, "a string")
	}
	return s
}

func (r *reply) fail(v any, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("script answered %T, want %s", v, want)
	}
}
