package queries

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/squirrel"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

// moving is busy and changes queues and subscriptions, too.
type moving struct {
	*busy

	// extras are queues that come and go under few names, each with its subscriptions.
	extras map[string][]string
	// ever are all subscriptions and messages that there were.
	ever     map[string]string
	messages []string
}

func newMoving(t *testing.T, seed uint64) *moving {
	t.Helper()
	m := &moving{busy: newBusy(t, seed), extras: map[string][]string{}, ever: map[string]string{}}
	for _, s := range m.members {
		m.ever[s.id] = s.caller.TenantID
	}
	return m
}

func (m *moving) step() {
	ctx := m.t.Context()
	name := fmt.Sprint("extra", m.rng.IntN(3))
	subs, there := m.extras[name]
	switch dice := m.rng.IntN(100); {
	case dice < 70:
		m.busy.step()
		for _, s := range m.members {
			m.ever[s.id] = s.caller.TenantID
		}
	case dice < 74 && !there:
		m.queue(name, 1, false)
		m.extras[name] = nil
	case dice < 76 && there:
		_, err := m.DeleteQueue(ctx, m.caller, name, nil)
		require.NoError(m.t, err)
		delete(m.extras, name)
	case dice < 82 && there:
		id := m.subscribe(m.caller, name, fmt.Sprint("x", m.rng.IntN(2)))
		m.extras[name], m.ever[id] = append(subs, id), m.caller.TenantID
	case dice < 86 && len(subs) > 0:
		id := subs[m.rng.IntN(len(subs))]
		m.update(m.caller, id)
	case dice < 92:
		who := m.members[m.rng.IntN(len(m.members))]
		m.update(who.caller, who.id)
		_, _, err := m.ResumeSubscription(ctx, who.caller, who.id, nil) // others pull from it
		require.NoError(m.t, err)
	case dice < 95:
		about := fmt.Sprint("about ", m.rng.IntN(3))
		_, _, err := m.UpdateQueue(ctx, m.caller, commands.UpdateQueue{
			Queue: "orders", Description: &about, SchemaDefinition: json.RawMessage([]string{`{"b": 1, "a": [1.0]}`, `null`}[m.rng.IntN(2)]),
			RetentionMs: new([]int64{60_000, 70_000}[m.rng.IntN(2)]),
		})
		require.NoError(m.t, err)
	case there:
		m.messages = append(m.messages, m.publish(commands.Publish{Queue: name}).MessageID)
	}
}

func (m *moving) update(caller commands.Caller, id string) {
	ctx := m.t.Context()
	var err error
	switch m.rng.IntN(3) {
	case 0:
		_, _, err = m.PauseSubscription(ctx, caller, id, nil)
	case 1:
		_, _, err = m.ResumeSubscription(ctx, caller, id, nil)
	default:
		most := 10 + m.rng.IntN(9)
		_, _, err = m.UpdateSubscription(ctx, caller, commands.UpdateSubscription{
			SubscriptionID: id, MaxPollRecords: &most, MessageFilter: json.RawMessage([]string{`{}`, `null`}[m.rng.IntN(2)]),
		})
	}
	require.NoError(m.t, err)
}

// answers are what was answered, by question.
type answers map[string]any

var everyStatus = []string{"", "published", "consumed", "failed", "dead_letter", "scheduled", "cancelled", "expired", "purged"}

