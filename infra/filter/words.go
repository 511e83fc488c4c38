//nolint:ireturn // cel-go is made of interfaces
package filter

import (
	"strings"

	"github.com/google/cel-go/cel"
)

// variables are those of an expression, for one message.
type variables struct {
	message Message
	payload any
	read    bool
	budget  budget
}

// ResolveName is how cel-go reads a variable.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case "headers":
		return v.message.Headers, true
	case "key":
		return v.message.Key, true
	case "payload":
		return v.payload, true
	case budgetName:
		return &v.budget, true
	default:
		return nil, false
	}
}

// Parent is nil: there are no others.
func (*variables) Parent() cel.Activation { return nil }

// plainErrors are those of cel-go that hold no value.
var plainErrors = map[string]bool{
	"no such overload": true, "division by zero": true, "modulus by zero": true, "integer overflow": true,
	"unsigned integer overflow": true, "duration overflow": true, "timestamp overflow": true,
	"NaN values cannot be ordered": true,
}

// plain says what an error of an evaluation is without any value of the message: many of
// cel-go's quote one. A key is named where the expression itself names it.
func (e *expression) plain(text string) string {
	if plainErrors[text] {
		return text
	}
	const noKey = "no such key"
	switch key, ok := strings.CutPrefix(text, noKey+": "); {
	case ok && e.names[key]:
		return noKey + ": " + key
	case ok:
		return noKey
	case strings.HasPrefix(text, "no such overload"):
		return "no such overload"
	case strings.HasPrefix(text, "index out of bounds"), strings.HasPrefix(text, "index '"):
		return "index out of bounds"
	case strings.HasPrefix(text, "type conversion error"), strings.HasPrefix(text, "strconv."), strings.HasPrefix(text, "invalid RFC 3339"):
		return "a value cannot be converted"
	case strings.HasPrefix(text, "got '"):
		return "neither a list nor an object"
	default:
		return "a value is not of the kind that the expression expects"
	}
}
