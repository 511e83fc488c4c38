package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
)

func TestAGroupReadsAllFromTheBeginningAndThenFollows(t *testing.T) {
	t.Parallel()
	s := setup(t, 2)
	// given history, of which some is there before and some is written meanwhile
	for shard, l := range s.logs {
		l.create(tenant)
		l.publish(250)
		s.awaitFolded(shard)
	}
	sub := s.open(Config{Group: "audit"})
	require.Equal(t, []string{"history-0", "history-1"}, sub.Topics())
	var first, second heard
	first.follow(t, sub, 0, 1)
	var writing sync.WaitGroup
	for _, l := range s.logs {
		writing.Go(func() {
			for range 50 {
				l.publish(5)
			}
		})
	}
	// then every group has every event of each shard, once, in order
	second.follow(t, s.open(Config{Group: "billing", BatchEvents: 7}), 0, 1)
	writing.Wait()
	for shard, l := range s.logs {
		for _, h := range []*heard{&first, &second} {
			h.await(t, shard, 501)
			requireRecords(t, l.all(), h.of(shard))
		}
	}
	// and what comes while it waits
	s.logs[0].publish(1)
	first.await(t, 0, 502)
	require.Len(t, first.of(1), 501)
}

func TestAReaderGoesOnBehindItsLastAck(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(cancel func(), sub *Subscriber){
		"closed":   func(_ func(), sub *Subscriber) { require.NoError(t, sub.Close()) },
		"canceled": func(cancel func(), _ *Subscriber) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t, 1)
			s.logs[0].publish(60)
			s.awaitFolded(0)
			var h heard
			// given one that ends with the 26th of a batch in hand
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			sub := s.open(Config{Group: "audit"})
			messages, err := sub.Subscribe(ctx, Topic(0))
			require.NoError(t, err)
			for range 25 {
				m := <-messages
				h.add(Topic(0), m)
				require.True(t, m.Ack())
			}
			<-messages
			end(cancel, sub)
			for range messages {
				require.Fail(t, "no more is delivered")
			}
			// then the next one begins with that one
			h.follow(t, s.open(Config{Group: "audit"}), 0)
			h.await(t, 0, 60)
			requireRecords(t, s.logs[0].all(), h.of(0))
			_, err = sub.Subscribe(t.Context(), Topic(0))
			if name == "closed" {
				require.ErrorContains(t, err, "closed")
			}
		})
	}
}

func TestANackComesAgainBeforeWhatFollows(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.logs[0].publish(30)
	messages, err := s.open(Config{Group: "audit", BatchEvents: 10}).Subscribe(t.Context(), Topic(0))
	require.NoError(t, err)
	for n, r := range s.logs[0].all() {
		// the last of a batch, and others, three times
		for range 3 * min(1, max(0, n%5-3)) {
			m := <-messages
			require.Equal(t, r.ID, m.UUID)
			require.True(t, m.Nack())
		}
		m := <-messages
		require.Equal(t, r.ID, m.UUID)
		require.True(t, m.Ack())
	}
}

func TestWhatIsNotAckedInTimeComesAgain(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.logs[0].publish(3)
	messages, err := s.open(Config{Group: "audit", AckDeadline: 50 * time.Millisecond}).Subscribe(t.Context(), Topic(0))
	require.NoError(t, err)
	all := s.logs[0].all()
	m := <-messages
	m.Ack()
	late := <-messages
	<-late.Context().Done() // its handler is told
	again := <-messages
	require.Equal(t, []string{all[0].ID, all[1].ID, all[1].ID}, []string{m.UUID, late.UUID, again.UUID})
	again.Ack()
	late.Nack() // says nothing any more
	require.Equal(t, all[2].ID, (<-messages).UUID)
}

func TestSubscribersOfAGroupShareInOrder(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	var h heard
	subs := []*Subscriber{s.open(Config{Group: "audit", BatchEvents: 10}), s.open(Config{Group: "audit", BatchEvents: 10}), s.open(Config{Group: "audit", BatchEvents: 10})}
	for _, sub := range subs {
		h.follow(t, sub, 0)
	}
	// a second subscription of the same subscriber waits as well
	h.follow(t, subs[0], 0)
	for n := range 100 {
		s.logs[0].publish(10)
		// two end, so the third has to take over at some point
		if n == 33 || n == 66 {
			h.await(t, 0, 10*n+10)
			require.NoError(t, subs[n/33-1].Close())
		}
	}
	h.await(t, 0, 1000)
	all, got := s.logs[0].all(), h.of(0)
	// what a closed one had in hand, acked at that moment, may come twice
	var once []*message.Message
	for _, m := range got {
		if len(once) > 0 && once[len(once)-1].UUID == m.UUID {
			continue
		}
		once = append(once, m)
	}
	require.LessOrEqual(t, len(got)-len(once), 2)
	requireRecords(t, all[:len(once)], once)
}