// now asks for everything as it is.
func (m *moving) now(state redis.TopicState) answers {
	ctx, out := m.t.Context(), answers{}
	for n := 1; n <= 2; n++ {
		tenant := tenantID(n)
		db := postgres.ForTenant(m.pool, tenant)
		queues, _, err := Queues(ctx, db, tenant, Page{Limit: 100})
		require.NoError(m.t, err)
		out["queues of "+tenant] = queues
		for _, name := range []string{"orders", "extra0", "extra1", "extra2"} {
			for _, ref := range []string{name, tenantID(1) + ":" + name} {
				out["queue "+ref+" of "+tenant] = orError(QueueByName(ctx, db, tenant, ref))
			}
		}
		for _, f := range []SubscriptionFilter{{}, {Queue: tenantID(1) + ":orders"}, {Queue: "extra1"}, {ConsumerGroup: "g0"}} {
			list, _, err := Subscriptions(ctx, db, tenant, f, Page{Limit: 500})
			require.NoError(m.t, err)
			out[fmt.Sprint("subscriptions of ", tenant, f)] = list
		}
		for id := range m.ever {
			out["subscription "+id+" of "+tenant] = orError(SubscriptionByID(ctx, db, tenant, id))
		}
		for _, f := range m.filters() {
			list, _, err := Messages(ctx, db, tenant, f, Page{Limit: 2000})
			require.NoError(m.t, err)
			out[fmt.Sprint("messages of ", tenant, f)] = list
		}
		for _, id := range m.messages {
			out["message "+id+" of "+tenant] = orError(MessageByID(ctx, db, tenant, id))
			list, err := Attempts(ctx, db, tenant, id)
			require.NoError(m.t, err)
			out["attempts of "+id+" of "+tenant] = list
		}
	}
	accounts, err := Accounts(ctx, postgres.AllTenants(m.pool), 0, m.topicID, int64(m.folded))
	require.NoError(m.t, err)
	for _, a := range accounts {
		out["account "+a.Group], out["unsettled "+a.Group] = a.String(), state.Unsettled[a.Group]
	}
	return out
}

func (m *moving) filters() []MessageFilter {
	list := []MessageFilter{{Queue: "extra0"}, {Queue: "orders", Key: "k1"}}
	for _, status := range everyStatus {
		list = append(list, MessageFilter{Status: status})
	}
	from := PositionTime(int64(m.folded)).Add(-50 * time.Millisecond)
	return append(list, MessageFilter{
		Queue: "orders", From: from, To: from.Add(30 * time.Millisecond),
		IDFrom: postgres.MessageIDBound(from.Add(-clockSkewMax)), IDTo: postgres.MessageIDBound(from.Add(clockSkewMax)),
	})
}

// then asks for the same as it was.
func (m *moving) then(at answers, position int64, f []MessageFilter) answers {
	ctx, out := m.t.Context(), answers{}
	all := postgres.AllTenants(m.pool)
	folded, err := Folded(ctx, all)
	require.NoError(m.t, err)
	asOf := AsOf{Position: position, Folded: folded}
	for n := 1; n <= 2; n++ {
		tenant := tenantID(n)
		db := postgres.ForTenant(m.pool, tenant)
		out["queues of "+tenant] = inPages(m, func(p Page) ([]Queue, string, error) { return QueuesAsOf(ctx, db, tenant, asOf, p) })
		for _, name := range []string{"orders", "extra0", "extra1", "extra2"} {
			for _, ref := range []string{name, tenantID(1) + ":" + name} {
				out["queue "+ref+" of "+tenant] = orError(QueueAsOf(ctx, db, all, tenant, ref, asOf))
			}
		}
		for _, f := range []SubscriptionFilter{{}, {Queue: tenantID(1) + ":orders"}, {Queue: "extra1"}, {ConsumerGroup: "g0"}} {
			out[fmt.Sprint("subscriptions of ", tenant, f)] = plain(m, inPages(m, func(p Page) ([]SubscriptionThen, string, error) {
				return SubscriptionsAsOf(ctx, db, all, tenant, f, asOf, p)
			})...)
		}
		for id := range m.ever {
			key := "subscription " + id + " of " + tenant
			s, err := SubscriptionAsOf(ctx, db, all, tenant, id, asOf)
			out[key] = orError(s, err)
			if err == nil {
				out[key] = plain(m, s)[0]
				if _, counted := out["account "+s.Group()]; !counted {
					a := m.account(s, asOf)
					out["account "+s.Group()], out["unsettled "+s.Group()] = a.String(), a.Unsettled()
				}
			}
		}
		for _, f := range f {
			out[fmt.Sprint("messages of ", tenant, f)] = inPages(m, func(p Page) ([]Message, string, error) {
				return MessagesAsOf(ctx, db, all, tenant, f, asOf, p)
			})
		}
		for _, id := range m.messages {
			key := "message " + id + " of " + tenant
			if _, asked := at[key]; !asked {
				continue
			}
			found, err := MessageAsOf(ctx, db, all, tenant, id, asOf)
			out[key] = orError(found, err)
			if err == nil {
				out[key] = found.Message
			}
			list, err := AttemptsAsOf(ctx, db, tenant, id, position)
			require.NoError(m.t, err)
			out["attempts of "+id+" of "+tenant] = list
		}
	}
	return out
}

