package main

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
)

// faultComplaintsMax bounds what is told of a round: the first say it all.
const faultComplaintsMax = 5

// recorded is how an attempt ended, as the read tables have it.
type recorded struct {
	attempt        int
	status, reason string
	code           int
	at             time.Time
}

func (a recorded) isFinal() bool { return a.status == "success" || a.status == "failed" }

// attempts are those of a subscription's messages, each's in order.
type attempts map[string][]recorded

// last is how a message ended.
func (a attempts) last(id string) recorded {
	all := a[id]
	if len(all) == 0 {
		return recorded{}
	}
	return all[len(all)-1]
}

// check holds a round against what the endpoints saw.
func (r *faultRun) check(round []sent) {
	conn := r.database()
	r.checkStored(conn)
	r.checkOrderOfPublishing(conn, round)
	of := r.attempts(conn)
	for _, h := range r.hooks {
		r.checkEndings(h.id, round, of[h.id], true)
		r.checkSightings(h, of[h.id])
		if h.ordered {
			r.checkOrder(conn, h, of[h.id])
		}
	}
	r.checkEndings(r.pulled, round, of[r.pulled], false)
	for _, h := range r.hooks {
		r.checkLedger(h.id)
	}
	r.checkLedger(r.pulled)
	r.checkRedis()
	verifying := time.Now()
	report, err := projections.Verify(r.t.Context(), r.database(), projections.VerifyOptions{Shards: 4, Batch: 5000})
	require.NoError(r.t, err)
	require.True(r.t, report.OK(), report)
	r.t.Logf("%d events verified in %s", report.Events, time.Since(verifying).Round(time.Millisecond))
}

// complain fails the test and tells of a message, unless enough was told.
func (r *faultRun) complain(message, format string, args ...any) {
	r.t.Errorf("%s\n%s", fmt.Sprintf(format, args...), r.describe(message))
	if r.complaints++; r.complaints >= faultComplaintsMax {
		require.FailNow(r.t, "that is enough")
	}
}

// checkStored: what was acknowledged is there, once, and nothing else; offsets have no
// gaps.
func (r *faultRun) checkStored(conn *pgx.Conn) {
	rows, err := conn.Query(r.t.Context(), `SELECT payload->>'name', message_id FROM message_records`)
	require.NoError(r.t, err)
	stored := map[string]string{}
	var name, id string
	_, err = pgx.ForEachRow(rows, []any{&name, &id}, func() error {
		if before, twice := stored[name]; twice {
			return fmt.Errorf("%s is stored twice: %s and %s", name, before, id)
		}
		stored[name] = id
		return nil
	})
	require.NoError(r.t, err)
	require.True(r.t, maps.Equal(r.ledger.acknowledged, stored), "acknowledged %d, stored %d", len(r.ledger.acknowledged), len(stored))
	var gaps int
	require.NoError(r.t, conn.QueryRow(r.t.Context(), `SELECT count(*) FROM (SELECT 1 FROM message_records GROUP BY partition_id
		HAVING count(*) <> max(offset_value) + 1 OR count(DISTINCT offset_value) <> count(*)) g`).Scan(&gaps))
	require.Zero(r.t, gaps)
}

// place is where a message stands.
type place struct {
	id, key           string
	partition, offset int64
}

// places are those of all messages, by key, in order.
func (r *faultRun) places(conn *pgx.Conn) map[string][]place {
	rows, err := conn.Query(r.t.Context(), `SELECT message_id, message_key, partition_id, offset_value FROM message_records ORDER BY partition_id, offset_value`)
	require.NoError(r.t, err)
	all := map[string][]place{}
	var p place
	_, err = pgx.ForEachRow(rows, []any{&p.id, &p.key, &p.partition, &p.offset}, func() error {
		all[p.key] = append(all[p.key], p)
		return nil
	})
	require.NoError(r.t, err)
	return all
}

