package filter

import (
	"fmt"
	"regexp/syntax"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
)

// survey is what reading through an expression finds, and refuses.
type survey struct {
	info *ast.SourceInfo
	// names are the members and texts that the expression itself spells out.
	names map[string]bool
	// sizes are those of its patterns, weights those of its lookups: see meter.
	sizes   map[string]int64
	weights map[int64]int64
	// payload says whether it uses the payload.
	payload bool
	err     error
}

// readThrough surveys an expression.
func readThrough(e ast.Expr, info *ast.SourceInfo) *survey {
	s := &survey{info: info, names: map[string]bool{}, sizes: map[string]int64{}, weights: map[int64]int64{}}
	ast.PreOrderVisit(e, ast.NewExprVisitor(s.see))
	return s
}

func (s *survey) see(e ast.Expr) {
	s.weights[e.ID()] = max(s.weights[e.ID()], weight(e))
	switch e.Kind() {
	case ast.IdentKind:
		s.payload = s.payload || e.AsIdent() == "payload"
	case ast.SelectKind:
		s.names[e.AsSelect().FieldName()] = true
	case ast.LiteralKind:
		if text, ok := e.AsLiteral().(types.String); ok {
			s.names[string(text)] = true
		}
	case ast.StructKind:
		s.refuse(e, "objects have no type: write {…}, not "+e.AsStruct().TypeName()+"{…}")
	case ast.CallKind:
		if e.AsCall().FunctionName() == matches {
			s.seePattern(e)
		}
	default: // lists, maps and comprehensions: what is in them is seen as well
	}
}

// seePattern looks at a call of matches: text.matches(pattern) or matches(text, pattern).
func (s *survey) seePattern(e ast.Expr) {
	args := e.AsCall().Args()
	pattern := args[len(args)-1]
	text, ok := types.String(""), false
	if pattern.Kind() == ast.LiteralKind {
		text, ok = pattern.AsLiteral().(types.String)
	}
	if !ok {
		s.refuse(pattern, "the pattern of matches must be a literal")
		return
	}
	size, err := patternSize(string(text))
	switch {
	case err != nil:
		s.refuse(pattern, err.Error())
	case size > PatternSizeMax:
		s.refuse(pattern, fmt.Sprintf("the pattern takes %d instructions, at most %d are allowed", size, PatternSizeMax))
	default:
		s.sizes[string(text)] = int64(size)
	}
}

// patternSize is how many instructions a pattern's program has. cel-go's own function of
// this kind (v0.31.0) panics where a pattern has a counted repetition: it compiles without
// simplifying first.
func patternSize(pattern string) (int, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, fmt.Errorf("not a pattern of RE2: %w", err)
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return 0, fmt.Errorf("not a pattern of RE2: %w", err)
	}
	return len(program.Inst), nil
}

// refuse keeps the first thing that is wrong.
func (s *survey) refuse(e ast.Expr, problem string) {
	if s.err == nil {
		at := s.info.GetStartLocation(e.ID())
		s.err = fmt.Errorf("%d:%d: %s", max(at.Line(), 1), max(at.Column(), 0)+1, problem)
	}
}

// weight is how many steps a lookup takes that charge nothing by themselves: variables,
// members, indexes and ?:.
func weight(e ast.Expr) int64 {
	switch e.Kind() {
	case ast.IdentKind:
		return 1
	case ast.SelectKind:
		return 1 + weight(e.AsSelect().Operand())
	case ast.CallKind:
		steps := int64(1)
		switch c := e.AsCall(); c.FunctionName() {
		case operators.Index, operators.Conditional:
			for _, arg := range c.Args() {
				steps += weight(arg)
			}
			return steps
		}
		return 0
	default:
		return 0
	}
}