// account counts both ways, where there are both.
func (m *moving) account(s SubscriptionThen, asOf AsOf) Account {
	m.t.Helper()
	ctx, db := m.t.Context(), postgres.AllTenants(m.pool)
	near := asOf
	near.Folded = []int64{asOf.Of(0)} // back is nearer
	a, err := AccountAsOf(ctx, db, s, near)
	require.NoError(m.t, err)
	far := asOf
	far.Folded = []int64{1 << 62} // forward is
	b, err := AccountAsOf(ctx, db, s, far)
	require.NoError(m.t, err)
	require.Equal(m.t, a.String(), b.String())
	// what is scheduled is counted back from now, or from the queue's end
	events, err := collect[groupEvent](ctx, db, "life", squirrel.Expr(groupLifeSQL, s.TopicID, s.Group()))
	require.NoError(m.t, err)
	c := counting{db: db, topicID: s.TopicID, group: s.Group(), position: asOf.Of(0), kept: 1 << 62, life: groupLifeAt(events, asOf.Of(0))}
	scheduled, err := c.scheduled(ctx)
	require.NoError(m.t, err)
	require.Equal(m.t, b.Scheduled, scheduled)
	return b
}

func orError[T any](v T, err error) any {
	if err != nil {
		return err.Error()
	}
	return v
}

// plain are subscriptions without what only the past knows. When they last consumed must
// have been found.
func plain(m *moving, list ...SubscriptionThen) []Subscription {
	out := []Subscription{}
	for _, s := range list {
		require.False(m.t, s.LastConsumedUnknown)
		out = append(out, s.Subscription)
	}
	return out
}

// inPages reads a list of the past in pages of some length.
func inPages[T any](m *moving, read func(Page) ([]T, string, error)) []T {
	all, page := []T{}, Page{Limit: 1 + m.rng.IntN(60)}
	for {
		list, next, err := read(page)
		require.NoError(m.t, err)
		require.LessOrEqual(m.t, len(list), page.Limit)
		all = append(all, list...)
		if next == "" {
			return all
		}
		page.After = []string{next}
	}
}

// Whatever happens after a position, what is answered as of it is what was answered then.
func TestThePastIsAnsweredAsThePresentWas(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newMoving(t, seed)
			type moment struct {
				answers

				position int64
				filters  []MessageFilter
			}
			var moments []moment
			for range 8 {
				for range 100 {
					m.step()
				}
				for _, p := range m.seen[max(0, len(m.seen)-15):] {
					m.messages = append(m.messages, p.MessageID)
				}
				state := m.state(m.topicID)
				m.foldTo(state.Last)
				moments = append(moments, moment{m.now(state), int64(m.folded), m.filters()})
			}
			check := func(moments []moment, questions func(string) bool) (checked int) {
				for _, at := range moments {
					then := m.then(at.answers, at.position, at.filters)
					for question, want := range at.answers {
						if questions(question) {
							requireSamef(t, want, then[question], "%s as of %d", question, at.position)
							checked++
						}
					}
				}
				return checked
			}
			t.Logf("%d answers stayed", check(moments, func(string) bool { return true }))
			// and with the queue gone, too: to another tenant, it is as if there never was one
			_, err := m.DeleteQueue(t.Context(), m.caller, "orders", nil)
			require.NoError(t, err)
			m.queue("other", 1, false)
			m.foldTo(m.state(m.topicID).Last)
			_, err = QueueByName(t.Context(), m.pool, tenantID(1), "orders")
			require.ErrorIs(t, err, ErrNotFound)
			check(moments[5:], func(question string) bool { return !strings.Contains(question, "of "+tenantID(2)) })
			theirs := "subscriptions of " + tenantID(2) + "{ }"
			for _, at := range moments[6:] {
				then := m.then(at.answers, at.position, nil)
				require.Equal(t, "not found", then["queue "+tenantID(1)+":orders of "+tenantID(2)])
				require.Len(t, then[theirs], len(at.answers[theirs].([]Subscription)))
			}
			folded, err := Folded(t.Context(), m.pool)
			require.NoError(t, err)
			require.Empty(t, m.then(answers{}, folded[0], nil)[theirs])
		})
	}
}

