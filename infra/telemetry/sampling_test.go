package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheSameMessageIsWrittenAFewTimesASecond(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	h := NewSampler(slog.NewTextHandler(&out, nil)).WithAttrs([]slog.Attr{slog.String("a", "b")})
	at := time.Unix(1_000_000, 0)
	say := func(message string, after time.Duration) {
		require.NoError(t, h.Handle(context.Background(), slog.NewRecord(at.Add(after), slog.LevelWarn, message, 0)))
	}
	for range 100 {
		say("no answer", 0)
	}
	say("another", 0)
	require.Equal(t, SameMessageMax, strings.Count(out.String(), "no answer"))
	require.Equal(t, 1, strings.Count(out.String(), "another"))
	// and then says how many it left out
	say("no answer", SampleInterval)
	require.Contains(t, out.String(), "suppressed=95")
	require.Equal(t, SameMessageMax+1, strings.Count(out.String(), "no answer"))
}

func TestDifferentMessagesAreBounded(t *testing.T) {
	t.Parallel()
	c := &counts{seen: map[sampleKey]*count{}}
	for i := range 3 * messagesMax {
		ok, _ := c.pass(sampleKey{message: strings.Repeat("x", i)}, time.Unix(0, 0))
		require.True(t, ok)
		require.LessOrEqual(t, len(c.seen), messagesMax)
	}
}
