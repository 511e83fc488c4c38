package filter

import (
	"bytes"
	"strconv"
)

// decimal is a JSON number's exact value: digits × 10^exponent, the digits without zeros
// at either end. So equal values are equal structs; that of zero is the zero value, and
// there is one zero (RFC 8259, section 6, has -0 too).
type decimal struct {
	digits   string
	exponent int64
	negative bool
}

// exponentMax bounds an exponent as written; publishing allows less.
const exponentMax = 1_000_000

// parseDecimal reads a number that JSON's grammar allows, false where its exponent is
// beyond exponentMax.
func parseDecimal(raw []byte) (decimal, bool) {
	d := decimal{}
	raw, d.negative = bytes.CutPrefix(raw, []byte("-"))
	if i := bytes.IndexAny(raw, "eE"); i >= 0 {
		exponent, err := strconv.ParseInt(string(raw[i+1:]), 10, 64)
		if err != nil || exponent > exponentMax || exponent < -exponentMax {
			return decimal{}, false
		}
		d.exponent, raw = exponent, raw[:i]
	}
	whole, fraction, _ := bytes.Cut(raw, []byte("."))
	digits := make([]byte, 0, len(whole)+len(fraction))
	digits = append(append(digits, whole...), fraction...)
	d.exponent -= int64(len(fraction))
	digits = bytes.TrimLeft(digits, "0")
	significant := bytes.TrimRight(digits, "0")
	if len(significant) == 0 {
		return decimal{}, true
	}
	d.exponent += int64(len(digits) - len(significant))
	d.digits = string(significant)
	return d, true
}
