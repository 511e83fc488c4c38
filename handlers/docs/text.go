package docs

import "strings"

// span is a piece of a description in one style: "", code or strong.
type span struct{ Style, Text string }

// paragraphs reads the little Markdown that descriptions use: blank lines, `code` and
// **strong**.
func paragraphs(text string) [][]span {
	var out [][]span
	for p := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if p = strings.Join(strings.Fields(p), " "); p != "" {
			out = append(out, spans(p))
		}
	}
	return out
}

func spans(text string) []span {
	var out []span
	for i, piece := range strings.Split(text, "`") {
		if i%2 == 1 {
			out = append(out, span{Style: "code", Text: piece})
			continue
		}
		for k, part := range strings.Split(piece, "**") {
			style := ""
			if k%2 == 1 {
				style = "strong"
			}
			if part != "" {
				out = append(out, span{Style: style, Text: part})
			}
		}
	}
	return out
}
