package redis

import goredis "github.com/redis/go-redis/v9"

// Commands that the client must not repeat by itself, whatever its settings: their
// answers say what only they can say. A repeated XADD adds a message twice; a
// repeated read leaves the first one's entries pending with nobody to know.
type (
	onceAdd  struct{ *goredis.StringCmd }
	onceRead struct{ *goredis.XStreamSliceCmd }
	onceDo   struct{ *goredis.Cmd }
)

// NoRetry implements goredis.Cmder.
func (onceAdd) NoRetry() bool { return true }

// NoRetry implements goredis.Cmder.
func (onceRead) NoRetry() bool { return true }

// NoRetry implements goredis.Cmder.
func (onceDo) NoRetry() bool { return true }