// The sessions of a group's readers end as their machine's end would.
func TestAnotherReadsOnWhereASessionWasLost(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.logs[0].publish(200)
	s.awaitFolded(0)
	messages, err := s.open(Config{Group: "audit", BatchEvents: 50}).Subscribe(t.Context(), Topic(0))
	require.NoError(t, err)
	for range 70 {
		(<-messages).Ack()
	}
	held := <-messages
	// its lock is gone with the session: another reads, from the last offset that was saved
	s.exec(`SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = 'tallymq history'
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('tallymq:history:' || current_schema() || ':audit:', 0)`)
	var h heard
	h.follow(t, s.open(Config{Group: "audit"}), 0)
	h.await(t, 0, 150)
	requireRecords(t, s.logs[0].all()[50:], h.of(0))
	// and the first cannot move the offset back
	held.Ack()
	go func() {
		for m := range messages {
			m.Ack()
		}
	}()
	s.logs[0].publish(1)
	require.Eventually(t, func() bool {
		var at int64
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT position FROM history_readers`).Scan(&at))
		return at == int64(s.logs[0].all()[200].Position)
	}, time.Minute, 5*time.Millisecond)
}

// A transaction that stays open for long, and writes, stalls watermill-sql's own schema.
func TestOpenTransactionsElsewhereDoNotStallAReader(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.exec(`CREATE TABLE elsewhere (n INT)`)
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `INSERT INTO elsewhere VALUES (1)`)
	require.NoError(t, err)
	s.logs[0].publish(20)
	var h heard
	h.follow(t, s.open(Config{Group: "audit"}), 0)
	h.await(t, 0, 20)
	requireRecords(t, s.logs[0].all(), h.of(0))
}

// Partitions are made and dropped, and vacuum cleans, while a handler takes its time.
func TestAHandlerHoldsNothingUp(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.logs[0].publish(20)
	s.awaitFolded(0)
	sub := s.open(Config{Group: "audit"})
	messages, err := sub.Subscribe(t.Context(), Topic(0))
	require.NoError(t, err)
	(<-messages).Ack()
	held := <-messages
	var transactions, locks int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE a.xact_start IS NOT NULL OR a.backend_xmin IS NOT NULL), count(*) FILTER (WHERE l.locktype <> 'advisory')
		FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE a.pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
			AND (classid::bigint << 32 | objid::bigint) = hashtextextended('tallymq:history:' || current_schema() || ':audit:', 0))`).Scan(&transactions, &locks))
	require.Equal(t, []int{0, 0}, []int{transactions, locks})
	require.NoError(t, postgres.EnsurePartitions(t.Context(), s.pool, time.Now().Add(30*24*time.Hour)))
	held.Ack()
	require.Equal(t, s.logs[0].all()[2].ID, (<-messages).UUID)
}

