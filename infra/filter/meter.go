//nolint:ireturn // cel-go is made of interfaces
package filter

import (
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
)

// budget is what one evaluation has spent. It is charged before work is done where the
// work can be large, so the last step overruns nothing.
type budget struct {
	units    int64
	lookAt   int64
	deadline time.Time
}

// lookEvery is how many units pass between two looks at the time.
const lookEvery = CostMax / 100

// charge ends the evaluation where it is over one of its limits, as cel-go's own checks
// do: with a panic that cel.Program.Eval takes for an answer.
func (b *budget) charge(units int64) {
	b.units += units
	if b.units > CostMax {
		panic(interpreter.EvalCancelledError{Message: tooCostly, Cause: interpreter.CostLimitExceeded})
	}
	if b.units < b.lookAt {
		return
	}
	now := time.Now()
	if b.deadline.IsZero() {
		b.deadline = now.Add(EvalTimeMax)
	}
	if now.After(b.deadline) {
		panic(interpreter.EvalCancelledError{Message: tooSlow, Cause: interpreter.ContextCancelled})
	}
	b.lookAt = b.units + lookEvery
}

// budgetName is how an expression's nodes find the budget; no expression can spell it.
const budgetName = "@budget"

// charge charges the evaluation that a frame belongs to.
func charge(frame *interpreter.ExecutionFrame, units int64) {
	if v, ok := frame.ResolveName(budgetName); ok {
		if b, ok := v.(*budget); ok {
			b.charge(units)
		}
	}
}

// meter puts nodes that charge in place of cel-go's. Its own tracking of costs
// (cel.CostLimit, v0.31.0) cannot be used for this:
//
//   - it is quadratic in the turns of a comprehension, as it searches all values that it
//     has seen: going once through 175,000 numbers takes over two seconds;
//   - it goes by declared types, and a payload has none: joining two strings of it costs
//     one unit whatever their length;
//   - it adds up what a call has cost after it, and takes comparing two lists for a tenth
//     of their length. A value can be small and hold itself many times over ([x, x] of
//     [x, x] of …), so it must be weighed first.
type meter struct {
	// weights are what it takes to look up variables and their members, by node.
	weights map[int64]int64
	// sizes are those of the expression's patterns.
	sizes map[string]int64
}

// decorate is called with each node as it is planned, from the leaves up.
func (m *meter) decorate(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch node := i.(type) {
	case *lookup: // again, as a member was added
		node.units = m.weights[node.ID()]
		return node, nil
	case interpreter.InterpretableAttribute:
		return &lookup{InterpretableAttribute: node, units: m.weights[node.ID()]}, nil
	case interpreter.InterpretableConstructor:
		for _, item := range node.InitVals() {
			if _, ok := item.(interpreter.InterpretableConst); !ok {
				return &construction{InterpretableConstructor: node, units: int64(len(node.InitVals()))}, nil
			}
		}
		return node, nil // constant, and soon built for good
	case interpreter.InterpretableCall:
		return m.decorateCall(node), nil
	default:
		return i, nil
	}
}

func (m *meter) decorateCall(node interpreter.InterpretableCall) interpreter.InterpretableV2 {
	args := node.Args()
	if len(args) != 2 {
		return &call{InterpretableCall: node, units: 1}
	}
	b := &binary{id: node.ID(), l: args[0], r: args[1]}
	switch node.Function() {
	case operators.Equals:
		b.cost, b.do = compareCost, types.Equal
	case operators.NotEquals:
		b.cost, b.do = compareCost, notEqual
	case operators.In:
		if set, ok := args[1].(interpreter.InterpretableConst); ok { // cel-go makes a hash of it
			return &call{InterpretableCall: node, units: 1 + CostMax - weigh(set.Value(), CostMax)}
		}
		b.cost, b.do = containsCost, contains
	case operators.Add:
		b.cost, b.do = addCost, add
	case matches:
		if m.seeMatch(b) {
			return b
		}
		return &call{InterpretableCall: node, units: CostMax}
	default:
		return &call{InterpretableCall: node, units: 1}
	}
	return b
}

// lookup is a variable or a member of one, as are a ?: and an index. Reading its text is
// charged here, once for all that is done with it.
type lookup struct {
	interpreter.InterpretableAttribute

	units int64
}

// Exec evaluates and charges.
func (n *lookup) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v := n.InterpretableAttribute.Exec(frame)
	charge(frame, n.units+textBytes(v)/bytesPerUnit)
	return v
}

// Eval evaluates and charges.
func (n *lookup) Eval(vars cel.Activation) ref.Val { return n.Exec(interpreter.AsFrame(vars)) }

// construction makes a list or map.
type construction struct {
	interpreter.InterpretableConstructor

	units int64
}

// Exec evaluates and charges.
func (n *construction) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	charge(frame, n.units)
	return n.InterpretableConstructor.Exec(frame)
}

// Eval evaluates and charges.
func (n *construction) Eval(vars cel.Activation) ref.Val { return n.Exec(interpreter.AsFrame(vars)) }

// call is one that takes no longer than its arguments took to read.
type call struct {
	interpreter.InterpretableCall

	units int64
}

// Exec evaluates and charges.
func (n *call) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	charge(frame, n.units)
	v := n.InterpretableCall.Exec(frame)
	charge(frame, textBytes(v)/copiedBytesPerUnit)
	return v
}

// binary is one of the calls that can take long. It is no interpreter.InterpretableCall,
// so that cel-go's optimizations leave it alone.
type binary struct {
	id   int64
	l, r interpreter.InterpretableV2
	cost func(l, r ref.Val) int64
	do   func(l, r ref.Val) ref.Val
}

// ID is the node's.
func (n *binary) ID() int64 { return n.id }

// Exec charges and evaluates.
func (n *binary) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	l := n.l.Exec(frame)
	if types.IsUnknownOrError(l) {
		return l
	}
	r := n.r.Exec(frame)
	if types.IsUnknownOrError(r) {
		return r
	}
	charge(frame, 1+n.cost(l, r))
	return n.do(l, r)
}

// Eval charges and evaluates.
func (n *binary) Eval(vars cel.Activation) ref.Val { return n.Exec(interpreter.AsFrame(vars)) }
