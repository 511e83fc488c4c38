package queries

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
)

// member is a subscription and whose it is.
type member struct {
	id     string
	caller commands.Caller
}

// busy does at random all that changes a ledger.
type busy struct {
	*world

	rng     *rand.Rand
	topicID string
	members []member
	held    map[string][]commands.Pulled
	seen    []commands.Pulled
	jobs    int
}

func newBusy(t *testing.T, seed uint64) *busy {
	b := &busy{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, seed)), held: map[string][]commands.Pulled{}} //nolint:gosec // a test's dice
	b.topicID = b.queue("orders", 3, true)
	for n := range 4 {
		b.join(n)
	}
	return b
}

// join makes a member of an ordered, a filtered, a plain or another tenant's group.
func (b *busy) join(kind int) {
	caller, queue := b.caller, "orders"
	if kind == 3 {
		caller.TenantID, queue = tenantID(2), tenantID(1)+":orders"
	}
	id := b.subscribe(caller, queue, fmt.Sprint("g", kind%3), func(c *commands.CreateSubscription) {
		c.OffsetResetPolicy = []string{"earliest", "latest"}[b.rng.IntN(2)]
		switch kind {
		case 0:
			c.HandlerConfig = json.RawMessage(`{"ordered":true}`)
		case 1:
			c.MessageFilter = json.RawMessage(`{}`)
		}
	})
	b.members = append(b.members, member{id, caller})
}

func (b *busy) produce() {
	m := commands.Publish{Payload: json.RawMessage(fmt.Sprint(b.rng.IntN(100))), Key: fmt.Sprint("k", b.rng.IntN(3))}
	switch b.rng.IntN(6) {
	case 0:
		m.TTLMs = new(int64(1 + b.rng.IntN(20)))
	case 1:
		m.DelayMs = new([]int64{1, 10, 1_000_000}[b.rng.IntN(3)])
	}
	if out := b.publish(m); out.ReleaseAtMs > 0 && b.rng.IntN(3) == 0 {
		_, _ = b.CancelMessage(b.t.Context(), b.caller, out.MessageID) // unless its time has come
	}
}

func (b *busy) consume(m member) {
	ctx := b.t.Context()
	if len(b.held[m.id]) == 0 || b.rng.IntN(3) == 0 {
		pulled, err := b.Pull(ctx, m.caller, commands.Pull{SubscriptionID: m.id, MessagesMax: new(1 + b.rng.IntN(6))})
		require.NoError(b.t, err)
		b.held[m.id], b.seen = append(b.held[m.id], pulled...), append(b.seen, pulled...)
		return
	}
	n := b.rng.IntN(len(b.held[m.id]))
	token := []string{b.held[m.id][n].AckToken}
	b.held[m.id] = append(b.held[m.id][:n], b.held[m.id][n+1:]...)
	var err error
	switch b.rng.IntN(5) {
	case 0:
		_, err = b.Nack(ctx, m.caller, commands.Nack{SubscriptionID: m.id, AckTokens: token})
	case 1, 2:
		_, err = b.DeadLetter(ctx, m.caller, m.id, token, "no")
	default:
		_, err = b.Ack(ctx, m.caller, m.id, token)
	}
	require.NoError(b.t, err)
}

// redrive brings messages back, with and without dead letters, as jobs that race do.
func (b *busy) redrive(m member) {
	if len(b.seen) == 0 {
		return
	}
	b.jobs++
	attempt, err := b.ReserveAttempt(b.t.Context(), m.id)
	require.NoError(b.t, err)
	p := b.seen[b.rng.IntN(len(b.seen))]
	_, err = b.Redrive(b.t.Context(), commands.Redrive{SubscriptionID: m.id, JobID: fmt.Sprint("job", b.jobs), Attempt: attempt, Messages: []commands.Redriven{{
		MessageID: p.MessageID, Meta: p.Meta, Payload: p.Payload, Partition: p.Partition, Offset: p.Offset, Position: p.Position, DeadLetters: int64(b.rng.IntN(2)),
	}}})
	require.NoError(b.t, err)
}

// erase erases the payload of a message that is folded.
func (b *busy) erase() {
	var id string
	if b.pool.QueryRow(b.t.Context(), `SELECT message_id FROM message_records ORDER BY md5(message_id || $1::text) LIMIT 1`, fmt.Sprint(b.rng.Int64())).Scan(&id) != nil {
		return // there is none
	}
	m, err := AcceptedMessage(b.t.Context(), b.pool, tenantID(1), id)
	require.NoError(b.t, err)
	stored := commands.StoredMessage{
		MessageID: id, TopicID: m.TopicID, TenantID: m.TenantID, Position: events.Position(m.Position), Partition: m.Partition, Offset: events.OffsetScheduled,
	}
	if m.Offset != nil {
		stored.Offset = *m.Offset
	}
	if m.Key != nil {
		stored.Key = *m.Key
	}
	if _, err = b.EraseMessage(b.t.Context(), b.caller, commands.EraseMessage{Message: stored}); err != nil {
		require.ErrorContains(b.t, err, string(commands.CodeUnavailable)) // it was released since, or taken back
	}
}

