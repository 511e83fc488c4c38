package filter

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEquality(t *testing.T) {
	t.Parallel()
	for raw, why := range map[string]string{
		`{}`:             "",
		`{"headers":{}}`: "",
		`{"headers":{"type":"order"},"key":"customer-7","payload":{"amount":11}}`: "",
		`{"headers":{"type":"refund"}}`:                                           `headers.type is "order", wanted "refund"`,
		`{"headers":{"Type":"order"}}`:                                            "headers.Type is missing",
		`{"headers":{"a b":"order"}}`:                                             `headers["a b"] is missing`,
		`{"headers":{"b":"1","a":"1"},"key":"x"}`:                                 "headers.b is missing",
		`{"key":"x"}`:             `key is "customer-7", wanted "x"`,
		`{"key":""}`:              `key is "customer-7", wanted ""`,
		`{"key":"x","payload":1}`: `key is "customer-7", wanted "x"`,
		// Objects by what is named, at any depth.
		`{"payload":{}}`: "",
		`{"payload":{"customer":{"address":{"city":"Riga"}}}}`: "",
		`{"payload":{"customer":{"address":{"city":"riga"}}}}`: "payload.customer.address.city differs",
		`{"payload":{"customer":{"phone":"1"},"nope":1}}`:      "payload.customer.phone is missing",
		`{"payload":{"nope":null}}`:                            "payload.nope is missing",
		`{"payload":{"customer":[]}}`:                          "payload.customer differs",
		`{"payload":{"customer":{"id":{"x":1}}}}`:              "payload.customer.id differs",
		`{"payload":{"a\u0000\"b":1}}`:                         `payload["a\x00\"b"] is missing`,
		`{"payload":[]}`:                                       "payload differs",
		`{"payload":null}`:                                     "payload differs",
		// Arrays as a whole.
		`{"payload":{"tags":["a","b"]}}`:                                    "",
		`{"payload":{"tags":["a"]}}`:                                        "payload.tags differs",
		`{"payload":{"tags":["a","b","c"]}}`:                                "payload.tags differs",
		`{"payload":{"tags":["b","a"]}}`:                                    "payload.tags differs",
		`{"payload":{"tags":[]}}`:                                           "payload.tags differs",
		`{"payload":{"items":[{"n":1.0,"sku":"x"},{"sku":"y","n":25e-1}]}}`: "",
		`{"payload":{"items":[{"sku":"x"},{"sku":"y"}]}}`:                   "payload.items differs",
		// Scalars.
		`{"payload":{"paid":true,"none":null}}`:             "",
		`{"payload":{"paid":false}}`:                        "payload.paid differs",
		`{"payload":{"paid":"true"}}`:                       "payload.paid differs",
		`{"payload":{"none":false}}`:                        "payload.none differs",
		`{"payload":{"secret":"s3cr3t"}}`:                   "",
		`{"payload":{"secret":"s\u0033cr3t"}}`:              "",
		`{"payload":{"secret":"S3cr3t"}}`:                   "payload.secret differs",
		`{"payload":{"amount":11.0,"price":10,"whole":10}}`: "",
		`{"payload":{"amount":110e-1}}`:                     "",
		`{"payload":{"amount":-11}}`:                        "payload.amount differs",
		`{"payload":{"amount":"11"}}`:                       "payload.amount differs",
		`{"payload":{"big":9007199254740993}}`:              "",
		`{"payload":{"big":9007199254740992}}`:              "payload.big differs",
		`{"payload":{"huge":18446744073709551615.000}}`:     "",
	} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, Verdict{Matches: why == "", Why: why}, mustCompile(t, raw).Match(order()))
		})
	}
}

func TestEqualityOfOtherPayloads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ raw, payload, why string }{
		{`{"payload":1}`, `1e0`, ""},
		{`{"payload":0}`, `-0.0e5`, ""},
		{`{"payload":100}`, `1e2`, ""},
		{`{"payload":1}`, `1e99999999999999999999`, "payload differs"},
		{`{"payload":"a"}`, `"\u0061"`, ""},
		{`{"payload":{"ä":1}}`, `{"\u00e4":1,"b":{"c":[1]}}`, ""},
		{`{"payload":[[]]}`, `[[]]`, ""},
		{`{"payload":[[]]}`, `[{}]`, "payload differs"},
		{`{"payload":[null]}`, `[null]`, ""},
		{`{"payload":{}}`, ``, notJSON},
		{`{"payload":{}}`, `{"a"`, notJSON},
		{`{"payload":{"b":1}}`, `{"a":[1,}`, notJSON},
		{`{"payload":[1]}`, `[1`, notJSON},
		{`{"payload":[1]}`, `[`, notJSON},
		{`{"payload":"a"}`, `"a`, notJSON},
		{`{"key":""}`, `{`, ""},
	} {
		t.Run(c.raw+" "+c.payload, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, Verdict{Matches: c.why == "", Why: c.why}, mustCompile(t, c.raw).Match(Message{Payload: []byte(c.payload)}))
		})
	}
}

func TestEqualityOfManyMembers(t *testing.T) {
	t.Parallel()
	members := make([]string, 0, 26)
	for c := 'a'; c <= 'z'; c++ {
		members = append(members, `"`+string(c)+`":1`)
	}
	f := mustCompile(t, `{"payload":{`+strings.Join(members, ",")+`}}`)
	require.True(t, f.Match(Message{Payload: []byte("{" + strings.Join(members, ",") + "}")}).Matches)
	require.Equal(t, "payload.z is missing", f.Match(Message{Payload: []byte("{" + strings.Join(members[:25], ",") + "}")}).Why)
	// The same member twice is not two.
	members[25] = `"a":1`
	require.Equal(t, "payload.z is missing", f.Match(Message{Payload: []byte("{" + strings.Join(members, ",") + "}")}).Why)
}

func TestQuotesAreShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä\n", 1000)
	for _, f := range []*Filter{
		mustCompile(t, `{"headers":{"`+strings.Repeat("n", 300)+`":"`+strings.Repeat("w", 300)+`"}}`),
		mustCompile(t, `{"key":"`+strings.Repeat(`\u0001`, 300)+`"}`),
		mustCompile(t, `{"payload":{"`+strings.Repeat("n", 300)+`":{"`+strings.Repeat("m", 300)+`":1}}}`),
		mustCompile(t, celFilter(`key == '`+strings.Repeat("x", 300)+`' && true`)),
	} {
		why := f.Match(Message{Key: long, Headers: map[string]string{strings.Repeat("n", 300): long}, Payload: []byte(`{"` + strings.Repeat("n", 300) + `":{}}`)}).Why
		require.NotEmpty(t, why)
		require.NotContains(t, why, strings.Repeat("ä", 30))
		requireText(t, why, WhyBytesMax)
	}
	why := mustCompile(t, `{"key":"wanted"}`).Match(Message{Key: strings.Repeat("k", 100)}).Why
	require.Equal(t, `key is "`+strings.Repeat("k", QuoteBytesMax-len(ellipsis))+`…", wanted "wanted"`, why)
}
