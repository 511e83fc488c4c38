package handover

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// EventsName is the lifecycle events' name in [TargetStatus] and in their checkpoints.
const EventsName = "lifecycle-events"

// errorCharsMax is how much of an error is shown.
const errorCharsMax = 200

// State is how handing something on goes.
type State string

const (
	// StateStandby: another instance does it, or will soon.
	StateStandby State = "standby"
	// StateIdle: everything is handed on.
	StateIdle State = "idle"
	// StateOK: it is under way.
	StateOK State = "ok"
	// StateFailing: something is not taken and tried again and again.
	StateFailing State = "failing"
)

// TargetStatus is the state of one queue's way, or of the events'.
type TargetStatus struct {
	// Name is the queue's, or [EventsName].
	Name  string
	State State
	// Since is when this state began.
	Since time.Time
	// LastError is what last went wrong, also when it is over; LastErrorAt when.
	LastError   string
	LastErrorAt time.Time
	// HandedOn is how many messages or events the service has taken from this instance.
	HandedOn int64
	// InHand is how many are on their way right now.
	InHand int
}

// Status returns the state of everything that is handed on, nothing where no service's
// URL is set.
func (f *Forwarder) Status() []TargetStatus {
	links := f.links()
	out := make([]TargetStatus, len(links))
	for i, l := range links {
		out[i] = l.health.get()
	}
	return out
}

// health keeps a [TargetStatus].
type health struct {
	logger *slog.Logger

	mu    sync.Mutex
	state TargetStatus
	// failing is how many are in trouble.
	failing  int
	isActive bool
}

func (h *health) get() TargetStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

// change runs fn and derives the state from what is there then.
func (h *health) change(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
	state := StateIdle
	switch {
	case !h.isActive:
		state = StateStandby
	case h.failing > 0:
		state = StateFailing
	case h.state.InHand > 0:
		state = StateOK
	}
	if state != h.state.State {
		h.state.State, h.state.Since = state, time.Now()
	}
}

func (h *health) begin() { h.change(func() { h.isActive = true }) }

func (h *health) standBy(problem string) {
	h.change(func() {
		h.isActive = false
		h.note(problem)
	})
}

func (h *health) note(problem string) {
	if problem != "" {
		h.state.LastError, h.state.LastErrorAt = problem, time.Now()
	}
}

func (h *health) inHand(n int) { h.change(func() { h.state.InHand += n }) }

func (h *health) handedOn(n int) { h.change(func() { h.state.HandedOn += int64(n) }) }

// trouble is one thing that does not go through, from its first failure to its end.
type trouble struct {
	h    *health
	what string
	on   bool
}

// say notes another failure; the first is logged.
func (t *trouble) say(err error, attrs ...any) {
	problem, first := brief(err), !t.on
	t.h.change(func() {
		if first {
			t.h.failing++
		}
		t.h.note(problem)
	})
	t.on = true
	if first {
		t.h.logger.Warn("not handed on; trying again", append([]any{"to", t.what, "error", problem}, attrs...)...)
	}
}

// over says that it went through, or is given up.
func (t *trouble) over() {
	if t.on {
		t.on = false
		t.h.change(func() { t.h.failing-- })
	}
}

func (l *link) trouble() *trouble { return &trouble{h: &l.health, what: l.health.get().Name} }

// brief is an error in one short line.
func brief(err error) string {
	if err == nil {
		return ""
	}
	text := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "?")), " ")
	if len(text) > errorCharsMax {
		text = strings.ToValidUTF8(text[:errorCharsMax], "") + "…"
	}
	return text
}
