package feed

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// mixed is a history of two tenants over all shards, folded: of each tenant in each
// shard a topic q<shard> and messages, some of which failed.
func mixed(b *testBundle, n int) (topics map[string]string, messages []string) {
	topics = map[string]string{}
	for shard, l := range b.logs {
		for _, t := range []string{tenant, other} {
			topics[t+fmt.Sprint(shard)] = l.topic(t, fmt.Sprint("q", shard))
		}
	}
	for i := range n {
		l, t := b.logs[i*7%shards], []string{tenant, other}[i%2]
		topic := topics[t+fmt.Sprint(l.shard)]
		id := l.publish(t, topic, fmt.Sprintf("{\"n\" : %d.0,\n\t\"html\":\"<&>é\\u00e9\"}", i))
		if i%3 == 0 {
			l.failed(t, topic, id)
		}
		if t == tenant {
			messages = append(messages, id)
		}
	}
	b.fold()
	return topics, messages
}

func TestPagesOfAnySizeAreTheWhole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	mixed(b, 20)
	for _, who := range []string{tenant, other, ""} {
		want := recordIDs(b.history(who))
		whole, end := b.page("?limit=500", who)
		require.Equal(t, want, itemIDs(whole))
		again, cursor := b.page("?cursor="+end, who)
		require.Empty(t, again)
		require.Equal(t, end, cursor)
		for limit := 1; limit <= 7; limit++ {
			var got []item
			next := ""
			for {
				page, cursor := b.page(fmt.Sprintf("?limit=%d&cursor=%s", limit, next), who)
				if next = cursor; len(page) == 0 {
					break
				}
				require.LessOrEqual(t, len(page), limit)
				got = append(got, page...)
			}
			require.Equal(t, want, itemIDs(got), "limit %d", limit)
		}
	}
	// whoever has read everything comes back with the same cursor for what came since
	_, end := b.page("?limit=500", tenant)
	l := b.logs[2]
	id := l.publish(tenant, l.topic(tenant, "later"), "1")
	l.fold()
	news, _ := b.page("?cursor="+end, tenant)
	require.Len(t, news, 2)
	require.Equal(t, id, news[1].ID)
}

func TestEventsAreCloudEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	mixed(b, 12)
	status, body := b.get("?limit=500", tenant)
	require.Equal(t, http.StatusOK, status)
	var p pageBody
	require.NoError(t, json.Unmarshal(body, &p))
	history := b.history(tenant)
	require.Len(t, p.Data, len(history))
	for i, r := range history {
		var e cloudevents.Event
		require.NoError(t, json.Unmarshal(p.Data[i], &e))
		require.NoError(t, e.Validate())
		refs := events.RefsOf(r.Event)
		require.Equal(t, "1.0", e.SpecVersion())
		require.Equal(t, r.ID, e.ID())
		require.Equal(t, "/tenants/"+tenant+"/queues/"+refs.TopicID, e.Source())
		require.Equal(t, "tallymq."+string(r.Event.Kind()), e.Type())
		require.Equal(t, r.Position.Time(), e.Time())
		require.Equal(t, "application/json", e.DataContentType())
		require.Contains(t, string(p.Data[i]), `,"data":`+string(r.Data)+"}", "byte for byte")
		want := map[string]any{
			"tenantid": tenant, "shard": int32(r.Shard & 63), "position": strconv.FormatInt(int64(r.Position), 10), "topicid": refs.TopicID,
			"actor": r.Meta.Actor, "traceparent": r.Meta.TraceParent,
		}
		subject := refs.TopicID
		if refs.SubscriptionID != "" {
			want["subscriptionid"], subject = refs.SubscriptionID, refs.SubscriptionID
		}
		if refs.MessageID != "" {
			want["messageid"], subject = refs.MessageID, refs.MessageID
		}
		require.Equal(t, want, e.Extensions())
		require.Equal(t, subject, e.Subject())
	}
	require.NotContains(t, string(body), "secret", "idempotency keys are the caller's own")
}

