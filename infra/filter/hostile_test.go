package filter

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mebibyte is a message whose payload has 1 MiB: two texts that are equal and a list of
// 175,000 numbers, a third each.
func mebibyte() Message {
	const third = 1 << 20 / 3
	text := strings.Repeat("a", third)
	return Message{Payload: []byte(`{"s":"` + text + `","z":"` + text + `","l":[` + strings.Repeat("1,", third/2) + `1],"m":{"a":1}}`)}
}

// TestBombs has expressions that would take minutes or gigabytes. What is measured is
// generous, for a slow machine and the race detector; without limits they never end.
//
//nolint:paralleltest // it measures
func TestBombs(t *testing.T) {
	m := mebibyte()
	times := strings.Repeat
	joined := func(n int, part, by string) string { return strings.TrimSuffix(times(part+by, n), by) }
	for name, expression := range map[string]string{
		"nested comprehensions":  `payload.l.all(a, payload.l.all(b, payload.l.all(c, payload.l.all(d, a + b + c + d > 0))))`,
		"nested maps":            `payload.l.map(a, payload.l.map(b, payload.l)) == []`,
		"nested, with errors":    `payload.l.exists(a, payload.l.exists(b, payload.nope))`,
		"nested, nothing called": `payload.l.exists_one(a, payload.l.exists_one(b, false))`,
		"doubled text":           `[payload.s]` + times(`.map(x, x + x)`, 40) + ` == []`,
		"doubled literal":        `['aa']` + times(`.map(x, x + x)`, 40) + ` == []`,
		"doubled list":           `[payload.l]` + times(`.map(x, x + x)`, 40) + `.exists(x, 2 in x)`,
		"doubled lists in lists": `[[0]]` + times(`.map(x, [x, x])`, 40) + `.exists(x, x == x)`,
		"doubled payloads":       `[payload]` + times(`.map(x, [x, x])`, 40) + `.exists(x, x != x)`,
		"doubled, looked for":    `[payload]` + times(`.map(x, [x, x])`, 40) + `.exists(x, [x] in [x])`,
		"doubled maps":           `[payload]` + times(`.map(x, {1: x, 2: x})`, 40) + `.exists(x, x != x)`,
		"comparisons":            `payload.l.all(x, [payload] == [payload])`,
		"comparisons of texts":   `payload.l.all(x, payload.s == payload.z)`,
		"texts of lists":         `payload.l.map(x, payload.s) == payload.l.map(x, payload.z)`,
		"texts read":             `payload.l.all(x, size(payload.s) > 0)`,
		"texts copied":           `payload.l.map(x, payload.s + 'x') == []`,
		"bytes copied":           `payload.l.map(x, bytes(payload.s)) == []`,
		"keys that are missing":  `payload.l.exists(x, payload.m[payload.s] == 1)`,
		"long chains":            `payload.l.exists(x, payload` + times(`.m`, 45) + ` == 1)`,
		"patterns":               `payload.l.exists(x, payload.s.matches('.*.*.*b'))`,
		"a large pattern":        `payload.s.matches('(a?){190}a{190}b')`,
		"literal lists":          `payload.l.map(x, [` + times("1,", 1900) + `x]) == []`,
		"literal maps":           `payload.l.map(x, {` + joined(200, `x: [1, x]`, ",") + `}) == []`,
		"literal sets":           `payload.l.exists(x, x in [` + joined(900, `1.5`, ",") + `, null])`,
		"a sum":                  joined(45, `size(payload.l + payload.l)`, "+") + ` > 0`,
	} {
		t.Run(name, func(t *testing.T) {
			f := mustCompile(t, celFilter(expression))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			verdict := f.Match(m)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			require.Equal(t, Verdict{Why: tooCostly}, verdict)
			require.Less(t, took, 2*EvalTimeMax)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(512<<20))
			t.Logf("%v, %d MiB", took, (after.TotalAlloc-before.TotalAlloc)>>20)
		})
	}
}

