package events

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	seqLast = 1<<20 - 1
	msLast  = 1<<43 - 1
)

func TestPositionsPackAndSortAsLogEntriesDo(t *testing.T) {
	t.Parallel()
	// in the order of the log
	entries := [][2]int64{
		{0, 0}, {0, 1}, {0, seqLast}, {1, 0}, {1, 1}, {1767323045006, 0}, {1767323045006, 12}, {1767323045007, 0}, {msLast, 0}, {msLast, seqLast},
	}
	last := Position(-1)
	for _, e := range entries {
		p := MakePosition(e[0], e[1])
		require.Equal(t, e[0], p.Ms())
		require.Equal(t, e[1], p.Seq())
		require.Greater(t, p, last)
		require.Equal(t, time.UnixMilli(e[0]).UTC(), p.Time())
		last = p
	}
	// the packing is permanent: Postgres holds positions
	require.Equal(t, Position(1767323045006<<20|12), MakePosition(1767323045006, 12))
	require.Equal(t, Position(math.MaxInt64), MakePosition(msLast, seqLast))
}

func TestPositionsHaveLimits(t *testing.T) {
	t.Parallel()
	for _, e := range [][2]int64{{-1, 0}, {0, -1}, {0, seqLast + 1}, {msLast + 1, 0}, {math.MaxInt64, 0}, {0, math.MaxInt64}} {
		require.False(t, IsPosition(e[0], e[1]))
		require.Panics(t, func() { MakePosition(e[0], e[1]) }, "%v", e)
	}
	require.True(t, IsPosition(msLast, seqLast))
}

// Stored data are placed by these: if they change, every store is lost.
func TestShardsArePermanent(t *testing.T) {
	t.Parallel()
	const other = "7f1c3f0e-52b4-4c0a-9d7e-3f6f0d6f1a11"
	for _, tc := range []struct {
		tenant, name         string
		of4, of64, of1, of60 int
	}{
		{topicID, "orders", 0, 56, 0, 44},
		{topicID, "a", 0, 24, 0, 8},
		{topicID, "orders.dead-letters_2", 1, 53, 0, 1},
		{other, "orders", 2, 50, 0, 22},
		{"", "", 3, 31, 0, 15},
	} {
		require.Equal(t, []int{tc.of1, tc.of4, tc.of60, tc.of64},
			[]int{ShardOf(tc.tenant, tc.name, 1), ShardOf(tc.tenant, tc.name, 4), ShardOf(tc.tenant, tc.name, 60), ShardOf(tc.tenant, tc.name, 64)},
			"%s %s", tc.tenant, tc.name)
	}
	// tenant and name do not run into one another
	require.NotEqual(t, ShardOf("ab", "c", 1<<30), ShardOf("a", "bc", 1<<30))
}

func TestShardsAreUsedEvenly(t *testing.T) {
	t.Parallel()
	const topics, shards = 4000, 4
	var used [shards]int
	for n := range topics {
		used[ShardOf(topicID, "queue-"+string(rune('a'+n%26))+time.UnixMilli(int64(n)).Format("150405.000"), shards)]++
	}
	for _, n := range used {
		require.InDelta(t, topics/shards, n, topics/shards/5.0)
	}
}

func TestRefsNameWhatAnEventIsAbout(t *testing.T) {
	t.Parallel()
	of := map[Kind]Refs{
		KindTopicCreated:        {TopicID: topicID},
		KindTopicUpdated:        {TopicID: topicID},
		KindTopicPurged:         {TopicID: topicID},
		KindTopicDeleted:        {TopicID: topicID},
		KindSubscriptionCreated: {TopicID: topicID, SubscriptionID: subscriptionID},
		KindSubscriptionUpdated: {TopicID: topicID, SubscriptionID: subscriptionID},
		KindSubscriptionPaused:  {TopicID: topicID, SubscriptionID: subscriptionID},
		KindSubscriptionResumed: {TopicID: topicID, SubscriptionID: subscriptionID},
		KindSubscriptionDeleted: {TopicID: topicID, SubscriptionID: subscriptionID},
		KindMessagePublished:    {TopicID: topicID, MessageID: messageID},
		KindMessageConsumed:     {TopicID: topicID, SubscriptionID: subscriptionID, MessageID: messageID},
		KindMessageFailed:       {TopicID: topicID, SubscriptionID: subscriptionID, MessageID: messageID},
		KindMessageDeadLettered: {TopicID: topicID, SubscriptionID: subscriptionID, MessageID: messageID},
		KindSubscriptionStopped: {TopicID: topicID, SubscriptionID: subscriptionID},
		KindSubscriptionSought:  {TopicID: topicID, SubscriptionID: subscriptionID},
		KindScheduleCreated:     {TopicID: topicID},
		KindSchedulePaused:      {TopicID: topicID},
		KindScheduleResumed:     {TopicID: topicID},
		KindScheduleDeleted:     {TopicID: topicID},
		KindMessageScheduled:    {TopicID: topicID, MessageID: messageID},
		KindMessageReleased:     {TopicID: topicID, MessageID: messageID},
		KindMessageCancelled:    {TopicID: topicID, MessageID: messageID},
		KindMessageFiltered:     {TopicID: topicID, SubscriptionID: subscriptionID, MessageID: messageID},
		KindMessageExpired:      {TopicID: topicID, SubscriptionID: subscriptionID, MessageID: messageID},
		KindMessageRedriven:     {TopicID: topicID, SubscriptionID: subscriptionID, MessageID: messageID},
		KindMessageErased:       {TopicID: topicID, MessageID: messageID},
		KindTopicRetained:       {TopicID: topicID},
	}
	require.Len(t, of, len(kinds(t)))
	for name, e := range examples() {
		require.Equal(t, of[e.Kind()], RefsOf(e), name)
	}
	require.Panics(t, func() { RefsOf(nil) })
}