func TestFiltersNarrowTheFeed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topics, messages := mixed(b, 24)
	matching := func(pass func(r events.Record) bool) (want []string) {
		for _, r := range b.history(tenant) {
			if pass(r) {
				want = append(want, r.ID)
			}
		}
		require.NotEmpty(t, want)
		return want
	}
	kind := func(kinds ...events.Kind) func(events.Record) bool {
		return func(r events.Record) bool {
			for _, k := range kinds {
				if r.Event.Kind() == k {
					return true
				}
			}
			return false
		}
	}
	ofTopic := func(r events.Record) bool { return events.RefsOf(r.Event).TopicID == topics[tenant+"2"] }
	ofMessage := func(r events.Record) bool { return events.RefsOf(r.Event).MessageID == messages[3] }
	for query, pass := range map[string]func(events.Record) bool{
		"type=message.failed":                          kind(events.KindMessageFailed),
		"type=tallymq.message.failed":                  kind(events.KindMessageFailed),
		"type=message.*":                               kind(events.KindMessagePublished, events.KindMessageFailed),
		"type=topic.":                                  kind(events.KindTopicCreated),
		"type=topic.created,%20message.failed,topic.*": kind(events.KindTopicCreated, events.KindMessageFailed),
		"queue=q2":                                     ofTopic,
		"queue=q2&type=message.failed":                 func(r events.Record) bool { return ofTopic(r) && kind(events.KindMessageFailed)(r) },
		"messageId=" + messages[3]:                     ofMessage,
		"messageId=" + messages[3] + "&type=message.":  ofMessage,
	} {
		want := matching(pass)
		var got []item
		for next := ""; ; {
			page, cursor := b.page("?limit=2&"+query+"&cursor="+next, tenant)
			if next = cursor; len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		require.Equal(t, want, itemIDs(got), query)
	}
	for _, query := range []string{"messageId=" + messages[3] + "&type=topic.*", "type=subscription.*", "messageId=" + newID(t)} {
		page, _ := b.page("?"+query, tenant)
		require.Empty(t, page, query)
	}
	// another tenant sees nothing of it
	page, _ := b.page("?messageId="+messages[3], other)
	require.Empty(t, page)
	page, _ = b.page("", newID(t))
	require.Empty(t, page)
	// all tenants' feed names a queue with its tenant
	page, _ = b.page("?queue="+tenant+":q2", "")
	require.Equal(t, matching(ofTopic), itemIDs(page))
}

func TestTheFeedBeginsWhereAsked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, messages := mixed(b, 6)
	page, now := b.page("?from=now", tenant)
	require.Empty(t, page)
	// something later than all that is there
	first := time.Now()
	require.Eventually(t, func() bool { return time.Now().UnixMilli() > first.UnixMilli()+1 }, time.Minute, time.Millisecond)
	since := time.Now().UTC()
	id := b.logs[1].publish(tenant, newID(t), "1")
	b.fold()
	for _, query := range []string{"?cursor=" + now, "?from=" + url.QueryEscape(since.Format(time.RFC3339Nano)), "?from=earliest&cursor=" + now} {
		page, _ = b.page(query, tenant)
		require.Equal(t, []string{id}, itemIDs(page), query)
	}
	for _, query := range []string{"", "?from=earliest", "?from=2020-01-01T00:00:00%2B02:00"} {
		page, _ = b.page(query, tenant)
		require.Equal(t, recordIDs(b.history(tenant)), itemIDs(page), query)
	}
	// from the future on there is nothing, and what comes before it is left out
	page, next := b.page("?from=2200-01-01T00:00:00Z", tenant)
	require.Empty(t, page)
	page, _ = b.page("?cursor="+next, tenant)
	require.Empty(t, page)
	require.NotEmpty(t, messages)
}

func TestAQueuesFeedGoesOnBehindItsDeletion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topics, _ := mixed(b, 4)
	_, cursor := b.page("?queue=q1", tenant)
	id := topics[tenant+"1"]
	b.logs[1].add(tenant, newID(t), 2, events.TopicDeleted{TopicID: id, Name: "q1"})
	b.fold()
	page, _ := b.page("?queue=q1&cursor="+cursor, tenant)
	require.Len(t, page, 1)
	require.Equal(t, "tallymq.topic.deleted", page[0].Type)
}
