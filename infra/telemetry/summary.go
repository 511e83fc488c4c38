package telemetry

import (
	"cmp"
	"maps"
	"slices"
)

// Rates are what happened in the last minute, per second and added up over
// instances. An instance that is younger counts over its uptime, of at least a
// second.
type Rates struct {
	PublishedPerSecond, DeliveredPerSecond, AckedPerSecond, FailedPerSecond, DeadLetteredPerSecond float64
	// Published to DeadLettered are the counts themselves. A dead-lettered message
	// also counts as failed.
	Published, Delivered, Acked, Failed, DeadLettered uint64
	// ErrorRate is the share of deliveries that ended in failure, from 0 to 1; 0
	// where none ended.
	ErrorRate float64
	// Delivery is from publication to being handed to a consumer, Processing from
	// lease to acknowledgement. Quantiles are off by less than 5 %.
	Delivery, Processing Latency
}

// TopicRates are a topic's, its consumer groups' included.
type TopicRates struct {
	Rates

	TenantID, Topic string
}

// GroupRates are a consumer group's. Nothing is published by one.
type GroupRates struct {
	Rates

	TenantID, Topic, Group string
}

// Summary is what instances measured, put together.
type Summary struct {
	// Instances is how many snapshots it is made of.
	Instances int
	// Skipped is how many were left out: of another version, or damaged.
	Skipped int
	Total   Rates
	// Topics and Groups are sorted by name. What found no room of its own is
	// [Other]'s.
	Topics []TopicRates
	Groups []GroupRates
}

// Merge puts snapshots of instances together, one of each. Those that are too old
// must have been left out: a snapshot knows no clock but its own.
func Merge(snapshots [][]byte) Summary { return MergeOf(snapshots, "") }

// MergeOf is Merge of what is a tenant's own; "" is every tenant's.
func MergeOf(snapshots [][]byte, tenantID string) Summary {
	var out Summary
	total, topics, groups := &tally{}, map[pair]*tally{}, map[triple]*tally{}
	for _, data := range snapshots {
		s, err := parseSnapshot(data)
		if err != nil {
			out.Skipped++
			continue
		}
		out.Instances++
		seconds := float64(s.ElapsedMs) / 1000
		for _, one := range s.Series {
			if tenantID != "" && one.Tenant != tenantID {
				continue
			}
			delivery, processing := one.Delivery.unpacked(), one.Processing.unpacked()
			into := []*tally{total, at(topics, pair{one.Tenant, one.Topic})}
			if one.Group != "" {
				into = append(into, at(groups, triple{one.Tenant, one.Topic, one.Group}))
			}
			for _, t := range into {
				t.add(one.Counts, seconds, delivery, processing)
			}
		}
	}
	out.Total = total.rates()
	for _, p := range slices.SortedFunc(maps.Keys(topics), func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.topic, b.topic))
	}) {
		out.Topics = append(out.Topics, TopicRates{TenantID: p.tenant, Topic: p.topic, Rates: topics[p].rates()})
	}
	for _, g := range slices.SortedFunc(maps.Keys(groups), func(a, b triple) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.topic, b.topic), cmp.Compare(a.group, b.group))
	}) {
		out.Groups = append(out.Groups, GroupRates{TenantID: g.tenant, Topic: g.topic, Group: g.group, Rates: groups[g].rates()})
	}
	return out
}

// tally adds up series.
type tally struct {
	counts               [countsOf]uint64
	perSecond            [countsOf]float64
	delivery, processing spread
}

func at[K comparable](m map[K]*tally, k K) *tally {
	t := m[k]
	if t == nil {
		t = &tally{}
		m[k] = t
	}
	return t
}

func (t *tally) add(counts [countsOf]uint32, seconds float64, delivery, processing *spread) {
	for kind, n := range counts {
		t.counts[kind] += uint64(n)
		t.perSecond[kind] += float64(n) / seconds
	}
	t.delivery.add(delivery)
	t.processing.add(processing)
}

func (t *tally) rates() Rates {
	n, r := t.counts, t.perSecond
	out := Rates{
		PublishedPerSecond: r[published], DeliveredPerSecond: r[delivered], AckedPerSecond: r[acked],
		FailedPerSecond: r[failed], DeadLetteredPerSecond: r[deadLettered],
		Published: n[published], Delivered: n[delivered], Acked: n[acked], Failed: n[failed], DeadLettered: n[deadLettered],
		Delivery: t.delivery.latency(), Processing: t.processing.latency(),
	}
	if ended := n[acked] + n[failed]; ended > 0 {
		out.ErrorRate = float64(n[failed]) / float64(ended)
	}
	return out
}