// A handler's own writes and the offset are one transaction.
func TestAHandlerMayWriteInTheOffsetsTransaction(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.exec(`CREATE TABLE audited (id TEXT)`)
	s.logs[0].publish(40)
	s.awaitFolded(0)
	write := func(m *message.Message) {
		tx, ok := sql.TxFromContext(m.Context())
		require.True(t, ok)
		_, err := tx.ExecContext(m.Context(), `INSERT INTO audited VALUES ($1)`, m.UUID)
		require.NoError(t, err)
		// it is as durable as any
		rows, err := tx.QueryContext(m.Context(), `SELECT current_setting('synchronous_commit')`)
		require.NoError(t, err)
		var synchronous string
		require.True(t, rows.Next())
		require.NoError(t, rows.Scan(&synchronous))
		require.NoError(t, rows.Close())
		require.Equal(t, "on", synchronous)
	}
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := s.open(Config{Group: "audit", BatchEvents: 10}).Subscribe(ctx, Topic(0))
	require.NoError(t, err)
	for range 15 {
		m := <-messages
		write(m)
		m.Ack()
	}
	lost := <-messages
	cancel() // it ends with one in hand, of which nothing is written
	for range messages {
		require.Fail(t, "no more is delivered")
	}
	_ = lost
	messages, err = s.open(Config{Group: "audit", BatchEvents: 10}).Subscribe(t.Context(), Topic(0))
	require.NoError(t, err)
	for range 25 {
		m := <-messages
		write(m)
		m.Ack()
	}
	require.Eventually(t, func() bool {
		var all, distinct int
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT id) FROM audited`).Scan(&all, &distinct))
		require.Equal(t, all, distinct)
		return all == 40
	}, time.Minute, 5*time.Millisecond)
}

func TestOneTenantsEvents(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	l := s.logs[0]
	l.create(other)
	l.publish(30)
	l.add(other, events.TopicPurged{TopicID: l.topicID}, newID(t), "null", 2)
	var theirs, all heard
	theirs.follow(t, s.open(Config{Group: "audit", TenantID: other}), 0)
	all.follow(t, s.open(Config{Group: "audit"}), 0)
	theirs.await(t, 0, 2)
	all.await(t, 0, 32)
	records := l.all()
	requireRecords(t, []events.Record{records[0], records[31]}, theirs.of(0))
	requireRecords(t, records, all.of(0))
}

// What is read at once is bounded in bytes, however many events may be.
func TestPagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.exec(`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, message_id, version, occurred_at, metadata, data)
		SELECT 0, n, 'message', gen_random_uuid(), 'message.published', gen_random_uuid(), n, 0, now(), '{}', to_json(repeat('x', 3 << 20)) FROM generate_series(1, 7) n`)
	query := pageQuery(t, reader{group: "audit"}, 100)
	var sizes []int
	for after := 0; after < 7; after += sizes[len(sizes)-1] {
		s.place(reader{group: "audit"}, int64(after))
		rows, err := s.pool.Query(t.Context(), query.Query, query.Args...)
		require.NoError(t, err)
		read, err := pgx.CollectRows(rows, func(pgx.CollectableRow) (int, error) { return 0, nil })
		require.NoError(t, err)
		sizes = append(sizes, len(read))
	}
	require.Equal(t, []int{3, 3, 1}, sizes)
}

// pageQuery is what the library asks for a page.
func pageQuery(t testing.TB, r reader, eventsMax int) sql.Query {
	t.Helper()
	query, err := schema{reader: r, eventsMax: eventsMax}.SelectQuery(sql.SelectQueryParams{OffsetsAdapter: offsets{r}})
	require.NoError(t, err)
	return query
}

func TestWhatASubscriberRefuses(t *testing.T) {
	t.Parallel()
	s := setup(t, 2)
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no group":           {Config{}, "Group must have 1 to 200 characters"},
		"a long group":       {Config{Group: strings.Repeat("ä", 201)}, "Group must have 1 to 200 characters"},
		"a large batch":      {Config{Group: "g", BatchEvents: 1001}, "BatchEvents must be 1 to 1000"},
		"a batch below zero": {Config{Group: "g", BatchEvents: -1}, "BatchEvents must be 1 to 1000"},
		"time below zero":    {Config{Group: "g", AckDeadline: -1}, "AckDeadline must not be negative"},
		"no tenant's id":     {Config{Group: "g", TenantID: "me"}, "TenantID must be a UUID"},
		"no URL":             {Config{Group: "g", DatabaseURL: "postgres://%"}, "DatabaseURL"},
	} {
		if tc.cfg.DatabaseURL == "" {
			tc.cfg.DatabaseURL = s.url
		}
		_, err := Open(t.Context(), tc.cfg)
		require.ErrorContains(t, err, tc.want, name)
	}
	sub := s.open(Config{Group: strings.Repeat("ä", 200), BatchEvents: 1000})
	for _, topic := range []string{"history-2", "history-", "history-01", "history--1", "orders", "1"} {
		_, err := sub.Subscribe(t.Context(), topic)
		require.ErrorContains(t, err, "topic", topic)
	}
	_, err := (schema{}).InsertQuery(sql.InsertQueryParams{})
	require.ErrorIs(t, err, errReadOnly)
	// a user who would silently see a part of it
	var user string
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT 'user_' || current_schema()`).Scan(&user))
	s.exec(`CREATE ROLE ` + user + ` LOGIN IN ROLE tallymq_reader`)
	t.Cleanup(func() { s.cleanUp(`DROP ROLE ` + user) })
	s.exec(`GRANT SELECT ON store_settings TO tallymq_reader`)
	_, err = Open(t.Context(), Config{Group: "g", DatabaseURL: strings.Replace(s.url, "tallymq@", user+"@", 1)})
	require.ErrorContains(t, err, "row-level security")
	// and a store that nobody has used
	s.exec(`DELETE FROM store_settings WHERE name = 'shards'`)
	_, err = Open(t.Context(), Config{Group: "g", DatabaseURL: s.url})
	require.ErrorContains(t, err, "no TallyMQ has used this store yet")
}

func (s *store) cleanUp(sql string) {
	conn, err := pgx.Connect(context.Background(), s.url)
	if err == nil {
		_, err = conn.Exec(context.Background(), sql)
		err = errors.Join(err, conn.Close(context.Background()))
	}
	require.NoError(s.t, err)
}

// Programs that start together make the table together.
func TestSubscribersMayStartTogether(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.logs[0].publish(1)
	var starting sync.WaitGroup
	errs := make([]error, 8)
	for n := range errs {
		starting.Go(func() {
			sub, err := Open(t.Context(), Config{DatabaseURL: s.url, Group: fmt.Sprint("g", n), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				errs[n] = err
				return
			}
			messages, err := sub.Subscribe(t.Context(), Topic(0))
			if err == nil {
				(<-messages).Ack()
			}
			errs[n] = errors.Join(err, sub.Close())
		})
	}
	starting.Wait()
	require.NoError(t, errors.Join(errs...))
}
