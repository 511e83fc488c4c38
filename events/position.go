package events

import (
	"fmt"
	"time"
)

// Position is an event's place in its shard's log: the log entry's millisecond
// and sequence number packed as ms<<20 | seq, so positions sort as entries do.
type Position int64

// positionSeqBits leaves 2^20 events to a millisecond and 43 bits of them, which
// last until the year 2248.
const positionSeqBits = 20

// IsPosition reports whether a log entry's id can be packed. The log makes no
// others.
func IsPosition(ms, seq int64) bool {
	return ms >= 0 && seq >= 0 && seq < 1<<positionSeqBits && ms < 1<<(63-positionSeqBits)
}

// MakePosition packs a log entry's id. It panics where the id cannot be packed, see
// [IsPosition].
func MakePosition(ms, seq int64) Position {
	if !IsPosition(ms, seq) {
		panic(fmt.Sprintf("log entry %d-%d does not fit a position", ms, seq))
	}
	return Position(ms<<positionSeqBits | seq)
}

// Ms is the position's time in ms since 1970, by the log's clock.
func (p Position) Ms() int64 { return int64(p) >> positionSeqBits }

// Seq is the position's sequence number within its millisecond.
func (p Position) Seq() int64 { return int64(p) & (1<<positionSeqBits - 1) }

// Time is when the event was appended, by the log's clock, in UTC. It is the one
// time an event has: folds take it from here.
func (p Position) Time() time.Time { return time.UnixMilli(p.Ms()).UTC() }