// requireSamef compares answers as callers get them.
func requireSamef(t *testing.T, want, got any, format string, args ...any) {
	t.Helper()
	a, b := asJSON(t, want), asJSON(t, got)
	erase(a, b)
	require.Equal(t, a, b, append([]any{format}, args...)...)
}

func asJSON(t *testing.T, v any) (out any) {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &out))
	return out
}

// erase takes from an answer what was erased since: the past does not bring it back.
func erase(was, is any) {
	switch is := is.(type) {
	case []any:
		if was, ok := was.([]any); ok && len(was) == len(is) {
			for i := range is {
				erase(was[i], is[i])
			}
		}
	case map[string]any:
		was, ok := was.(map[string]any)
		if !ok {
			return
		}
		if at := is["ErasedAt"]; at != nil {
			was["ErasedAt"], was["Payload"] = at, nil
		}
		for name := range is {
			erase(was[name], is[name])
		}
	}
}

// A message that died before history is kept, and came back since, makes an account from
// between uncertain: that is said.
func TestAnAccountIsNotGuessed(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	topicID := w.queue("orders", 1, false)
	id := w.subscribe(w.caller, "orders", "g")
	w.publish(commands.Publish{})
	pulled, err := w.Pull(ctx, w.caller, commands.Pull{SubscriptionID: id})
	require.NoError(t, err)
	require.Len(t, pulled, 1)
	_, err = w.DeadLetter(ctx, w.caller, id, []string{pulled[0].AckToken}, "no")
	require.NoError(t, err)
	dead := int64(w.state(topicID).Last)
	attempt, err := w.ReserveAttempt(ctx, id)
	require.NoError(t, err)
	p := pulled[0]
	_, err = w.Redrive(ctx, commands.Redrive{SubscriptionID: id, JobID: "j", Attempt: attempt, Messages: []commands.Redriven{{
		MessageID: p.MessageID, Meta: p.Meta, Payload: p.Payload, Partition: p.Partition, Offset: p.Offset, Position: p.Position, DeadLetters: 1,
	}}})
	require.NoError(t, err)
	w.foldAll(topicID)
	folded, err := Folded(ctx, w.pool)
	require.NoError(t, err)
	at := func(position, kept int64) (string, error) {
		asOf := AsOf{Position: position, Folded: folded, Kept: kept}
		s, err := SubscriptionAsOf(ctx, w.pool, w.pool, tenantID(1), id, asOf)
		require.NoError(t, err)
		a, err := AccountAsOf(ctx, w.pool, s, asOf)
		return a.String(), err
	}
	account, err := at(dead, 0)
	require.NoError(t, err)
	require.Equal(t, "g: 1 0 0 0 1 0 0 0", account)
	_, err = at(dead, dead)
	require.ErrorIs(t, err, ErrGone)
	account, err = at(folded[0], dead)
	require.NoError(t, err)
	require.Equal(t, "g: 1 0 0 0 0 0 0 0", account)
	// nor is a message's
	_, err = MessageAsOf(ctx, w.pool, w.pool, tenantID(1), p.MessageID, AsOf{Position: dead, Folded: folded, Kept: dead})
	require.ErrorIs(t, err, ErrGone)
	list, next, err := MessagesAsOf(ctx, w.pool, w.pool, tenantID(1), MessageFilter{}, AsOf{Position: dead, Folded: folded, Kept: dead}, Page{Limit: 1})
	require.NoError(t, err)
	require.Empty(t, list)
	require.Empty(t, next)
}

