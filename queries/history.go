package queries

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/Masterminds/squirrel"
)

// Change is an event that changed a queue or a subscription, and what it changed.
type Change struct {
	ID             string
	Kind           string
	Shard          int
	Position       int64
	Version        int64
	OccurredAt     time.Time
	Actor          *string
	RequestID      *string
	TopicID        string
	SubscriptionID *string
	// Fields are by name what is other than before.
	Fields []FieldChange
	// Details is what else the event says, a JSON object, nil for nothing.
	Details json.RawMessage
}

// FieldChange is a field's values before and after, JSON; null is none. A member of an
// object that there was before and after is named as in handlerConfig.url.
type FieldChange struct {
	Field    string
	From, To json.RawMessage
}

// changeRow is an event; IsBefore says that it stands before the page and is what the page
// begins from.
type changeRow struct {
	ID             string
	Kind           string
	Shard          int
	Position       int64
	Version        int64
	OccurredAt     time.Time
	Actor          *string
	RequestID      *string
	TopicID        string
	SubscriptionID *string
	Data           json.RawMessage
	IsBefore       bool
}

const changeColumns = `h.event_id, h.kind, h.shard, h.position, h.version, h.occurred_at, h.metadata, h.topic_id, h.subscription_id, h.data`

const shownChange = `event_id::text, kind, shard, position, version, occurred_at, metadata->>'actor', metadata->>'requestId', topic_id::text, subscription_id::text, data::text`

// queueChangesSQL reads a page of the events of the queues that had a name, which are all
// in one shard, and what they were before. $1 is the tenant, $2 the name, $3 the position
// behind which the page begins and $4 its length.
const queueChangesSQL = `
WITH things AS (SELECT t.id FROM message_topics t WHERE t.tenant_id = $1::text::uuid AND t.name COLLATE "C" = $2), page AS (
    SELECT c.* FROM things t CROSS JOIN LATERAL (
        SELECT ` + changeColumns + ` FROM event_history h
        WHERE h.scope = 'admin' AND h.tenant_id = $1::text::uuid AND h.topic_id = t.id AND h.subscription_id IS NULL AND h.position > $3
          AND h.kind IN ('topic.created', 'topic.updated', 'topic.purged', 'topic.deleted') ORDER BY h.position LIMIT $4) c
    ORDER BY c.position LIMIT $4
), before AS (
    SELECT c.* FROM things t CROSS JOIN LATERAL (
        SELECT ` + changeColumns + ` FROM event_history h
        WHERE h.scope = 'admin' AND h.tenant_id = $1::text::uuid AND h.topic_id = t.id AND h.subscription_id IS NULL AND h.position <= $3
          AND h.kind IN ('topic.created', 'topic.updated') ORDER BY h.position DESC LIMIT 1) c
)
SELECT ` + shownChange + `, false FROM page UNION ALL SELECT ` + shownChange + `, true FROM before ORDER BY position`

// subscriptionChangesSQL is queueChangesSQL of the subscription $2. It ends with its queue,
// where that is its tenant's own.
const subscriptionChangesSQL = `
WITH page AS (
    (SELECT ` + changeColumns + ` FROM event_history h
     WHERE h.scope = 'admin' AND h.tenant_id = $1::text::uuid AND h.subscription_id = $2::text::uuid AND h.position > $3 ORDER BY h.position LIMIT $4)
    UNION ALL
    (SELECT ` + changeColumns + ` FROM event_history c JOIN event_history h ON h.topic_id = c.topic_id
     WHERE c.scope = 'admin' AND c.kind = 'subscription.created' AND c.tenant_id = $1::text::uuid AND c.subscription_id = $2::text::uuid
       AND h.scope = 'admin' AND h.tenant_id = $1::text::uuid AND h.subscription_id IS NULL AND h.kind = 'topic.deleted' AND h.position > $3
       AND NOT EXISTS (SELECT FROM event_history d WHERE d.scope = 'admin' AND d.subscription_id = c.subscription_id AND d.kind = 'subscription.deleted'))
    ORDER BY position LIMIT $4
), before AS (
    (SELECT ` + changeColumns + ` FROM event_history h
     WHERE h.scope = 'admin' AND h.tenant_id = $1::text::uuid AND h.subscription_id = $2::text::uuid AND h.position <= $3
       AND h.kind IN ('subscription.created', 'subscription.updated') ORDER BY h.position DESC LIMIT 1)
    UNION ALL
    (SELECT ` + changeColumns + ` FROM event_history h
     WHERE h.scope = 'admin' AND h.tenant_id = $1::text::uuid AND h.subscription_id = $2::text::uuid AND h.position <= $3
       AND h.kind IN ('subscription.paused', 'subscription.resumed', 'subscription.stopped') ORDER BY h.position DESC LIMIT 1)
)
SELECT ` + shownChange + `, false FROM page UNION ALL SELECT ` + shownChange + `, true FROM before ORDER BY position`

// QueueHistory lists who changed what of a tenant's queues that had a name, the oldest
// change first: a queue that was deleted and one that was created under its name later have
// ids of their own. It returns [ErrNotFound] where the tenant never had one. The key of a
// page is the last position.
func QueueHistory(ctx context.Context, db DB, tenantID, name string, page Page) (list []Change, next bool, err error) {
	return changes(ctx, db, "history of a queue", queueChangesSQL, tenantID, name, page, changeRow.topic)
}

