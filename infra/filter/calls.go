//nolint:ireturn // cel-go is made of interfaces
package filter

import (
	"regexp"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

const noOverload = "no such overload"

func notEqual(l, r ref.Val) ref.Val {
	same, ok := types.Equal(l, r).(types.Bool)
	if !ok {
		return types.NewErrFromString(noOverload)
	}
	return !same
}

func contains(l, r ref.Val) ref.Val {
	container, ok := r.(traits.Container)
	if !ok {
		return types.NewErrFromString(noOverload)
	}
	return container.Contains(l)
}

// add joins lists into one that is as quick to read as any; cel-go's is a view of a view
// of a view.
func add(l, r ref.Val) ref.Val {
	left, leftOK := l.(traits.Lister)
	right, rightOK := r.(traits.Lister)
	if leftOK && rightOK && !filling(l) {
		joined := make([]ref.Val, 0, length(left)+length(right))
		for _, list := range []traits.Lister{left, right} {
			for i := range length(list) {
				joined = append(joined, list.Get(types.Int(i)))
			}
		}
		return types.NewRefValList(types.DefaultTypeAdapter, joined)
	}
	adder, ok := l.(traits.Adder)
	if !ok {
		return types.NewErrFromString(noOverload)
	}
	return adder.Add(r)
}

// filling says whether a list is the one that a macro is filling, in place.
func filling(v ref.Val) bool {
	_, ok := v.(traits.MutableLister)
	return ok
}

// seeMatch prepares a match of a literal pattern; newExpression refuses any other.
func (m *meter) seeMatch(b *binary) bool {
	literal, ok := b.r.(interpreter.InterpretableConst)
	if !ok {
		return false
	}
	text, ok := literal.Value().(types.String)
	if !ok {
		return false
	}
	pattern, err := regexp.Compile(string(text))
	if err != nil {
		return false
	}
	size := m.sizes[string(text)]
	// RE2 is linear in the text and in the program.
	b.cost = func(l, _ ref.Val) int64 { return (textBytes(l) + 1) * size / matchStepsPerUnit }
	b.do = func(l, _ ref.Val) ref.Val {
		s, ok := l.(types.String)
		if !ok {
			return types.NewErrFromString(noOverload)
		}
		return types.Bool(pattern.MatchString(string(s)))
	}
	return true
}
