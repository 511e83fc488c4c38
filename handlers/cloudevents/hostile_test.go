package cloudevents_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/web"
)

func TestRefused(t *testing.T) {
	t.Parallel()
	const invalid, tooLarge, media = web.CodeValidationFailed, web.CodePayloadTooLarge, web.CodeUnsupportedMediaType
	st := []string{"Content-Type", cloudevents.MediaStructured}
	ba := []string{"Content-Type", cloudevents.MediaBatch}
	inJSON := binary("Content-Type", "application/json")
	without := func(name string) []string {
		var out []string
		for i, all := 0, binary(); i < len(all); i += 2 {
			if all[i] != name {
				out = append(out, all[i], all[i+1])
			}
		}
		return out
	}
	deep := strings.Repeat("[", 33) + strings.Repeat("]", 33)
	for _, tc := range []struct {
		name, body  string
		header      []string
		status      int
		code, field string
	}{
		{"format not known", `{}`, []string{"Content-Type", "application/cloudevents+avro"}, 415, media, "Content-Type"},
		{"format not named", `{}`, []string{"Content-Type", "application/cloudevents"}, 415, media, "Content-Type"},
		{"format with a charset", `{}`, []string{"Content-Type", "application/cloudevents+json; charset=latin1"}, 415, media, "Content-Type"},
		{"malformed content type", `{}`, []string{"Content-Type", "application/cloudevents+json; ="}, 415, media, "Content-Type"},
		{"two content types", `{}`, append([]string{"Content-Type", "text/plain"}, st...), 400, invalid, "Content-Type"},
		{"compressed", "\x1f\x8b", binary("Content-Encoding", "gzip"), 415, media, "Content-Encoding"},

		{"binary, no specversion", ``, without("ce-specversion"), 400, invalid, "ce-specversion"},
		{"binary, no id", ``, without("ce-id"), 400, invalid, "ce-id"},
		{"binary, no source", ``, without("ce-source"), 400, invalid, "ce-source"},
		{"binary, no type", ``, without("ce-type"), 400, invalid, "ce-type"},
		{"binary, another specversion", ``, append(without("ce-specversion"), "ce-specversion", "0.3"), 400, invalid, "ce-specversion"},
		{"binary, empty id", ``, append(without("ce-id"), "ce-id", ""), 400, invalid, "ce-id"},
		{"binary, twice", ``, binary("ce-id", "2"), 400, invalid, "ce-id"},
		{"binary, extension twice", ``, binary("ce-x", "1", "Ce-X", "1"), 400, invalid, "ce-x"},
		{"binary, name with a hyphen", ``, binary("ce-my-ext", "1"), 400, invalid, "ce-my-ext"},
		{"binary, no name", ``, binary("ce-", "1"), 400, invalid, "ce-"},
		{"binary, name of 21", ``, binary("ce-"+strings.Repeat("a", 21), "1"), 400, invalid, "ce-" + strings.Repeat("a", 21)},
		{"binary, data as a header", ``, binary("ce-data", "1"), 400, invalid, "ce-data"},
		{"binary, datacontenttype as a header", ``, binary("ce-datacontenttype", "text/plain"), 400, invalid, "ce-datacontenttype"},
		{"binary, half a percent-encoding", ``, binary("ce-subject", "100%"), 400, invalid, "ce-subject"},
		{"binary, percent-encoding of nothing", ``, binary("ce-subject", "%zz"), 400, invalid, "ce-subject"},
		{"binary, overlong UTF-8", ``, binary("ce-subject", "%C0%A0"), 400, invalid, "ce-subject"},
		{"binary, latin", ``, binary("ce-subject", "gr\xfc\xdf"), 400, invalid, "ce-subject"},
		{"binary, encoded NUL", ``, binary("ce-subject", "a%00"), 400, invalid, "ce-subject"},
		{"binary, encoded line break", ``, binary("ce-x", "a%0D%0Ab"), 400, invalid, "ce-x"},
		{"binary, quote not closed", ``, binary("ce-subject", `"a`), 400, invalid, "ce-subject"},
		{"binary, escape of nothing", ``, binary("ce-subject", `"a\`), 400, invalid, "ce-subject"},
		{"binary, text behind a quote", ``, binary("ce-subject", `"a" b`), 400, invalid, "ce-subject"},
		{"binary, time", ``, binary("ce-time", "2026-01-31 08:00:00"), 400, invalid, "ce-time"},
		{"binary, time without a zone", ``, binary("ce-time", "2026-01-31T08:00:00"), 400, invalid, "ce-time"},
		{"binary, no such day", ``, binary("ce-time", "2026-02-30T08:00:00Z"), 400, invalid, "ce-time"},
		{"binary, relative schema", ``, binary("ce-dataschema", "/s"), 400, invalid, "ce-dataschema"},
		{"binary, empty key", ``, binary("ce-partitionkey", ""), 400, invalid, "ce-partitionkey"},
		{"binary, content type", `x`, binary("Content-Type", "nonsense"), 400, invalid, "Content-Type"},
		{"binary, JSON in another charset", `{}`, binary("Content-Type", "application/json; charset=utf-16"), 415, media, "Content-Type"},
		{"binary, no JSON", `{"a":`, inJSON, 400, invalid, "data.a"},
		{"binary, white space", "\n", inJSON, 400, invalid, "data"},
		{"binary, trailing data", `{} {}`, inJSON, 400, invalid, "data"},
		{"binary, member given twice", `{"a":{"b":1,"b":2}}`, inJSON, 400, invalid, "data.a.b"},
		{"binary, member of an element", `[{"b":1,"b":2}]`, inJSON, 400, invalid, "data[0].b"},
		{"binary, invalid UTF-8", "\"\xff\"", inJSON, 400, invalid, "data"},
		{"binary, half a surrogate pair", `{"a":"\ud800"}`, inJSON, 400, invalid, "data.a"},
		{"binary, NUL", `{"a":"\u0000"}`, inJSON, 400, invalid, "data.a"},
		{"binary, number beyond a double", `{"a":1e999}`, inJSON, 400, invalid, "data.a"},
		{"binary, deep", deep, inJSON, 400, invalid, "data"},
		{"binary, large data", strings.Repeat("1", testPayloadMax+1), inJSON, 413, tooLarge, "data"},
		{"binary, large in base64", strings.Repeat("1", testPayloadMax-1), binary(), 413, tooLarge, "data"},
		{"binary, large body", strings.Repeat("1", testBodyMax+1), inJSON, 413, tooLarge, "body"},

		{"structured, empty", ``, st, 400, invalid, "body"},
		{"structured, array", `[]`, st, 400, invalid, "body"},
		{"structured, half", `{"id":"1"`, st, 400, invalid, "body"},
		{"structured, trailing data", structured("") + "x", st, 400, invalid, "body"},
		{"structured, member given twice", structured(`,"id":"2"`), st, 400, invalid, "id"},
		{"structured, data member given twice", structured(`,"data":{"a":{"b":1,"b":2}}`), st, 400, invalid, "data.a.b"},
		{"structured, nothing", `{}`, st, 400, invalid, "specversion"},
		{"structured, null id", `{"specversion":"1.0","id":null,"source":"s","type":"t"}`, st, 400, invalid, "id"},
		{"structured, empty source", `{"specversion":"1.0","id":"1","source":"","type":"t"}`, st, 400, invalid, "source"},
		{"structured, no URI", `{"specversion":"1.0","id":"1","source":"http://[","type":"t"}`, st, 400, invalid, "source"},
		{"structured, number as id", `{"specversion":"1.0","id":1,"source":"s","type":"t"}`, st, 400, invalid, "id"},
		{"structured, number as specversion", `{"specversion":1.0,"id":"1","source":"s","type":"t"}`, st, 400, invalid, "specversion"},
		{"structured, upper case", structured(`,"Data":1`), st, 400, invalid, "Data"},
		{"structured, underscore", structured(`,"my_ext":1`), st, 400, invalid, "my_ext"},
		{"structured, empty name", structured(`,"":1`), st, 400, invalid, ""},
		{"structured, long name", structured(`,"` + strings.Repeat("A", 99) + `":1`), st, 400, invalid, strings.Repeat("A", 60) + "…"},
		{"structured, object as extension", structured(`,"x":{}`), st, 400, invalid, "x"},
		{"structured, array as extension", structured(`,"x":[1]`), st, 400, invalid, "x"},
		{"structured, fraction as extension", structured(`,"x":1.5`), st, 400, invalid, "x"},
		{"structured, exponent as extension", structured(`,"x":1e2`), st, 400, invalid, "x"},
		{"structured, 33 bits as extension", structured(`,"x":2147483648`), st, 400, invalid, "x"},
		{"structured, boolean as key", structured(`,"partitionkey":true`), st, 400, invalid, "partitionkey"},
		{"structured, empty subject", structured(`,"subject":""`), st, 400, invalid, "subject"},
		{"structured, control character", structured(`,"subject":"\u0085"`), st, 400, invalid, "subject"},
		{"structured, noncharacter", structured(`,"x":"\uffff"`), st, 400, invalid, "x"},
		{"structured, NUL", structured(`,"x":"\u0000"`), st, 400, invalid, "x"},
		{"structured, data twice", structured(`,"data":1,"data_base64":"MQ=="`), st, 400, invalid, "data_base64"},
		{"structured, base64 without padding", structured(`,"data_base64":"MQ"`), st, 400, invalid, "data_base64"},
		{"structured, base64 with a line break", structured(`,"data_base64":"MQ==\n"`), st, 400, invalid, "data_base64"},
		{"structured, base64 with stray bits", structured(`,"data_base64":"MR=="`), st, 400, invalid, "data_base64"},
		{"structured, number in base64", structured(`,"data_base64":1`), st, 400, invalid, "data_base64"},
		{"structured, no JSON in base64", structured(`,"data_base64":"AAAA"`), st, 400, invalid, "data_base64"},
		{"structured, object as text", structured(`,"datacontenttype":"text/plain","data":{}`), st, 400, invalid, "data"},
		{"structured, null as text", structured(`,"datacontenttype":"text/plain","data":null`), st, 400, invalid, "data"},
		{"structured, content type", structured(`,"datacontenttype":"json"`), st, 400, invalid, "datacontenttype"},
		{"structured, deep", structured(`,"data":` + deep), st, 400, invalid, "data"},
		{"structured, large data", structured(`,"data":"` + strings.Repeat("1", testPayloadMax) + `"`), st, 413, tooLarge, "data"},
		{"structured, large body", structured(`,"x":"` + strings.Repeat("1", testBodyMax) + `"`), st, 413, tooLarge, "body"},

		{"batch, empty", ``, ba, 400, invalid, "body"},
		{"batch, object", structured(""), ba, 400, invalid, "body"},
		{"batch, half", `[` + structured(""), ba, 400, invalid, "body"},
		{"batch, half behind its limit", `[1,2,3,4`, ba, 400, invalid, "body"},
		{"batch, trailing data", `[] []`, ba, 400, invalid, "body"},
		{"batch, member given twice", `[` + structured(`,"id":"2"`) + `]`, ba, 400, invalid, "[0].id"},
		{"batch, too many", `[1,2,3,4]`, ba, 400, invalid, "body"},
		{"batch, large body", `[` + strings.Repeat(" ", testBodyMax) + `]`, ba, 413, tooLarge, "body"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := parse(t, tc.body, tc.header...)
			require.NotNil(t, err)
			require.Equal(t, tc.status, err.Status, err.Message)
			require.Equal(t, tc.code, err.Code)
			require.NotEmpty(t, err.Message)
			require.NotEmpty(t, err.Details)
			require.Equal(t, tc.field, err.Details[0].Field, "%+v", err.Details)
		})
	}
}

func TestAllThatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	_, _, err := parse(t, "", "ce-specversion", "2", "ce-time", "now", "ce-a_b", "1")
	require.NotNil(t, err)
	var fields []string
	for _, detail := range err.Details {
		fields = append(fields, detail.Field)
	}
	require.Equal(t, []string{"ce-a_b", "ce-specversion", "ce-time", "ce-id", "ce-source", "ce-type"}, fields)

	_, _, err = parse(t, structured(manyNames(100)), "Content-Type", cloudevents.MediaStructured)
	require.NotNil(t, err)
	require.Len(t, err.Details, cloudevents.DetailsMax)
}

func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"A%d":1`, i)
	}
	return b.String()
}

func TestBodies(t *testing.T) {
	t.Parallel()
	batchOf := func(body string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", cloudevents.MediaBatch)
		return r
	}

	t.Run("a batch has a limit of its own", func(t *testing.T) {
		t.Parallel()
		events, _, err := parseRequest(t, batchOf("["+structured("")+"]"), cloudevents.Limits{BodyBytesMax: 1, BatchBytesMax: 100, PayloadBytesMax: 10})
		require.Nil(t, err)
		require.Len(t, events, 1)
	})
	t.Run("a batch has 1000 events", func(t *testing.T) {
		t.Parallel()
		limits := cloudevents.Limits{BodyBytesMax: 4000, PayloadBytesMax: 10}
		for _, n := range []int{cloudevents.EventsMax, cloudevents.EventsMax + 1} {
			events, _, err := parseRequest(t, batchOf("[1"+strings.Repeat(",1", n-1)+"]"), limits)
			if n > cloudevents.EventsMax {
				require.NotNil(t, err)
				require.Equal(t, "at most 1000 events", err.Details[0].Limit)
				continue
			}
			require.Nil(t, err)
			require.Len(t, events, n)
		}
	})
	t.Run("an unknown length is bounded too", func(t *testing.T) {
		t.Parallel()
		for _, contentType := range []string{cloudevents.MediaBatch, cloudevents.MediaStructured, "text/plain"} {
			r := httptest.NewRequest(http.MethodPost, "/", iotest.OneByteReader(strings.NewReader(strings.Repeat(" ", 11))))
			r.Header = http.Header{"Content-Type": {contentType}, "Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"s"}, "Ce-Type": {"t"}}
			_, _, err := parseRequest(t, r, cloudevents.Limits{BodyBytesMax: 10, PayloadBytesMax: 10})
			require.NotNil(t, err)
			require.Equal(t, http.StatusRequestEntityTooLarge, err.Status)
		}
	})
	t.Run("a body that breaks off", func(t *testing.T) {
		t.Parallel()
		r := httptest.NewRequest(http.MethodPost, "/", iotest.ErrReader(http.ErrHandlerTimeout))
		r.Header = http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"s"}, "Ce-Type": {"t"}}
		_, _, err := parseRequest(t, r, testLimits)
		require.NotNil(t, err)
		require.Equal(t, http.StatusBadRequest, err.Status)
		require.Equal(t, "body", err.Details[0].Field)
	})
}
