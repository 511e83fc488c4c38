package main

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/redis"
)

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
	slices.Sort(keys)
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
