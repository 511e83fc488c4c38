package cloudevents_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/cloudevents"
)

func TestIs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		header http.Header
		want   bool
	}{
		{"nothing", http.Header{}, false},
		{"JSON", http.Header{"Content-Type": {"application/json"}}, false},
		{"another attribute alone", http.Header{"Ce-Id": {"1"}}, false},
		{"binary", http.Header{"Content-Type": {"application/json"}, "Ce-Specversion": {"1.0"}}, true},
		{"binary, empty", http.Header{"Ce-Specversion": {""}}, true},
		{"structured", http.Header{"Content-Type": {"Application/CloudEvents+JSON; charset=utf-8"}}, true},
		{"batched", http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, true},
		{"another format", http.Header{"Content-Type": {"application/cloudevents+avro"}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, cloudevents.Is(tc.header))
		})
	}
}

func TestHeaderValues(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, raw, want string }{
		{"plain", "abc", "abc"},
		{"percent-encoded", "Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"},
		{"lower-case digits", "%e2%82%ac", "€"},
		{"needlessly encoded", "%41b", "Ab"},
		{"decoded once only", "%2541", "%41"},
		{"UTF-8 as it is", "Euro € 😀", "Euro € 😀"},
		{"quoted", `"a b"`, "a b"},
		{"quoted, with escapes", `"a \"b\" \\ %20"`, `a "b" \  `},
		{"quotes within", `say "hi"`, `say "hi"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := parsed(t, "", binary("ce-subject", tc.raw)...)
			require.Equal(t, tc.want, e.Headers["ce-subject"])
		})
	}
}

func TestDataBecomesPayload(t *testing.T) {
	t.Parallel()
	toStructured := []string{"Content-Type", cloudevents.MediaStructured}
	for _, tc := range []struct {
		name, body                     string
		header                         []string
		payload, encoding, contentType string
	}{
		{"binary, JSON keeps its bytes", ` { "b" : 1.0, "a": "\u00fc" } `, binary("Content-Type", "application/json"), `{ "b" : 1.0, "a": "\u00fc" }`, "", "application/json"},
		{"binary, text/json", `1`, binary("Content-Type", "text/json"), `1`, "", "text/json"},
		{"binary, a string is no text", `"a"`, binary("Content-Type", "application/a+json"), `"a"`, "", "application/a+json"},
		{"binary, nothing declared", `{}`, binary(), `"e30="`, "base64", "application/octet-stream"},
		{"binary, text", `{}`, binary("Content-Type", "text/plain"), `"{}"`, "text", "text/plain"},
		{"binary, text in UTF-16", "a\x00", binary("Content-Type", "text/plain; charset=utf-16"), `"YQA="`, "base64", "text/plain; charset=utf-16"},
		{"binary, no data", ``, binary("Content-Type", "application/json"), `null`, "none", "application/json"},
		{"structured, JSON keeps its bytes", structured(`,"data": { "b" : 1.0, "a": "\u00fc" } `), toStructured, `{ "b" : 1.0, "a": "\u00fc" }`, "", "application/json"},
		{"structured, data comes first", `{"data":"x","datacontenttype":"text/css","type":"t","source":"s","id":"1","specversion":"1.0"}`, toStructured, `"x"`, "text", "text/css"},
		{"structured, null is data", structured(`,"data":null`), toStructured, `null`, "", "application/json"},
		{"structured, no data", structured(``), toStructured, `null`, "none", ""},
		{"structured, text", structured(`,"datacontenttype":"application/xml","data":"<\u0061/>"`), toStructured, `"<\u0061/>"`, "text", "application/xml"},
		{"structured, JSON in base64", structured(`,"data_base64":"eyAiYSI6IDEgfQ=="`), toStructured, `{ "a": 1 }`, "", "application/json"},
		{"structured, bytes in base64", structured(`,"datacontenttype":"image/png","data_base64":"AP8="`), toStructured, `"AP8="`, "base64", "image/png"},
		{"structured, text in base64", structured(`,"datacontenttype":"text/css","data_base64":"YQ=="`), toStructured, `"a"`, "text", "text/css"},
		{"structured, null is no base64", structured(`,"data":1,"data_base64":null`), toStructured, `1`, "", "application/json"},
		{"structured, empty base64", structured(`,"data_base64":""`), toStructured, `null`, "none", "application/json"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := parsed(t, tc.body, tc.header...)
			require.Equal(t, tc.payload, string(e.Payload))
			require.Equal(t, tc.encoding, e.Headers[cloudevents.HeaderDataEncoding])
			require.Equal(t, tc.contentType, e.ContentType)
		})
	}
}

func TestAttributesBecomeHeaders(t *testing.T) {
	t.Parallel()
	e := parsed(t, structured(`,"subject":null,"yes":true,"n":-0,"min":-2147483648,"s":"","unset":null,"traceparent":"00-x","time":"2026-01-31t08:00:00.5+01:00"`),
		"Content-Type", "application/cloudevents+json; charset=UTF-8", "ce-id", "ignored", "ce-specversion", "0.3")
	require.Equal(t, map[string]string{
		"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-yes": "true", "ce-n": "0", "ce-min": "-2147483648",
		"ce-s": "", "ce-traceparent": "00-x", "ce-time": "2026-01-31t08:00:00.5+01:00", "data-encoding": "none",
	}, e.Headers)
	require.Empty(t, e.TraceParent, "a malformed one is no trace")
	require.Empty(t, e.Key)
}

func TestABatchGoesOn(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, tc := range []struct {
		name, member  string
		status        int
		field, second string
	}{
		{"no object", `1`, 400, "[1]", ""},
		{"array of members", `["id","\u0061"]`, 400, "[1]", ""},
		{"missing", `{"specversion":"1.0","id":"1"}`, 400, "[1].source", "[1].type"},
		{"wrong type", `{"specversion":"1.0","id":1,"source":"s","type":"t"}`, 400, "[1].id", ""},
		{"name", structured(`,"Upper":1`), 400, "[1].Upper", ""},
		{"number beyond a double", structured(`,"n":1e999`), 400, "[1].n", ""},
		{"NUL in an attribute", structured(`,"subject":"\u0000"`), 400, "[1].subject", ""},
		{"NUL in the data", structured(`,"data":"\u0000"`), 400, "[1].data", ""},
		{"deep data", structured(`,"data":` + deep), 400, "[1].data", ""},
		{"large data", structured(`,"data":"` + strings.Repeat("a", testPayloadMax) + `"`), 413, "[1].data", ""},
		{"JSON in base64", structured(`,"data_base64":"eyJhIjoxLCJhIjoyfQ=="`), 400, "[1].data_base64.a", ""},
		{"charset", structured(`,"datacontenttype":"a/json;charset=utf-16","data_base64":"AAAA"`), 415, "[1].datacontenttype", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			events, batched, err := parse(t, "["+structured("")+","+tc.member+","+structured("")+"]", "Content-Type", cloudevents.MediaBatch)
			require.Nil(t, err)
			require.True(t, batched)
			require.Len(t, events, 3)
			require.Nil(t, events[0].Problem)
			require.Nil(t, events[2].Problem)
			problem := events[1].Problem
			require.NotNil(t, problem)
			require.Equal(t, tc.status, problem.Status)
			require.Equal(t, tc.field, problem.Details[0].Field)
			if tc.second != "" {
				require.Equal(t, tc.second, problem.Details[1].Field)
			}
		})
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	key := func(source, id string) string {
		return cloudevents.IdempotencyKey(&cloudevents.Event{Source: source, ID: id})
	}
	require.Regexp(t, "^[0-9a-f]{64}$", key("", ""))
	require.NotEqual(t, key("ab", "c"), key("a", "bc"))
	require.NotEqual(t, key("a", "b"), key("b", "a"))
	require.Equal(t, "696d5126bbe55c858b39f3f87e3a83df", key("/s", "1")[:32], "it is kept beside messages, so it must stay")
}
