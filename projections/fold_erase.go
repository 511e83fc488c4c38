package projections

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tallymq/tallymq/events"
)

// retention is what a topic does not keep any longer.
type retention struct {
	tenantID, topicID string
	// before is when it was published at the latest, from and upTo bound its ids.
	before     time.Time
	from, upTo string
}

// erase forgets a message's payload, and counts what its consumer groups lost.
func (c *changes) erase(r events.Record, e events.MessageErased) {
	m := c.message(e.MessageID)
	c.discard(e.TopicID, e.Discarded)
	if len(e.Discarded.Groups) > 0 || e.Discarded.Scheduled > 0 {
		m.rise(statusPurged, 0)
	}
	if m.erasedAt.IsZero() {
		m.erasedAt, m.payloadBytes = r.Position.Time(), e.PayloadBytes
	}
}

// retain forgets what a topic does not keep any longer. Nothing of the batch comes before
// it any more: what follows goes on with changes of its own.
func (c *changes) retain(r events.Record, e events.TopicRetained) {
	c.retained = &retention{tenantID: r.TenantID, topicID: e.TopicID, before: time.UnixMilli(e.BeforeMs).UTC(), from: e.From, upTo: e.UpTo}
	next := newChanges()
	c.next = &next
}

// entryPosition is the position of an entry of the log.
func entryPosition(entry string) (events.Position, error) {
	left, right, _ := strings.Cut(entry, "-")
	ms, err := strconv.ParseInt(left, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("entry %q: %w", entry, err)
	}
	seq, err := strconv.ParseInt(right, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("entry %q: %w", entry, err)
	}
	if !events.IsPosition(ms, seq) {
		return 0, fmt.Errorf("entry %q is no position", entry)
	}
	return events.MakePosition(ms, seq), nil
}
