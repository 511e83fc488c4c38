package redis

import (
	"context"
	"sync"
	"time"
)

// hub wakes long polls. Per consumer group one poll at a time asks Redis; a poll
// that came back full passes the turn on, so a message wakes one poll and not all.
type hub struct {
	mu     sync.Mutex
	topics map[string]map[string]*pollers
}

// pollers are the long polls of one group on this instance.
type pollers struct {
	// wakes counts wake-ups, so that one which arrives between an empty answer
	// and the wait is not lost.
	wakes uint64
	// changes counts changes of the queue and of the group's subscriptions.
	changes uint64
	waiting []chan struct{}
	users   int
}

func (h *hub) init() { h.topics = map[string]map[string]*pollers{} }

// enter registers a poll; every enter is followed by one leave.
func (h *hub) enter(topicID, group string) *pollers {
	h.mu.Lock()
	defer h.mu.Unlock()
	groups := h.topics[topicID]
	if groups == nil {
		groups = map[string]*pollers{}
		h.topics[topicID] = groups
	}
	p := groups[group]
	if p == nil {
		p = &pollers{}
		groups[group] = p
	}
	p.users++
	return p
}

func (h *hub) leave(topicID, group string, p *pollers) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.users--; p.users > 0 {
		return
	}
	delete(h.topics[topicID], group)
	if len(h.topics[topicID]) == 0 {
		delete(h.topics, topicID)
	}
}

func (h *hub) seen(p *pollers) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return p.wakes
}

func (h *hub) changes(p *pollers) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return p.changes
}

// wait returns when the group was woken after seen, when recheck has passed, or
// when ctx ends.
func (h *hub) wait(ctx context.Context, p *pollers, seen uint64, recheck time.Duration) {
	h.mu.Lock()
	if p.wakes != seen {
		h.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	h.mu.Unlock()

	timer := time.NewTimer(recheck)
	defer timer.Stop()
	select {
	case <-turn:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, w := range p.waiting {
		if w == turn {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			return
		}
	}
	// The turn came while we left: it is somebody else's.
	p.wake()
}

// wake gives the turn to the poll that has waited longest.
func (p *pollers) wake() {
	p.wakes++
	if len(p.waiting) > 0 {
		close(p.waiting[0])
		p.waiting = p.waiting[1:]
	}
}

// pass gives the turn on after an answer that left messages behind.
func (h *hub) pass(p *pollers) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.wake()
}

// wakeTopic wakes one poll of every group of the topic.
func (h *hub) wakeTopic(topicID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.topics[topicID] {
		p.wake()
	}
}

func (h *hub) wakeGroup(topicID, group string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.topics[topicID][group]; p != nil {
		p.wake()
	}
}

// wakeAll wakes every poll, after a connection was lost and wake-ups with it.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, groups := range h.topics {
		for _, p := range groups {
			p.wakeAll()
		}
	}
}

// wakeTopicAll wakes every poll of a topic that changed or went.
func (h *hub) wakeTopicAll(topicID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.topics[topicID] {
		p.changes++
		p.wakeAll()
	}
}

// wakeGroupAll wakes every poll of a group one of whose subscriptions changed or went.
func (h *hub) wakeGroupAll(topicID, group string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.topics[topicID][group]; p != nil {
		p.changes++
		p.wakeAll()
	}
}

func (p *pollers) wakeAll() {
	p.wakes++
	for _, w := range p.waiting {
		close(w)
	}
	p.waiting = nil
}