// SubscriptionHistory is [QueueHistory] of a subscription.
func SubscriptionHistory(ctx context.Context, db DB, tenantID, id string, page Page) (list []Change, next bool, err error) {
	return changes(ctx, db, "history of a subscription", subscriptionChangesSQL, tenantID, id, page, func(changeRow) string { return id })
}

func (r changeRow) topic() string { return r.TopicID }

// changes reads a page; thingOf is what an event of it is of.
func changes(ctx context.Context, db DB, what, sql, tenantID, thing string, page Page, thingOf func(changeRow) string) ([]Change, bool, error) {
	after := int64(-1)
	if len(page.After) > 0 {
		var err error
		if after, err = strconv.ParseInt(page.After[0], 10, 64); err != nil {
			return nil, false, fmt.Errorf("query %s: %w", what, err)
		}
	}
	rows, err := collect[changeRow](ctx, db, what, squirrel.Expr(sql, tenantID, thing, after, page.Limit+1))
	if err != nil {
		return nil, false, err
	}
	if len(rows) == 0 && len(page.After) == 0 {
		return nil, false, ErrNotFound
	}
	list := make([]Change, 0, len(rows))
	states := map[string]map[string]json.RawMessage{}
	for _, r := range rows {
		c, err := r.change(states, thingOf(r))
		if err != nil {
			return nil, false, fmt.Errorf("query %s: event %s: %w", what, r.ID, err)
		}
		if !r.IsBefore {
			list = append(list, c)
		}
	}
	list, next := more(list, page.Limit)
	return list, next, nil
}

// namesOfThings are members of events that say what they are about, as does Change.
var namesOfThings = []string{"topicId", "subscriptionId"} //nolint:gochecknoglobals // constant

// change folds an event into what its thing was, and returns what it changed.
func (r changeRow) change(states map[string]map[string]json.RawMessage, thing string) (Change, error) {
	c := Change{
		ID: r.ID, Kind: r.Kind, Shard: r.Shard, Position: r.Position, Version: r.Version, OccurredAt: r.OccurredAt,
		Actor: r.Actor, RequestID: r.RequestID, TopicID: r.TopicID, SubscriptionID: r.SubscriptionID,
	}
	var said map[string]json.RawMessage
	if err := json.Unmarshal(r.Data, &said); err != nil {
		return c, fmt.Errorf("data: %w", err)
	}
	for _, name := range namesOfThings {
		delete(said, name)
	}
	kind := r.Kind
	if kind == "topic.deleted" && thing != r.TopicID {
		kind = "subscription.deleted" // it ended with its queue
	}
	before := states[thing]
	after, details := after(kind, before, said)
	states[thing] = after
	c.Fields = difference(before, after)
	if len(details) > 0 {
		var err error
		if c.Details, err = json.Marshal(details); err != nil {
			return c, fmt.Errorf("details: %w", err)
		}
	}
	return c, nil
}

// after is what a thing is after an event, and what the event says beside that.
func after(kind string, before, said map[string]json.RawMessage) (fields, details map[string]json.RawMessage) {
	details = map[string]json.RawMessage{}
	switch kind {
	case "topic.created", "topic.updated", "subscription.created", "subscription.updated":
		if joined, ok := said["joined"]; ok {
			details["joined"] = joined
			delete(said, "joined")
		}
		return said, details
	}
	fields = maps.Clone(before)
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	for name, value := range said {
		if _, isField := fields[name]; !isField {
			details[name] = value
		}
	}
	switch kind {
	case "topic.deleted":
		fields["status"] = json.RawMessage(`"archived"`)
	case "subscription.deleted":
		fields["status"] = json.RawMessage(`"deleted"`)
	case "subscription.paused":
		fields["status"] = json.RawMessage(`"paused"`)
	case "subscription.resumed":
		fields["status"] = json.RawMessage(`"active"`)
	case "subscription.stopped":
		fields["status"] = json.RawMessage(`"stopped"`)
	}
	return fields, details
}

// difference lists what is other, by name.
func difference(before, after map[string]json.RawMessage) []FieldChange {
	list := []FieldChange{}
	for _, name := range slices.Sorted(maps.Keys(merged(before, after))) {
		from, to := before[name], after[name]
		if equalJSON(from, to) {
			continue
		}
		if inner, ok := members(from, to); ok {
			for _, f := range inner {
				f.Field = name + "." + f.Field
				list = append(list, f)
			}
			continue
		}
		list = append(list, FieldChange{Field: name, From: orNull(from), To: orNull(to)})
	}
	return list
}

// members is what is other in two objects, or false where one is none.
func members(from, to json.RawMessage) ([]FieldChange, bool) {
	var before, after map[string]json.RawMessage
	if json.Unmarshal(orNull(from), &before) != nil || json.Unmarshal(orNull(to), &after) != nil || before == nil || after == nil {
		return nil, false
	}
	var list []FieldChange
	for _, name := range slices.Sorted(maps.Keys(merged(before, after))) {
		if !equalJSON(before[name], after[name]) {
			list = append(list, FieldChange{Field: name, From: orNull(before[name]), To: orNull(after[name])})
		}
	}
	return list, true
}

func merged(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	all := maps.Clone(b)
	maps.Copy(all, a)
	return all
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}

// equalJSON reports whether two values mean the same; none is null.
func equalJSON(a, b json.RawMessage) bool {
	if bytes.Equal(orNull(a), orNull(b)) {
		return true
	}
	return reflect.DeepEqual(value(a), value(b))
}

func value(raw json.RawMessage) any {
	d := json.NewDecoder(bytes.NewReader(orNull(raw)))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return string(raw)
	}
	return v
}
