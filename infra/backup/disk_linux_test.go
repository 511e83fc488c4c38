package backup

import (
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A disk that is full in the middle of a segment, or when the manifest is written, leaves
// the backup from before as it was, and the next goes on. /dev/full is such a disk.
func TestAFullDiskLeavesTheBackupBefore(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1)
	s.messages(t, 200)
	s.fold(t)
	dir := t.TempDir()
	s.backup(t, dir)
	before := s.sums(t)
	for full, nth := range map[string]int32{".ndjson.zst": 2, unfinishedName: 1, manifestName: 1} {
		s.messages(t, 200)
		s.fold(t)
		o := s.options(dir)
		var opened atomic.Int32
		o.open = func(path string) (*os.File, error) {
			if strings.Contains(path, full) && opened.Add(1) == nth {
				return os.OpenFile("/dev/full", os.O_WRONLY, 0)
			}
			return create(path)
		}
		_, err := Run(t.Context(), s.pool, o)
		require.ErrorIs(t, err, syscall.ENOSPC, full)
		require.Equal(t, before, restored(t, dir).sums(t), full)
	}
	s.backup(t, dir)
	require.Equal(t, s.sums(t), restored(t, dir).sums(t))
}
