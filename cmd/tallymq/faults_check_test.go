package main

import (
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

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
	verifying = time.Now()
	sealed, err := projections.VerifySeals(r.t.Context(), r.database(), projections.VerifyOptions{Shards: 4})
	require.NoError(r.t, err)
	require.True(r.t, sealed.OK(), sealed.Findings)
	r.t.Logf("%d events under %d seals verified in %s", sealed.Events, sealed.Seals, time.Since(verifying).Round(time.Millisecond))
}

// complainf fails the test and tells of a message, unless enough was told.
func (r *faultRun) complainf(message, format string, args ...any) {
	r.t.Helper()
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
			r.complainf(m.id, "%s stands at %d/%d, the next one at %d/%d", m.name, a.partition, a.offset, b.partition, b.offset)
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
				r.complainf(m.id, "%s: %s: attempts are %+v", sub, m.name, of[m.id])
				break
			}
		}
		isDead := of.last(m.id).status == "failed"
		if !of.last(m.id).isFinal() || (isDead && !m.doomed) || (isPushed && isDead != m.doomed) {
			r.complainf(m.id, "%s: %s ended as %+v, doomed %t", sub, m.name, of.last(m.id), m.doomed)
		}
		if !isPushed && !isDead && !r.ledger.acked[sub][m.id] {
			r.complainf(m.id, "%s: %s counts as consumed, and nobody acknowledged it", sub, m.name)
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
			r.complainf(s.message, "%s saw attempt %d twice", h.name, s.attempt)
		}
		seen[name] = s
		if s.at.Before(r.messages[s.message].notBefore) {
			r.complainf(s.message, "%s saw it too early, at %s", h.name, s.at)
		}
		if s.attempt < 1 || s.attempt > len(of[s.message]) {
			r.complainf(s.message, "%s saw attempt %d, which is not recorded", h.name, s.attempt)
		}
	}
	for id, all := range of {
		for _, a := range all {
			s, wasSeen := seen[attemptName{id, a.attempt}]
			if a.status == "success" && (!s.mayCount || a.code != http.StatusOK) {
				r.complainf(id, "%s: attempt %d counts, status %d; seen: %t, %s", h.name, a.attempt, a.code, wasSeen, s)
			}
			if wasSeen && a.reason == "released" {
				r.complainf(id, "%s saw attempt %d, which is recorded as not sent", h.name, a.attempt)
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
				r.complainf(p.id, "%s saw offset %d of key %s before offset %d was settled", h.name, p.offset, p.key, ahead.offset)
			}
		}
	}
}
