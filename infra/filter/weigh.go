package filter

import (
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// textBytes is the length of a string or of bytes, 0 for anything else.
func textBytes(v ref.Val) int64 {
	switch v := v.(type) {
	case types.String:
		return int64(len(v))
	case types.Bytes:
		return int64(len(v))
	default:
		return 0
	}
}

// length is how many elements a list or a map has, 0 for anything else.
func length(v any) int {
	switch v.(type) {
	case traits.Lister, traits.Mapper:
		n, _ := v.(traits.Sizer).Size().(types.Int)
		return int(n)
	default:
		return 0
	}
}

// aggregate says whether a value has elements.
func aggregate(v ref.Val) bool {
	switch v.(type) {
	case traits.Lister, traits.Mapper:
		return true
	default:
		return false
	}
}

// addCost is what joining takes. A list that a macro is filling grows in place.
func addCost(l, r ref.Val) int64 {
	cost := (textBytes(l)+textBytes(r))/copiedBytesPerUnit + int64(length(r))
	if !filling(l) {
		cost += int64(length(l))
	}
	return cost
}

// compareCost is the most that comparing two values takes, or a little more than CostMax
// where it is over that. Lists or maps of different lengths are told apart at once.
func compareCost(l, r ref.Val) int64 {
	if aggregate(l) && aggregate(r) {
		if length(l) != length(r) {
			return 0
		}
		return CostMax - weigh(l, CostMax)
	}
	return min(textBytes(l), textBytes(r)) / bytesPerUnit
}

// containsCost is the same for looking for a value in a list; in a map it is hashed.
func containsCost(l, r ref.Val) int64 {
	if _, ok := r.(traits.Lister); !ok {
		return textBytes(l) / bytesPerUnit
	}
	if aggregate(l) {
		return CostMax - weigh(r, CostMax)
	}
	return int64(length(r)) * (1 + textBytes(l)/bytesPerUnit)
}

// weigh takes from left what a value has within, and stops below 0.
func weigh(v ref.Val, left int64) int64 {
	left -= 1 + textBytes(v)/bytesPerUnit
	switch v := v.(type) {
	case traits.Mapper:
		it := v.Iterator()
		for left >= 0 && it.HasNext() == types.True {
			key := it.Next()
			left = weigh(key, left)
			if value, ok := v.Find(key); ok && left >= 0 {
				left = weigh(value, left)
			}
		}
	case traits.Lister:
		for i := 0; left >= 0 && i < length(v); i++ {
			left = weigh(v.Get(types.Int(i)), left)
		}
	}
	return left
}
