package proof

import (
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Tree is a Merkle tree that grows: the roots of the complete subtrees that it consists
// of, largest first. The zero Tree is empty.
type Tree struct {
	size int64
	edge []tlog.Hash
}

// LoadTree returns the tree of a size with the subtrees that it was left with.
func LoadTree(size int64, edge []tlog.Hash) (Tree, error) {
	if size < 0 || bits.OnesCount64(uint64(size)) != len(edge) {
		return Tree{}, fmt.Errorf("a log of %d records consists of %d subtrees, not of %d", size, bits.OnesCount64(uint64(max(size, 0))), len(edge))
	}
	return Tree{size: size, edge: edge}, nil
}

// Size is how many records the tree has.
func (t *Tree) Size() int64 { return t.size }

// Clone returns a tree that grows on its own.
func (t *Tree) Clone() Tree { return Tree{size: t.size, edge: slices.Clone(t.edge)} }

// Add appends a record by its hash, and to dst the hashes of the subtrees that it
// completes, its own first: what is stored of it, from tlog.StoredHashIndex(0, n) on.
func (t *Tree) Add(dst []tlog.Hash, h tlog.Hash) []tlog.Hash {
	dst = append(dst, h)
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.edge) - 1
		h = tlog.NodeHash(t.edge[last], h)
		t.edge = t.edge[:last]
		dst = append(dst, h)
	}
	t.edge = append(t.edge, h)
	t.size++
	return dst
}

// Root is the tree's root hash.
func (t *Tree) Root() tlog.Hash {
	if len(t.edge) == 0 {
		empty, _ := tlog.TreeHash(0, nil) // reads nothing
		return empty
	}
	last := len(t.edge) - 1
	root := t.edge[last]
	for _, left := range slices.Backward(t.edge[:last]) {
		root = tlog.NodeHash(left, root)
	}
	return root
}

// Path returns the root of a tree of leaves and the path to one of them.
func Path(leaves []tlog.Hash, at int64) (root tlog.Hash, path tlog.RecordProof, err error) {
	var t Tree
	stored := make([]tlog.Hash, 0, 2*len(leaves))
	for _, leaf := range leaves {
		stored = t.Add(stored, leaf)
	}
	path, err = tlog.ProveRecord(t.size, at, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = stored[index]
		}
		return out, nil
	}))
	if err != nil {
		return root, nil, fmt.Errorf("path to leaf %d of %d: %w", at, t.size, err)
	}
	return t.Root(), path, nil
}
