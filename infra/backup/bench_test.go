package backup

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkBackupAndRestore has some 20,000 events, of which four in five are a message's
// and its settlement's.
func BenchmarkBackupAndRestore(b *testing.B) {
	s := newStore(b, 4)
	s.messages(b, 10_000)
	s.fold(b)
	o := Options{ServiceVersion: "bench", Projection: "read"}
	var last Summary
	b.Run("backup", func(b *testing.B) {
		n := int64(0)
		for b.Loop() {
			o.Dir = b.TempDir()
			summary, err := Run(b.Context(), s.pool, o)
			require.NoError(b, err)
			last, n = summary, n+summary.Events
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		b.ReportMetric(float64(last.RawBytes)/float64(last.Bytes), "ratio")
	})
	dir := b.TempDir()
	s.backup(b, dir)
	b.Run("restore", func(b *testing.B) {
		n := int64(0)
		for b.Loop() {
			b.StopTimer()
			target := emptyStore(b)
			b.StartTimer()
			r, err := target.restore(b, dir)
			require.NoError(b, err)
			n += r.Events
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	})
}