// checkOrderOfPublishing: what a producer published one after the other stands so.
func (r *faultRun) checkOrderOfPublishing(conn *pgx.Conn, round []sent) {
	at := map[string]place{}
	for _, places := range r.places(conn) {
		for _, p := range places {
			at[p.id] = p
		}
	}
	for _, m := range round {
		a, b := at[m.id], at[m.next]
		if m.next != "" && (a.partition != b.partition || a.offset >= b.offset) {
			r.complain(m.id, "%s stands at %d/%d, the next one at %d/%d", m.name, a.partition, a.offset, b.partition, b.offset)
		}
	}
}

// attempts are those that the read tables have, by subscription.
func (r *faultRun) attempts(conn *pgx.Conn) map[string]attempts {
	rows, err := conn.Query(r.t.Context(), `SELECT subscription_id::text, message_id, attempt, status, coalesce(reason, ''), coalesce(status_code, 0), processed_at
		FROM consumption_records ORDER BY subscription_id, message_id, attempt`)
	require.NoError(r.t, err)
	of := map[string]attempts{}
	var sub, message string
	var a recorded
	_, err = pgx.ForEachRow(rows, []any{&sub, &message, &a.attempt, &a.status, &a.reason, &a.code, &a.at}, func() error {
		if of[sub] == nil {
			of[sub] = attempts{}
		}
		of[sub][message] = append(of[sub][message], a)
		return nil
	})
	require.NoError(r.t, err)
	return of
}

// checkEndings: each message ended once, after attempts numbered without gaps, and only
// what no endpoint takes is dead.
func (r *faultRun) checkEndings(sub string, round []sent, of attempts, isPushed bool) {
	for _, m := range round {
		for n, a := range of[m.id] {
			if a.attempt != n+1 || a.isFinal() != (n == len(of[m.id])-1) {
				r.complain(m.id, "%s: %s: attempts are %+v", sub, m.name, of[m.id])
				break
			}
		}
		isDead := of.last(m.id).status == "failed"
		if !of.last(m.id).isFinal() || (isDead && !m.doomed) || (isPushed && isDead != m.doomed) {
			r.complain(m.id, "%s: %s ended as %+v, doomed %t", sub, m.name, of.last(m.id), m.doomed)
		}
		if !isPushed && !isDead && !r.ledger.acked[sub][m.id] {
			r.complain(m.id, "%s: %s counts as consumed, and nobody acknowledged it", sub, m.name)
		}
	}
}

// attemptName is a message's attempt.
type attemptName struct {
	message string
	attempt int
}

// checkSightings: an endpoint saw no attempt twice and none that is not recorded, and what
// counts as consumed it took.
func (r *faultRun) checkSightings(h hook, of attempts) {
	seen := map[attemptName]sighting{}
	for _, s := range h.endpoint.sightings() {
		name := attemptName{s.message, s.attempt}
		if _, twice := seen[name]; twice {
			r.complain(s.message, "%s saw attempt %d twice", h.name, s.attempt)
		}
		seen[name] = s
		if s.at.Before(r.messages[s.message].notBefore) {
			r.complain(s.message, "%s saw it too early, at %s", h.name, s.at)
		}
		if s.attempt < 1 || s.attempt > len(of[s.message]) {
			r.complain(s.message, "%s saw attempt %d, which is not recorded", h.name, s.attempt)
		}
	}
	for id, all := range of {
		for _, a := range all {
			s, wasSeen := seen[attemptName{id, a.attempt}]
			if a.status == "success" && (!s.mayCount || a.code != http.StatusOK) {
				r.complain(id, "%s: attempt %d counts, status %d; seen: %t, %s", h.name, a.attempt, a.code, wasSeen, s)
			}
			if wasSeen && a.reason == "released" {
				r.complain(id, "%s saw attempt %d, which is recorded as not sent", h.name, a.attempt)
			}
		}
	}
}

