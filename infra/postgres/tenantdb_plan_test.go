package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/queries"
)

// explainer notes the plans of the queries that are run on it.
type explainer struct {
	queries.DB

	plan *string
}

var errExplained = errors.New("explained")

func (e explainer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	lines, err := tryTexts(ctx, e.DB, `EXPLAIN (COSTS OFF) `+sql, args...)
	for _, line := range lines {
		*e.plan += line + "\n"
	}
	return nil, errors.Join(err, errExplained)
}

// explain returns a query's plan.
func explain(t *testing.T, db queries.DB, run func(queries.DB) error) string {
	t.Helper()
	plan := ""
	require.ErrorIs(t, run(explainer{db, &plan}), errExplained)
	require.NotEmpty(t, plan)
	return plan
}

var (
	indexUsed = regexp.MustCompile(`(?:using|Index Scan on) (\w+_(?:idx|pkey|name|tenant|topic|key)\w*)`)
	tableRead = regexp.MustCompile(`Scan.* on (message_records\w*|consumption_records\w*|event_history\w*)`)
)

// used returns what a pattern finds in a plan, once each.
func used(pattern *regexp.Regexp, plan string) []string {
	var names []string
	for _, found := range pattern.FindAllStringSubmatch(plan, -1) {
		names = append(names, found[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Behind the fence, the queries use the indexes that they use without it, and look at
// the same days.
func TestTheFenceLeavesPlansAsTheyAre(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	now := time.Now()
	for n := range 50 { // so many rows that indexes pay
		exec(t, pool, fmt.Sprintf(`INSERT INTO message_topics (id, name, topic_type, tenant_id, created_at, updated_at, version, shard)
			SELECT md5('t%[1]d.' || n)::uuid, 'n' || n, 'redis_stream', md5('%[1]d')::uuid, now(), now(), 1, 0 FROM generate_series(1, 20) n`, n))
	}
	bounds := []string{MessageIDBound(now.Add(-day)), MessageIDBound(now), MessageIDBound(now.Add(day))}
	for _, bound := range bounds {
		exec(t, pool, fmt.Sprintf(`INSERT INTO message_records (message_id, id, topic_id, tenant_id, shard, position)
			SELECT '%s-7000-9000-' || lpad(n::text, 12, '0'), gen_random_uuid(), md5('t' || n %% 50 || '.' || 1 + n %% 20)::uuid, md5((n %% 50)::text)::uuid, 0, n FROM generate_series(1, 5000) n`, bound),
			fmt.Sprintf(`INSERT INTO message_subscriptions (id, topic_id, consumer_group, consumer_name, subscription_type, handler_config, tenant_id, created_at, updated_at, version)
			SELECT gen_random_uuid(), id, '%s', 'c', 'redis_consumer', '{}', tenant_id, now(), now(), 1 FROM message_topics`, bound))
	}
	exec(t, pool, `ANALYZE message_topics`, `ANALYZE message_records`, `ANALYZE message_subscriptions`)
	tenantID := texts(t, pool, `SELECT md5('1')::uuid::text`)[0]
	messageID := bounds[1] + "-7000-9000-000000000001"
	page := queries.Page{Limit: 50}
	today := queries.MessageFilter{From: now, To: now.Add(time.Second), IDFrom: bounds[1], IDTo: MessageIDBound(now.Add(time.Second))}
	for name, run := range map[string]func(queries.DB) error{
		"queues": func(db queries.DB) error {
			_, _, err := queries.Queues(t.Context(), db, tenantID, queries.Page{Limit: 5, After: []string{"n1"}})
			return err
		},
		"queue": func(db queries.DB) error { _, err := queries.QueueByName(t.Context(), db, tenantID, "n1"); return err },
		"messages": func(db queries.DB) error {
			_, _, err := queries.Messages(t.Context(), db, tenantID, queries.MessageFilter{}, page)
			return err
		},
		"messages of a day, a later page": func(db queries.DB) error {
			_, _, err := queries.Messages(t.Context(), db, tenantID, today, queries.Page{Limit: 50, After: []string{messageID}})
			return err
		},
		"message": func(db queries.DB) error {
			_, err := queries.MessageByID(t.Context(), db, tenantID, messageID)
			return err
		},
		"attempts": func(db queries.DB) error {
			_, err := queries.Attempts(t.Context(), db, tenantID, messageID)
			return err
		},
		"events": func(db queries.DB) error {
			_, _, err := queries.MessageEvents(t.Context(), db, tenantID, messageID, page)
			return err
		},
		"subscriptions": func(db queries.DB) error {
			_, _, err := queries.Subscriptions(t.Context(), db, tenantID, queries.SubscriptionFilter{}, page)
			return err
		},
	} {
		without := explain(t, pool, run)
		require.NotEmpty(t, used(indexUsed, without), without)
		for _, db := range []TenantDB{ForTenant(pool, tenantID), AllTenants(pool)} {
			behind := explain(t, db, run)
			require.Contains(t, behind, "InitPlan", "the policy is evaluated once: %s", name)
			require.Equal(t, used(indexUsed, without), used(indexUsed, behind), "%s\n%s\n%s", name, without, behind)
			require.Equal(t, used(tableRead, without), used(tableRead, behind), "%s\n%s\n%s", name, without, behind)
		}
	}
	// a day's messages are looked for in its partition alone
	plan := explain(t, ForTenant(pool, tenantID), func(db queries.DB) error {
		_, err := tryTexts(t.Context(), db, `SELECT message_id FROM message_records WHERE message_id >= $1 AND message_id < $2`, today.IDFrom, today.IDTo)
		return err
	})
	require.Equal(t, []string{"message_records_" + now.UTC().Format(nameLayout)}, used(tableRead, plan), plan)
}
