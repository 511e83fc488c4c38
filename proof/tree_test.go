package proof

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"
)

// The tree is tlog's: the same stored hashes at the same places, the same root and paths.
func TestTheTreeIsTlogs(t *testing.T) {
	t.Parallel()
	var tree Tree
	var stored, leaves []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = stored[index]
		}
		return out, nil
	})
	for n := range int64(130) {
		want, err := tlog.TreeHash(n, reader)
		require.NoError(t, err)
		require.Equal(t, want, tree.Root(), n)
		leaf := tlog.RecordHash(fmt.Append(nil, n))
		hashes, err := tlog.StoredHashesForRecordHash(n, leaf, reader)
		require.NoError(t, err)
		require.Len(t, stored, int(tlog.StoredHashIndex(0, n)))
		loaded, err := LoadTree(n, tree.Clone().edge)
		require.NoError(t, err)
		require.Equal(t, hashes, loaded.Add(nil, leaf))
		require.Equal(t, hashes, tree.Add(nil, leaf))
		require.Equal(t, tree.Root(), loaded.Root())
		require.Equal(t, n+1, tree.Size())
		stored, leaves = append(stored, hashes...), append(leaves, leaf)
		for at := range n + 1 {
			root, path, err := Path(leaves, at)
			require.NoError(t, err)
			require.Equal(t, tree.Root(), root)
			require.NoError(t, tlog.CheckRecord(path, n+1, root, at, leaves[at]))
		}
	}
	_, _, err := Path(leaves, int64(len(leaves)))
	require.Error(t, err)
}

func TestATreeIsLoadedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	_, err := LoadTree(5, make([]tlog.Hash, 1))
	require.EqualError(t, err, "a log of 5 records consists of 2 subtrees, not of 1")
	_, err = LoadTree(-1, nil)
	require.Error(t, err)
	_, err = LoadTree(0, nil)
	require.NoError(t, err)
}
