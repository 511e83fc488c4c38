package filter

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExpression(t *testing.T) {
	t.Parallel()
	for expression, why := range map[string]string{
		`true`: "",
		`headers['type'] == 'order' && payload.amount > 10`:          "",
		`headers["content-type"].startsWith("application/")`:         "",
		`key == 'customer-7' && key in ['customer-7', 'customer-8']`: "",
		// Numbers compare by value, whatever they were written as.
		`payload.amount == 11 && payload.amount == 11.0 && payload.amount > 10.5`: "",
		`payload.price == 10 && payload.price == 10.0 && payload.price >= 10`:     "",
		`payload.whole == 10 && payload.amount + 1 == 12`:                         "",
		`payload.big == 9007199254740993 && payload.big != 9007199254740992`:      "",
		`payload.huge > 18446744073709550000.0 && 1 < payload.huge`:               "",
		`payload.items.map(i, i.n) == [1, 2.5] && 1.0 in [1, payload.price]`:      "",
		`size(payload.tags) > 1.5 && 1 < 1.5`:                                     "",
		`payload.nope == 1 && payload.other == 1`:                                 "error: no such key: nope",
		`payload.amount in [1, 11]`:                                               "",
		// Members, lists, null.
		`has(payload.customer.address.city) && !has(payload.customer.phone)`:        "",
		`payload.customer == {'id': 'c1', 'address': {'city': 'Riga'}}`:             "",
		`'a' in payload.tags && 'customer' in payload && size(payload.tags) == 2`:   "",
		`payload.tags + ['c'] == ['a', 'b', 'c'] && payload.tags != ['a']`:          "",
		`payload.secret + '!' == 's3cr3t!'`:                                         "",
		`payload.items.exists(i, i.sku == 'y' && i.n > 2)`:                          "",
		`payload.items.filter(i, i.n > 1).map(i, i.sku) == ['y']`:                   "",
		`payload.items.exists_one(i, i.n == 1) && payload.items.all(i, has(i.sku))`: "",
		`payload.none == null && payload.paid`:                                      "",
		`payload.secret.matches('^s[0-9]') && matches(key, '[a-z]{8}-')`:            "",
		`timestamp(payload.when) < timestamp('2026-02-01T00:00:00Z')`:               "",
		`timestamp(payload.when).getHours() == 23`:                                  "",
		// An error on one side of && or || counts only where the other does not decide.
		`payload.nope == 1 || payload.amount == 11`: "",

		`payload.amount > 100`:                                              "the expression is false",
		`headers.type == 'order' && payload.amount > 100`:                   "payload.amount > 100 is false",
		`payload.paid && (payload.amount > 100 || key == 'k') && key != ''`: `payload.amount > 100 || key == "k" is false`,
		`payload.nope == 1 && headers.type == 'x'`:                          `headers.type == "x" is false`,
		`payload.nope == 1 && headers.type == 'order'`:                      "error: no such key: nope",
		`payload.items.all(i, i.n > 1) && true`:                             "payload.items.all(i, i.n > 1) is false",
		`headers['nope'] == 'x'`:                                            "error: no such key: nope",
		`headers['nope'] != 'x'`:                                            "error: no such key: nope",
		`payload.amount.deeper == 1`:                                        "error: no such key: deeper",
		`payload.tags[7] == 'x'`:                                            "error: index out of bounds",
		`payload.price + 1 == 11`:                                           "error: no such overload",
		`payload.amount > 'x'`:                                              "error: no such overload",
		`'x' in payload.secret`:                                             "error: no such overload",
		`payload.tags + 1 == 2`:                                             "error: no such overload",
		`payload.amount / 0 == 1`:                                           "error: division by zero",
		`payload.amount.matches('a')`:                                       "error: no such overload",
		`payload.amount.all(x, x)`:                                          "error: neither a list nor an object",
		`payload.secret`:                                                    "error: the expression is of type string, not bool",
		`key != '' && payload.amount`:                                       "error: payload.amount is of type int, not bool",
		// Errors of cel-go that would quote the payload.
		`payload[payload.secret] == 1`:             "error: no such key",
		`headers[payload.secret] == '1'`:           "error: no such key",
		`int(payload.secret) == 1`:                 "error: a value cannot be converted",
		`timestamp(payload.secret) < timestamp(0)`: "error: a value cannot be converted",
		`payload.tags[payload.amount] == 'x'`:      "error: index out of bounds",
		`payload.tags[payload.secret] == 'x'`:      "error: a value is not of the kind that the expression expects",
	} {
		t.Run(expression, func(t *testing.T) {
			t.Parallel()
			verdict := mustCompile(t, celFilter(expression)).Match(order())
			require.Equal(t, Verdict{Matches: why == "", Why: why}, verdict)
			require.NotContains(t, verdict.Why, "s3cr3t")
		})
	}
}