// fillPast adds to fillDelivery what the past is read by: the creation of topics, a tenth
// of them deleted again, and of subscriptions, and attempts.
func fillPast(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	fillDelivery(t, pool)
	for _, sql := range []string{
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, version, occurred_at, metadata, data)
			SELECT 0, row_number() OVER (), 'admin', gen_random_uuid(), 'topic.created', tenant_id, id, 1, created_at, '{}', '{"isPublic":true,"allowedProducers":[],"allowedConsumers":[]}' FROM message_topics`,
		`UPDATE message_topics SET status = 'archived' WHERE name LIKE 'q%7'`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, version, occurred_at, metadata, data)
			SELECT 0, (20001 + row_number() OVER ()) << 20, 'admin', gen_random_uuid(), 'topic.deleted', tenant_id, id, 2, created_at, '{}', '{}' FROM message_topics WHERE status = 'archived'`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, version, occurred_at, metadata, data)
			SELECT 0, 3000 + n, 'admin', gen_random_uuid(), 'subscription.created', ('00000000-0000-0000-0000-' || lpad((1 + n % 10)::text, 12, '0'))::uuid, ('00000000-0000-0000-0001-' || lpad((n % 200)::text, 12, '0'))::uuid,
			('00000000-0000-0000-0002-' || lpad(n::text, 12, '0'))::uuid, 1, now(), '{}', '{"consumerGroup":"g1","joined":{"group":"g1","began":true}}' FROM generate_series(0, 9999) n`,
		`INSERT INTO consumption_records (id, subscription_id, message_id, consumer_instance, status, tenant_id, attempt, processed_at)
			SELECT gen_random_uuid(), gen_random_uuid(), '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'c', 'success', '00000000-0000-0000-0000-000000000001', 1, 'epoch'::timestamptz + n * interval '1 ms' FROM generate_series(1, 20000) n`,
		`ANALYZE`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// Each question about the past is a statement, or two, that indexes answer, whatever there
// is beside it: the number of statements does not depend on the page.
func TestReadsOfThePastUseIndexes(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	fillPast(t, pool)
	const (
		topicID = "00000000-0000-0000-0001-000000000008"
		subID   = "00000000-0000-0000-0002-000000000010"
	)
	ctx, tenant := t.Context(), tenantID(1)
	asOf := AsOf{Position: 15_000 << positionTimeBits, Folded: []int64{40_000 << positionTimeBits, 40_000 << positionTimeBits}}
	message := MessageThen{Message: Message{MessageID: "00000000-0000-7000-8000-000000000008", TopicID: topicID}, Position: 8}
	sub := SubscriptionThen{Subscription: Subscription{ID: subID, TopicID: topicID, TenantID: tenant}}
	counting := counting{shard: 0, topicID: topicID, group: "g1", position: 15_000 << positionTimeBits}
	for name, tc := range map[string]struct {
		run     func(DB) error
		indexes []string
		// all says that it is asked of all tenants' events.
		all bool
	}{
		"a queue": {func(db DB) error {
			_, err := QueueAsOf(ctx, db, nil, tenant, "q8", asOf)
			return err
		}, []string{"message_topics_", "event_history_topics"}, false},
		"queues": {func(db DB) error {
			_, _, err := QueuesAsOf(ctx, db, tenant, asOf, Page{Limit: 50, After: []string{"q2"}})
			return err
		}, []string{"message_topics_", "event_history_topics"}, false},
		"ends of queues": {func(db DB) error {
			_, err := topicEnds(ctx, db, []string{topicID, "00000000-0000-0000-0001-000000000007"})
			return err
		}, []string{"event_history_topics"}, true},
		"a subscription": {func(db DB) error {
			_, err := SubscriptionAsOf(ctx, db, nil, tenant, subID, asOf)
			return err
		}, []string{"event_history_admin_subscription_id_position_idx"}, false},
		"subscriptions": {func(db DB) error {
			_, _, err := SubscriptionsAsOf(ctx, db, nil, tenant, SubscriptionFilter{}, asOf, Page{Limit: 50, After: []string{subID}})
			return err
		}, []string{"event_history_subscriptions", "event_history_admin_subscription_id_position_idx"}, false},
		"when subscriptions last consumed": {func(db DB) error {
			return lastConsumedThen(ctx, db, tenant, asOf, []SubscriptionThen{sub})
		}, []string{"event_history_message_default_", "message_subscriptions_pkey"}, false},
		"a message": {func(db DB) error {
			_, err := MessageAsOf(ctx, db, nil, tenant, message.MessageID, asOf)
			return err
		}, []string{"message_records_default_pkey", "event_history_topics"}, false},
		"messages": {func(db DB) error {
			_, _, err := MessagesAsOf(ctx, db, nil, tenant, MessageFilter{Status: "consumed"}, asOf, Page{Limit: 50, After: []string{"00000000-0000-7000-8000-000000010000"}})
			return err
		}, []string{"message_records_default_tenant_id_topic_id_message_id_idx", "event_history_topics", "message_records_default_pkey"}, false},
		"messages of a queue and a key": {func(db DB) error {
			_, _, err := MessagesAsOf(ctx, db, nil, tenant, MessageFilter{Queue: "q8", Key: "k"}, asOf, Page{Limit: 50})
			return err
		}, []string{"message_records_default_", "event_history_topics"}, false},
		"what became of messages": {func(db DB) error {
			_, err := foldMessages(ctx, db, asOf, []MessageThen{message})
			return err
		}, []string{"event_history_message_default_message_id_position_idx", "event_history_topics"}, true},
		"attempts": {func(db DB) error {
			_, err := AttemptsAsOf(ctx, db, tenant, message.MessageID, 8<<positionTimeBits)
			return err
		}, []string{"consumption_records_default_pkey"}, false},
		"the life of a group": {func(db DB) error {
			_, err := AccountAsOf(ctx, db, sub, asOf)
			return err
		}, []string{"event_history_admin_topic_id_position_idx"}, false},
		"a ledger forward": {func(db DB) error {
			counting.db = db
			_, err := counting.between(ctx, 14_900<<positionTimeBits, 15_000<<positionTimeBits)
			return err
		}, []string{"event_history_message_default_"}, false},
		"dead letters that came back": {func(db DB) error {
			c := counting
			c.db, c.position, c.kept = db, 39_900<<positionTimeBits, 1
			_, err := c.back(ctx)
			return err
		}, []string{"event_history_message_default_"}, false},
		"scheduled back from now": {func(db DB) error {
			c := counting
			c.db, c.position, c.kept = db, 39_900<<positionTimeBits, 1
			_, err := c.scheduled(ctx)
			return err
		}, []string{"event_history_message_default_", "topic_counts_pkey"}, false},
		"history of a queue": {func(db DB) error {
			_, _, err := QueueHistory(ctx, db, tenant, "q8", Page{Limit: 50, After: []string{"100"}})
			return err
		}, []string{"message_topics_ever", "event_history_topics"}, false},
		"history of a subscription": {func(db DB) error {
			_, _, err := SubscriptionHistory(ctx, db, tenant, subID, Page{Limit: 50, After: []string{"100"}})
			return err
		}, []string{"event_history_admin_subscription_id_position_idx"}, false},
	} {
		dbs := []DB{pool, postgres.AllTenants(pool)}
		if !tc.all {
			dbs = append(dbs, postgres.ForTenant(pool, tenant))
		}
		for _, db := range dbs {
			p := plan(t, db, tc.run)
			for _, index := range tc.indexes {
				require.Contains(t, p, index, "%s\n%s", name, p)
			}
			for _, table := range []string{"event_history_message", "event_history_admin", "message_records", "consumption_records", "message_subscriptions", "topic_counts"} {
				require.NotContains(t, p, "Seq Scan on "+table, "%s\n%s", name, p)
			}
		}
	}
}

