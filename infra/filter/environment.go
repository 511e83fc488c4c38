package filter

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/env"
	"github.com/google/cel-go/common/overloads"
)

// matches is the function of regular expressions.
const matches = "matches"

// environment is what expressions are written against. It is immutable.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	e, err := cel.NewCustomEnv(
		cel.StdLib(cel.StdLibSubset(env.NewLibrarySubset().AddExcludedFunctions(zoned()...))),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.EnableMacroCallTracking(), // so that a conjunct can be written out
		cel.ParserExpressionSizeLimit(FilterBytesMax),
		cel.ParserRecursionLimit(ExpressionDepthMax),
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("key", cel.StringType),
		cel.Variable("payload", cel.DynType),
	)
	if err != nil {
		return nil, fmt.Errorf("setting up CEL: %w", err)
	}
	return e, nil
})

// zoned are the functions that read a time zone by its name, from a file.
func zoned() []*env.Function {
	var functions []*env.Function
	for name, overload := range map[string]string{
		overloads.TimeGetFullYear:     overloads.TimestampToYearWithTz,
		overloads.TimeGetMonth:        overloads.TimestampToMonthWithTz,
		overloads.TimeGetDayOfYear:    overloads.TimestampToDayOfYearWithTz,
		overloads.TimeGetDayOfMonth:   overloads.TimestampToDayOfMonthZeroBasedWithTz,
		overloads.TimeGetDate:         overloads.TimestampToDayOfMonthOneBasedWithTz,
		overloads.TimeGetDayOfWeek:    overloads.TimestampToDayOfWeekWithTz,
		overloads.TimeGetHours:        overloads.TimestampToHoursWithTz,
		overloads.TimeGetMinutes:      overloads.TimestampToMinutesWithTz,
		overloads.TimeGetSeconds:      overloads.TimestampToSecondsWithTz,
		overloads.TimeGetMilliseconds: overloads.TimestampToMillisecondsWithTz,
	} {
		functions = append(functions, env.NewFunction(name, &env.Overload{ID: overload}))
	}
	return functions
}

// compileText parses and checks an expression.
func compileText(text string) (*cel.Env, *cel.Ast, error) {
	e, err := environment()
	if err != nil {
		return nil, nil, err
	}
	if text == "" {
		return nil, nil, errors.New("is empty")
	}
	checked, issues := e.Compile(text)
	if found := issues.Errors(); len(found) > 0 {
		at := found[0].Location
		return nil, nil, fmt.Errorf("%d:%d: %s", max(at.Line(), 1), max(at.Column(), 0)+1, found[0].Message)
	}
	if kind := checked.OutputType(); !kind.IsExactType(cel.BoolType) && !kind.IsExactType(cel.DynType) {
		return nil, nil, fmt.Errorf("must be a bool, not %s", cel.FormatCELType(kind))
	}
	return e, checked, nil
}