func TestExpressionReadsThePayloadOnlyIfUsed(t *testing.T) {
	t.Parallel()
	m := Message{Key: "k", Payload: []byte("{")}
	require.True(t, mustCompile(t, celFilter(`key == 'k'`)).Match(m).Matches)
	require.Equal(t, Verdict{Why: "key == \"x\" is false"}, mustCompile(t, celFilter(`key == 'x' && payload.a == 1`)).Match(m))
	require.Equal(t, Verdict{Why: notJSON}, mustCompile(t, celFilter(`payload.a == 1`)).Match(m))
	require.Equal(t, Verdict{Why: notJSON}, mustCompile(t, celFilter(`payload == null`)).Match(Message{}))
	require.True(t, mustCompile(t, celFilter(`!('x' in headers) && size(headers) == 0`)).Match(Message{}).Matches)
}

func TestExpressionIsNotTakenApartBeyondAPoint(t *testing.T) {
	t.Parallel()
	text := "key != ''"
	for range conjunctsMax - 1 {
		text += " && key != 'x'"
	}
	last := mustCompile(t, celFilter(text))
	require.Len(t, last.expression.conjuncts, conjunctsMax)
	require.Equal(t, `key != "x" is false`, last.Match(Message{Key: "x"}).Why)
	whole := mustCompile(t, celFilter(text+" && key != 'x'"))
	require.Len(t, whole.expression.conjuncts, 1)
	require.Equal(t, "the expression is false", whole.Match(Message{Key: "x"}).Why)
}

func TestExpressionRefused(t *testing.T) {
	t.Parallel()
	for expression, problem := range map[string]string{
		``:                     "messageFilter.cel: is empty",
		`payload.`:             "messageFilter.cel: 1:9: Syntax error: no viable alternative at input '.'",
		"key ==\n 'a' +\n  1":  "messageFilter.cel: 2:6: found no matching overload for '_+_' applied to '(string, int)'",
		`foo == 1`:             "messageFilter.cel: 1:1: undeclared reference to 'foo' (in container '')",
		`size(headers)`:        "messageFilter.cel: must be a bool, not int",
		`headers`:              "messageFilter.cel: must be a bool, not map(string, string)",
		`now() > timestamp(0)`: "messageFilter.cel: 1:4: undeclared reference to 'now' (in container '')",
		// A zone's rules are read from a file.
		`timestamp(0).getHours('Europe/Riga') == 1`:        "messageFilter.cel: 1:22: found no matching overload for 'getHours' applied to 'timestamp.(string)'",
		`timestamp(payload.t).getFullYear(payload.z) == 1`: "messageFilter.cel: 1:33: found no matching overload for 'getFullYear' applied to 'timestamp.(dyn)'",
		`google.protobuf.Value{} == payload`:               "messageFilter.cel: 1:22: objects have no type: write {…}, not google.protobuf.Value{…}",
		`key.matches('(')`:                                 "messageFilter.cel: 1:13: not a pattern of RE2: error parsing regexp: missing closing ): `(`",
		`key.matches(payload.p)`:                           "messageFilter.cel: 1:20: the pattern of matches must be a literal",
		`matches(key, key + 'a')`:                          "messageFilter.cel: 1:18: the pattern of matches must be a literal",
		`key.matches('a{1000}b')`:                          "messageFilter.cel: 1:13: the pattern takes 1003 instructions, at most 1000 are allowed",
	} {
		t.Run(expression, func(t *testing.T) {
			t.Parallel()
			_, err := Compile([]byte(celFilter(expression)))
			require.EqualError(t, err, problem)
		})
	}
}
