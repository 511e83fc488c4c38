package filter

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/interpreter"
)

// expression is the form of a filter that is written in CEL.
//
// It is evaluated conjunct by conjunct, from the left, to the first that is false: that
// names what kept a message out at no cost. The outcome is the one of the whole (CEL's
// && is false if any side is, even where the other is an error).
type expression struct {
	conjuncts []conjunct
	// names are what an error may repeat: the expression spells them out itself.
	names map[string]bool
}

type conjunct struct {
	program cel.Program
	// text is how it reads, "" where it is the whole expression.
	text    string
	payload bool
}

func newExpression(text string) (*expression, error) {
	env, whole, err := compileText(text)
	if err != nil {
		return nil, err
	}
	native := whole.NativeRep()
	found := readThrough(native.Expr(), native.SourceInfo())
	if found.err != nil {
		return nil, found.err
	}
	e := &expression{names: found.names}
	parts := split(native.Expr(), nil)
	if len(parts) > conjunctsMax {
		parts = []ast.Expr{native.Expr()}
	}
	m := &meter{sizes: found.sizes, weights: found.weights}
	for _, part := range parts {
		c := conjunct{}
		tree := whole
		if len(parts) > 1 {
			if c.text, err = cel.ExprToString(part, native.SourceInfo()); err != nil {
				return nil, fmt.Errorf("cannot be taken apart: %w", err)
			}
			c.text = strings.Join(strings.Fields(c.text), " ")
			if tree, err = subtree(native, part); err != nil {
				return nil, err
			}
		}
		c.payload = readThrough(part, native.SourceInfo()).payload
		c.program, err = env.Program(tree, cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(m.decorate))
		if err != nil {
			return nil, fmt.Errorf("cannot be evaluated: %w", err)
		}
		e.conjuncts = append(e.conjuncts, c)
	}
	return e, nil
}

// split appends the conjuncts of an expression.
func split(e ast.Expr, parts []ast.Expr) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.LogicalAnd {
		return append(parts, e)
	}
	for _, arg := range e.AsCall().Args() {
		parts = split(arg, parts)
	}
	return parts
}

// subtree makes a part of a checked expression one of its own.
func subtree(whole *ast.AST, part ast.Expr) (*cel.Ast, error) {
	proto, err := ast.ToProto(ast.NewCheckedAST(ast.NewAST(part, whole.SourceInfo()), whole.TypeMap(), whole.ReferenceMap()))
	if err != nil {
		return nil, fmt.Errorf("cannot be taken apart: %w", err)
	}
	tree, err := cel.CheckedExprToAstWithSource(proto, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot be taken apart: %w", err)
	}
	return tree, nil
}

// match returns why a message does not match, "" where it does.
func (e *expression) match(m Message) string {
	in := &variables{message: m}
	problem := ""
	for i := range e.conjuncts {
		c := &e.conjuncts[i]
		if c.payload && !in.read {
			payload, err := readPayload(m.Payload)
			if err != nil {
				return notJSON
			}
			in.payload, in.read = payload, true
		}
		value, _, err := c.program.Eval(in)
		switch {
		case err != nil:
			text, final := e.problem(err)
			if final {
				return text
			}
			if problem == "" {
				problem = text
			}
		case value == types.False:
			return c.isFalse()
		case value != types.True && problem == "":
			problem = fmt.Sprintf("error: %s is of type %s, not bool", c.name(), value.Type().TypeName())
		}
	}
	return problem
}

func (c *conjunct) name() string {
	if c.text == "" {
		return "the expression"
	}
	return cut(c.text, conjunctBytesMax)
}

func (c *conjunct) isFalse() string { return c.name() + " is false" }

// conjunctBytesMax is how much of a conjunct a verdict quotes.
const conjunctBytesMax = WhyBytesMax - len("error: ") - len(" is of type , not bool") - 40

const (
	tooCostly = "error: the expression costs too much for this message"
	tooSlow   = "error: the expression takes too long for this message"
)

// problem puts an error into words that hold nothing of a payload. It is final where the
// other conjuncts are not to be looked at.
func (e *expression) problem(err error) (text string, final bool) {
	if cancelled := (interpreter.EvalCancelledError{}); errors.As(err, &cancelled) {
		return cancelled.Message, true
	}
	return "error: " + e.plain(err.Error()), false
}
