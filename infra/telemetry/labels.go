package telemetry

import (
	"regexp"
	"strings"
)

// Limits of label values. Values past them are reported as [Other], first come
// first served, until [Metrics.Forget] makes room: a scrape grows with what is in use, not with what callers invent.
const (
	// TopicsMax is how many (tenant, topic) pairs have time series of their own.
	TopicsMax = 500
	// GroupsMax is how many (tenant, topic, group) triples have.
	GroupsMax = 2000
	// ReasonsMax is how many reasons of failed deliveries have.
	ReasonsMax = 16
	// CodesMax is how many refusal codes have.
	CodesMax = 100
)

// Other is the label value that stands for all that found no room.
const Other = "other"

// pair and triple name a topic and one of its consumer groups, as callers say them
// and as labels do.
type (
	pair   struct{ tenant, topic string }
	triple struct{ tenant, topic, group string }
)

var (
	otherPair = pair{Other, Other}
	// word is what a reason or a code looks like. What does not may be a caller's
	// own text, which is no label.
	word = regexp.MustCompile(`^[A-Za-z0-9_]{1,50}$`)
)

// bounds says under which label values something is reported.
type bounds struct {
	pairs   *table[pair, struct{}]
	triples *table[triple, struct{}]
	reasons *table[string, struct{}]
	codes   *table[string, struct{}]
}

func newBounds(topics, groups int) *bounds {
	return &bounds{
		pairs:   newTable[pair, struct{}](topics),
		triples: newTable[triple, struct{}](groups),
		reasons: newTable[string, struct{}](ReasonsMax),
		codes:   newTable[string, struct{}](CodesMax),
	}
}

func (b *bounds) pair(p pair) pair {
	if !admit(b.pairs, p) {
		return otherPair
	}
	return pair{valid(p.tenant), valid(p.topic)}
}

func (b *bounds) triple(t triple) triple {
	p := b.pair(pair{t.tenant, t.topic})
	if p == otherPair || !admit(b.triples, t) {
		return triple{p.tenant, p.topic, Other}
	}
	return triple{p.tenant, p.topic, valid(t.group)}
}

// forget makes room: the topic is no more.
func (b *bounds) forget(p pair) {
	b.pairs.retain(func(k pair, _ struct{}) bool { return k != p })
	b.triples.retain(func(k triple, _ struct{}) bool { return pair{k.tenant, k.topic} != p })
}

func (b *bounds) reason(s string) string { return short(b.reasons, s) }

func (b *bounds) code(s string) string { return short(b.codes, s) }

func short(t *table[string, struct{}], s string) string {
	if _, ok := t.get(s); ok || (word.MatchString(s) && admit(t, s)) {
		return s
	}
	return Other
}

// admit reports whether k has, or gets, a place in t.
func admit[K comparable](t *table[K, struct{}], k K) bool {
	if _, ok := t.get(k); ok {
		return true
	}
	if t.full() {
		return false
	}
	_, ok := t.add(k, func() struct{} { return struct{}{} })
	return ok
}

// valid is s as a label can hold it, which is UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