func (b *busy) step() {
	ctx, which := b.t.Context(), b.rng.IntN(len(b.members))
	m := b.members[which]
	switch dice := b.rng.IntN(300); {
	case dice < 80:
		b.produce()
	case dice < 90:
		b.erase()
	case dice < 250:
		b.consume(m)
	case dice < 280:
		b.redrive(m)
	case dice < 290:
		to := []string{"earliest", "latest", fmt.Sprint(b.rng.IntN(20)), time.Now().Add(-100 * time.Millisecond).Format(time.RFC3339Nano)}[b.rng.IntN(4)]
		_, err := b.Seek(ctx, m.caller, commands.Seek{SubscriptionID: m.id, To: to})
		require.NoError(b.t, err)
	case dice < 294:
		_, err := b.PurgeQueue(ctx, b.caller, "orders", nil)
		require.NoError(b.t, err)
	case dice < 297:
		b.join(b.rng.IntN(4))
	case len(b.members) > 2:
		_, err := b.DeleteSubscription(ctx, m.caller, m.id, nil)
		require.NoError(b.t, err)
		b.members = append(b.members[:which], b.members[which+1:]...)
	}
}

func (a Account) String() string {
	return a.Group + ": " + fmtInts(a.Published, a.Scheduled, a.Replayed, a.Consumed, a.Dead, a.Filtered, a.Expired, a.Purged)
}

// Whatever happens after a position, the account at the position stays what it was then,
// and it accounts for what Redis had.
func TestTheLedgerIsExactAtAPositionThatHasPassed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			b := newBusy(t, seed)
			db := postgres.AllTenants(b.pool)
			same, moved := 0, 0
			for range 25 {
				for range 60 {
					b.step()
				}
				state := b.state(b.topicID)
				b.foldTo(state.Last)
				then, err := Accounts(t.Context(), db, 0, b.topicID, int64(state.Last))
				require.NoError(t, err)
				require.Len(t, then, len(state.Unsettled))
				for _, a := range then {
					l := Ledger{a, live(state, a.Group)}
					require.True(t, l.Balanced(), "%s %+v", a, l.Live)
				}
				for range b.rng.IntN(60) {
					b.step()
				}
				b.foldAll(b.topicID)
				for _, a := range then {
					again, err := AccountOf(t.Context(), db, 0, b.topicID, a.Group, int64(state.Last))
					if errors.Is(err, ErrMoved) || errors.Is(err, ErrNotFound) {
						moved++
						continue
					}
					require.NoError(t, err)
					require.Equal(t, a.String(), again.String())
					same++
				}
			}
			require.Greater(t, same, 40)
			t.Logf("%d accounts stayed, %d groups began or ended", same, moved)
		})
	}
}

func TestALedgerIsNotToldOfAPositionThatIsNotFolded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topicID := w.queue("orders", 1, false)
	w.subscribe(w.caller, "orders", "g")
	w.foldAll(topicID)
	at := int64(w.state(topicID).Last)
	_, err := AccountOf(t.Context(), w.pool, 0, topicID, "g", at+1)
	require.ErrorIs(t, err, ErrMoved)
	_, err = AccountOf(t.Context(), w.pool, 0, topicID, "other", at)
	require.ErrorIs(t, err, ErrNotFound)
	// the tenant sees it behind the fence too, another one does not
	a, err := AccountOf(t.Context(), postgres.ForTenant(w.pool, tenantID(1)), 0, topicID, "g", at)
	require.NoError(t, err)
	require.Equal(t, Account{Group: "g"}, a)
	_, err = AccountOf(t.Context(), postgres.ForTenant(w.pool, tenantID(2)), 0, topicID, "g", at)
	require.ErrorIs(t, err, ErrNotFound)
}

// plan is how Postgres answers a query, behind the fence.
func plan(t *testing.T, db DB, run func(DB) error) string {
	t.Helper()
	e := &explaining{DB: db, t: t}
	_ = run(e)
	require.Equal(t, 1, e.queries, "one statement")
	return e.plan
}

func (e *explaining) read(rows pgx.Rows, err error) {
	require.NoError(e.t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(e.t, err)
	e.plan += strings.Join(lines, "\n")
}