// checkOrder: of each key nothing was sent before the message ahead of it was settled.
func (r *faultRun) checkOrder(conn *pgx.Conn, h hook, of attempts) {
	type span struct{ first, last time.Time }
	spans := map[string]span{}
	for _, s := range h.endpoint.sightings() {
		if _, seen := spans[s.message]; !seen {
			spans[s.message] = span{s.at, s.at}
		}
		spans[s.message] = span{spans[s.message].first, s.at}
	}
	for _, places := range r.places(conn) {
		for n, p := range places[min(1, len(places)):] {
			ahead := places[n]
			before, after := spans[ahead.id], spans[p.id]
			settled := of.last(ahead.id).at
			if after.first.Before(before.last) || after.first.Before(settled) {
				r.t.Errorf("ahead, settled at %s, is %s", settled.Format("05.000"), r.describe(ahead.id))
				r.complain(p.id, "%s saw offset %d of key %s before offset %d was settled", h.name, p.offset, p.key, ahead.offset)
			}
		}
	}
}

// ledgerAnswer is what a subscription's ledger says.
type ledgerAnswer struct {
	Published, Replayed, Consumed, InFlight, Waiting, Scheduled, Retrying, Dead, Filtered, Expired, Purged int64
	Balanced                                                                                               bool
}

func (a ledgerAnswer) adds() bool {
	return a.Published+a.Replayed == a.Consumed+a.InFlight+a.Waiting+a.Scheduled+a.Retrying+a.Dead+a.Filtered+a.Expired+a.Purged
}

// checkLedger: the ledger of a subscription that is through with everything.
func (r *faultRun) checkLedger(sub string) {
	var a ledgerAnswer
	status, err := r.read("/subscriptions/"+sub+"/ledger", &a)
	require.NoError(r.t, err)
	require.Equal(r.t, http.StatusOK, status)
	require.True(r.t, a.Balanced && a.adds(), "%+v", a)
	require.Equal(r.t, int64(len(r.ledger.acknowledged)), a.Published, "%+v", a)
	require.Equal(r.t, a.Published, a.Consumed+a.Dead, "%+v", a)
}

// watchLedgers: whenever a ledger answers, it balances.
func (r *faultRun) watchLedgers(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		h := r.hooks[rand.IntN(len(r.hooks))] //nolint:gosec // a test's dice
		var a ledgerAnswer
		status, err := r.read("/subscriptions/"+h.id+"/ledger", &a)
		if err != nil || status == http.StatusServiceUnavailable {
			continue
		}
		if status != http.StatusOK || !a.Balanced || !a.adds() {
			r.t.Errorf("the ledger of %s answers %d %+v", h.name, status, a)
			return
		}
		r.ledgers.Add(1)
	}
}

// checkRedis: of a queue that is settled Redis has its counters, and nothing that waits,
// is held or due.
func (r *faultRun) checkRedis() {
	ctx := r.t.Context()
	client, err := redis.Open(r.stores.redis.URL())
	require.NoError(r.t, err)
	defer func() { _ = client.Close() }()
	want := strconv.Itoa(len(r.ledger.acknowledged))
	keys, err := client.Keys(ctx, "mq:{*}:*").Result()
	require.NoError(r.t, err)
	slices.SortFunc(keys, cmp.Compare)
	for _, key := range keys {
		_, name, _ := strings.Cut(key, "}:")
		switch kind, _, _ := strings.Cut(name, ":"); kind {
		case "due":
			members, err := client.ZRange(ctx, key, 0, 5).Result()
			require.NoError(r.t, err)
			require.Empty(r.t, members, key)
		case "parked", "busy", "held", "scheduled", "outbox":
			require.Fail(r.t, "there is something left", key)
		case "waiting", "heldn":
			counts, err := client.HGetAll(ctx, key).Result()
			require.NoError(r.t, err)
			for group, n := range counts {
				require.Equal(r.t, "0", n, "%s %s", key, group)
			}
		case "groups":
			counts, err := client.HGetAll(ctx, key).Result()
			require.NoError(r.t, err)
			require.Len(r.t, counts, len(r.hooks)+1)
			for group, n := range counts {
				require.Equal(r.t, want, n, "%s %s", key, group)
			}
		case "topic":
			fields, err := client.HGetAll(ctx, key).Result()
			require.NoError(r.t, err)
			if fields["n"] != "" { // the service has queues of its own
				require.Equal(r.t, []string{want, "0"}, []string{fields["n"], fields["sc"]}, "%s %v", key, fields)
			}
		}
	}
}
