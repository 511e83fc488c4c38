package history

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
)

const day = 24 * time.Hour

// output is a log that a test reads while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// keep drops what is older, as retention does.
func (s *store) keep(age time.Duration) time.Time {
	s.t.Helper()
	require.NoError(s.t, postgres.DropExpired(s.t.Context(), s.pool, time.Now(), age, slog.New(slog.DiscardHandler)))
	text, err := postgres.Setting(s.t.Context(), s.pool, horizonSetting)
	require.NoError(s.t, err)
	horizon, err := time.Parse(time.RFC3339, text)
	require.NoError(s.t, err)
	return horizon
}

// age sets the time of the next events.
func (l *log) age(age time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = events.MakePosition(time.Now().Add(-age).UnixMilli(), 0)
}

func TestTheHorizonIsRetentions(t *testing.T) {
	t.Parallel()
	require.Equal(t, postgres.HorizonSetting, horizonSetting)
}

func TestAReaderSaysWhatItHasMissed(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	l := s.logs[0]
	// given a group that read two events, ten days ago
	l.age(10 * day)
	l.publish(5)
	s.awaitFolded(0)
	sub := s.open(Config{Group: "audit", BatchEvents: 2})
	messages, err := sub.Subscribe(t.Context(), Topic(0))
	require.NoError(t, err)
	(<-messages).Ack()
	(<-messages).Ack()
	<-messages // the offset is saved
	require.NoError(t, sub.Close())
	// when retention drops what it has not read
	l.age(2 * day)
	l.publish(3)
	s.awaitFolded(0)
	all := l.all()
	horizon := s.keep(5 * day)
	// then it stops, and says so
	said := &output{}
	stuck := s.open(Config{Group: "audit", Logger: slog.New(slog.NewTextHandler(said, nil))})
	messages, err = stuck.Subscribe(t.Context(), Topic(0))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return strings.Contains(said.String(), "gap: retention dropped message events of shard 0")
	}, time.Minute, 5*time.Millisecond)
	require.Contains(t, said.String(), "level=ERROR")
	require.NoError(t, stuck.Close())
	require.Empty(t, messages)
	// and goes on when it is told to, which is asked once
	gaps := make(chan GapError, 10)
	var h heard
	h.follow(t, s.open(Config{Group: "audit", OnGap: func(g GapError) error {
		gaps <- g
		return nil
	}}), 0)
	h.await(t, 0, 3)
	requireRecords(t, all[5:], h.of(0))
	require.Len(t, gaps, 1)
	gap := <-gaps
	require.Equal(t, []any{"audit", 0, all[1].Position.Time(), horizon}, []any{gap.Group, gap.Shard, gap.From.UTC(), gap.To.UTC()})
	// a group that begins now has all that there is
	var fresh heard
	fresh.follow(t, s.open(Config{Group: "fresh"}), 0)
	fresh.await(t, 0, 3)
	requireRecords(t, all[5:], fresh.of(0))
}

func TestAReaderIsAskedOfAGapUntilItGoesOn(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	s.logs[0].publish(2)
	s.awaitFolded(0)
	s.place(reader{group: "audit"}, 0)
	s.exec(`INSERT INTO store_settings VALUES ('message_horizon', '2020-01-01T00:00:00Z')`)
	asked := 0
	var h heard
	h.follow(t, s.open(Config{Group: "audit", OnGap: func(GapError) error {
		if asked++; asked < 2 {
			return errors.New("no one is there to ask")
		}
		return nil
	}}), 0)
	h.await(t, 0, 2)
	require.Equal(t, 2, asked)
}

// Where nothing happens for longer than retention keeps, nothing is missing.
func TestAQuietShardHasNoGap(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	l := s.logs[0]
	l.age(10 * day)
	l.publish(3)
	s.awaitFolded(0)
	said := &output{}
	sub := s.open(Config{Group: "audit", Logger: slog.New(slog.NewTextHandler(said, nil))})
	var h heard
	h.follow(t, sub, 0)
	require.Eventually(t, func() bool {
		var noted bool
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT complete_since > now() - interval '13 hours' FROM history_readers`).Scan(&noted))
		return noted
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, sub.Close())
	s.keep(day)
	l.age(0)
	l.publish(2)
	h.follow(t, s.open(Config{Group: "audit", Logger: slog.New(slog.NewTextHandler(said, nil))}), 0)
	h.await(t, 0, 5)
	requireRecords(t, l.all(), h.of(0))
	require.NotContains(t, said.String(), "gap")
}

// Retention's horizon is before the first event of a store that is younger.
func TestAYoungStoreHasNoGap(t *testing.T) {
	t.Parallel()
	for name, published := range map[string]int{"with events": 3, "empty": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t, 1)
			if published > 0 {
				s.logs[0].publish(published)
				s.awaitFolded(0)
			}
			sub := s.open(Config{Group: "audit"})
			_, err := sub.Subscribe(t.Context(), Topic(0))
			require.NoError(t, err)
			require.NoError(t, sub.Close()) // it has read nothing
			s.keep(30 * day)
			s.logs[0].publish(1)
			said := &output{}
			var h heard
			h.follow(t, s.open(Config{Group: "audit", Logger: slog.New(slog.NewTextHandler(said, nil))}), 0)
			h.await(t, 0, published+1)
			requireRecords(t, s.logs[0].all(), h.of(0))
			require.NotContains(t, said.String(), "gap")
		})
	}
}

func TestALostOffsetIsSaid(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	said := &output{}
	var h heard
	h.follow(t, s.open(Config{Group: "audit", Logger: slog.New(slog.NewTextHandler(said, nil))}), 0)
	s.exec(`DELETE FROM history_readers`)
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "has lost its offset of shard 0") }, time.Minute, 5*time.Millisecond)
}