func TestLargePayloadsCanBeFiltered(t *testing.T) {
	t.Parallel()
	m := mebibyte()
	for _, expression := range []string{
		`payload.l.all(x, true)`, `payload.l == payload.l`, `!(7 in payload.l)`, `payload.s == payload.z`, `!payload.s.contains('b')`,
		`payload.s.matches('^a+$')`, `payload.s + 'b' > payload.z`, `size(payload.l) > 100000`,
	} {
		require.Equal(t, Verdict{Matches: true}, mustCompile(t, celFilter(expression)).Match(m), expression)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	b := &budget{}
	b.charge(CostMax)
	require.PanicsWithError(t, tooCostly, func() { b.charge(1) })

	late := &budget{deadline: time.Now().Add(-time.Second)}
	require.PanicsWithError(t, tooSlow, func() { late.charge(1) })
	require.WithinDuration(t, time.Now().Add(EvalTimeMax), b.deadline, EvalTimeMax)

	e := mustCompile(t, celFilter(`payload.l.all(x, true)`)).expression
	in := &variables{payload: map[string]any{"l": []any{int64(1)}}, read: true, budget: budget{deadline: time.Now().Add(-time.Second)}}
	_, _, err := e.conjuncts[0].program.Eval(in)
	text, final := e.problem(err)
	require.Equal(t, tooSlow, text)
	require.True(t, final)
}

// TestHostileToCompile has filters whose reading must not take long.
func TestHostileToCompile(t *testing.T) {
	t.Parallel()
	times := strings.Repeat
	for _, expression := range []string{
		times("(", 4000), times("[", 4000), times("!", 4000) + "true", times("-", 4000) + "1 == 1", times("a.b", 1300), times("key=='", 600), times("{1:", 1300),
		times("[", 48) + "1" + times("]", 48) + " == []", times("[1].map(x,", 45) + "x" + times(")", 45) + " == []", times("true?", 700) + "true" + times(":true", 30),
		`[[0]]` + times(`.map(x, {"a":x,"b":x})`, 48) + ` == []`, `[[0]]` + times(`.map(x, [x,x])`, 48) + ` == []`, `key.matches('` + times("(a{30}){30}", 300) + `')`,
		`key.matches('` + times("(", 1900) + times(")", 1900) + `')`, times("key==''&&", 440) + "true", times("key==''||", 440) + "true", times("has(payload.a)&&", 240) + "true",
	} {
		start := time.Now()
		_, err := Compile([]byte(celFilter(expression)))
		require.Less(t, time.Since(start), 10*time.Second, "%.60s", expression)
		if err != nil {
			requireText(t, err.Error(), ErrorBytesMax)
		}
	}
}

func FuzzFilter(f *testing.F) {
	payload := order().Payload
	for _, expression := range []string{
		`headers['type'] == 'order' && payload.amount > 10`, `payload.items.exists(i, i.sku == 'y')`, `payload.tags.map(x, x + x) == []`,
		`key.matches('a{3}')`, `payload.l.all(a, payload.l.all(b, a == b))`, `has(payload.a.b)`, `payload[key] in [1, 2.0, null]`,
	} {
		f.Add([]byte(celFilter(expression)), "k", payload)
	}
	f.Add([]byte(`{"headers":{"type":"order"},"key":"k","payload":{"a":[1,{"b":null}],"c":1e3}}`), "k", payload)
	f.Add([]byte(`{}`), "", []byte(`{"a":[`))
	f.Fuzz(func(t *testing.T, raw []byte, key string, payload []byte) {
		filter, err := Compile(raw)
		if err != nil {
			requireText(t, err.Error(), ErrorBytesMax)
			return
		}
		m := Message{Key: key, Headers: map[string]string{"type": "order"}, Payload: payload}
		start := time.Now()
		verdict := filter.Match(m)
		require.Less(t, time.Since(start), 2*EvalTimeMax)
		require.Equal(t, verdict.Matches, verdict.Why == "")
		requireText(t, verdict.Why, WhyBytesMax)
	})
}

func FuzzDecimal(f *testing.F) {
	for _, seed := range []string{"0", "-0", "1", "1.0", "10e-1", "0.01", "-12.50E+3", "9007199254740993"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := rational(a), rational(b)
		if x == nil || y == nil {
			return
		}
		p, okP := parseDecimal([]byte(a))
		q, okQ := parseDecimal([]byte(b))
		require.True(t, okP && okQ)
		require.Equal(t, x.Cmp(y) == 0, p == q, "%s %s", a, b)
	})
}
