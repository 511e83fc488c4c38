package filter

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const notJSON = "error: the payload is not valid JSON"

// ellipsis stands for what was cut off.
const ellipsis = "…"

// cut shortens a text to so many bytes, the ellipsis included, between two characters.
func cut(s string, bytesMax int) string {
	if len(s) <= bytesMax {
		return s
	}
	end := bytesMax - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// line makes one line of a text, without control characters, of at most so many bytes.
func line(s string, bytesMax int) string {
	return cut(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, cut(s, 2*bytesMax)), bytesMax)
}

// quote quotes the beginning of a header or key. The second cut is for what escapes add.
func quote(s string) string {
	return cut(strconv.Quote(cut(s, QuoteBytesMax)), QuoteBytesMax+len(`""`))
}

// step is one step of a path: .name, or ["a name"] where it is not a plain one.
func step(name string) string {
	plain := name != "" && len(name) <= QuoteBytesMax
	for i := 0; plain && i < len(name); i++ {
		c := name[i]
		plain = c == '_' || c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
	}
	if plain {
		return "." + name
	}
	return "[" + quote(name) + "]"
}
