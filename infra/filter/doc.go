// Package filter decides whether a message goes to a subscription: [Compile] reads the
// subscription's messageFilter once, [Filter.Match] answers for each message.
//
// A messageFilter is a JSON object in one of two forms.
//
//   - {"cel": "…"} is an expression of the Common Expression Language over `headers`
//     (map of strings), `key` (string) and `payload` (the message's JSON: integers that
//     fit 64 bits are int, all other numbers double; ints and doubles compare by value).
//     It has CEL's standard functions and macros, with exceptions: no time zones by name
//     (they are read from files), no building of protocol buffers, and the pattern of
//     matches is a literal. There is no clock and no input or output.
//   - {"headers": {…}, "key": "…", "payload": …} matches where every field given equals.
//     An object matches if each member named is there and matches, at any depth; arrays
//     are equal as a whole, so an object within an array has no other members than those
//     named; numbers are equal by value, exactly; strings by their characters. {} matches
//     every message.
//
// It guarantees that
//   - a filter that cannot be evaluated for a message does not match it, and the verdict
//     says why. Knative's CESQL filters and Envoy's CEL matchers do the same: an error is
//     "no match". Google's Pub/Sub and Eventarc rule most errors out by filtering
//     attributes only: one that is missing does not match, and a message that does not
//     match counts as acknowledged. The other ways are worse: delivering on an error hands
//     a subscriber what its filter was there to keep away, and retrying cannot help, as
//     neither the filter nor the message will change;
//   - a verdict depends on filter and message alone, not on time or load, as long as an
//     evaluation ends within [EvalTimeMax], which [CostMax] is there for. (In CEL an
//     object's members have no order: payload.map(name, name)[0] is any of them);
//   - no filter of a tenant costs more than [CostMax] units of work (0.1 µs each, or less)
//     for a message, in time and in memory. What cel-go does not count is counted here:
//     comparing nested values, joining strings and lists, regular expressions;
//   - texts are one short line. They quote the filter, headers and the key, cut short,
//     and never a value of the payload, which may be encrypted where it is stored;
//   - a [Filter] may be used by any number of goroutines.
//
// What it does not do: check that a payload is one that publishing allows.
//
// It imports the standard library, cel-go and jsontext.
package filter

import "time"

// Limits.
const (
	// FilterBytesMax bounds a messageFilter.
	FilterBytesMax = 4 << 10
	// FilterDepthMax bounds how deep its arrays and objects nest; that of a payload is
	// no deeper.
	FilterDepthMax = 32
	// CostMax bounds the work of one evaluation, in units: one is a step of the
	// expression, 64 bytes of text read, 16 copied, or an element compared.
	CostMax = 1_000_000
	// EvalTimeMax ends an evaluation that CostMax has not ended; it is there for what
	// the counting misses.
	EvalTimeMax = 2 * time.Second
	// PatternSizeMax bounds a regular expression, in instructions of its program.
	PatternSizeMax = 1000
	// ExpressionDepthMax bounds how deep an expression nests, chains of calls included.
	// Checking the types takes the cube of it: up to 0.4 s for 50, 4 s for 100.
	ExpressionDepthMax = 50
	// WhyBytesMax bounds Verdict.Why.
	WhyBytesMax = 200
	// ErrorBytesMax bounds the text of an error of Compile.
	ErrorBytesMax = 250
	// QuoteBytesMax bounds what is quoted of a header or key.
	QuoteBytesMax = 40

	// conjunctsMax bounds into how many parts an expression is taken apart.
	conjunctsMax = 32
	// bytesPerUnit is how much text one unit of cost reads.
	bytesPerUnit = 64
	// copiedBytesPerUnit is how much text one unit of cost copies.
	copiedBytesPerUnit = 16
	// matchStepsPerUnit is how many steps of a regular expression's program, a
	// character by an instruction, one unit of cost takes.
	matchStepsPerUnit = 8
)