// However few pass, a page looks at no more than it may and says where to go on, and pages
// together miss nothing.
func TestAWalkIsBounded(t *testing.T) {
	t.Parallel()
	const items, piece = 25_000, 500
	read := func(after []string, limit int) ([]int, error) {
		from := 1
		if len(after) > 0 {
			n, err := strconv.Atoi(after[0])
			require.NoError(t, err)
			from = n + 1
		}
		var list []int
		for n := from; n <= items && len(list) < limit; n++ {
			list = append(list, n)
		}
		return list, nil
	}
	var found []int
	pages, page := 0, Page{Limit: 2}
	for {
		looked := 0
		list, next, err := walk(page, piece, read, func(list []int) ([]int, error) {
			looked += len(list)
			var passed []int
			for _, n := range list {
				if n%6000 == 0 || n > 24_995 {
					passed = append(passed, n)
				}
			}
			return passed, nil
		}, strconv.Itoa)
		require.NoError(t, err)
		require.LessOrEqual(t, len(list), page.Limit)
		require.LessOrEqual(t, looked, asOfExamineMax)
		found = append(found, list...)
		if pages++; next == "" {
			break
		}
		page.After = []string{next}
	}
	require.Equal(t, []int{6000, 12_000, 18_000, 24_000, 24_996, 24_997, 24_998, 24_999, 25_000}, found)
	require.Equal(t, 5, pages)
}
