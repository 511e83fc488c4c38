package cloudevents_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/web"
)

// requireSound requires what holds for every event that is taken, and every error.
func requireSound(t *testing.T, events []cloudevents.Event, err *web.Error) {
	t.Helper()
	if err != nil {
		requireSoundError(t, err)
		return
	}
	for _, e := range events {
		if e.Problem != nil {
			requireSoundError(t, e.Problem)
			continue
		}
		require.True(t, e.Payload.IsValid(), "%q", e.Payload)
		require.Nil(t, web.CheckPayload("data", e.Payload, testPayloadMax))
		attributes, _ := restore(t, e)
		require.Equal(t, "1.0", attributes["specversion"])
		require.NotEmpty(t, attributes["type"])
		require.NotEmpty(t, e.ID)
		require.NotEmpty(t, e.Source)
		for name, value := range e.Headers {
			if name != cloudevents.HeaderDataEncoding {
				require.Regexp(t, "^ce-[a-z0-9]{1,20}$", name)
			}
			_, err := jsontext.AppendQuote(nil, value)
			require.NoError(t, err, "a header that is not UTF-8")
			require.NotContains(t, value, "\x00")
		}
	}
}

func requireSoundError(t *testing.T, err *web.Error) {
	t.Helper()
	require.Contains(t, []int{400, 413, 415}, err.Status)
	require.NotEmpty(t, err.Details)
	require.LessOrEqual(t, len(err.Details), cloudevents.DetailsMax+2)
}

func FuzzStructured(f *testing.F) {
	for _, seed := range []string{
		structured(""), structured(`,"data":{"a":[1,"x"]}`), structured(`,"datacontenttype":"text/plain","data_base64":"YQ=="`),
		structured(`,"time":"2026-01-31T08:00:00Z","x":true,"n":-1,"u":null`), `{"a":1,"a":2}`, "\xff", `[]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		events, _, err := parse(t, body, "Content-Type", cloudevents.MediaStructured)
		requireSound(t, events, err)
	})
}

func FuzzBatch(f *testing.F) {
	for _, seed := range []string{
		`[]`, "[" + structured("") + "," + structured(`,"data":"\u0000"`) + "]", `[[1],["a"],{}]`, `[["\u0000"]]`, `[1,2,3,4,"`, structured(""), `[{"data":[[[]]]}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		events, _, err := parse(t, body, "Content-Type", cloudevents.MediaBatch)
		require.LessOrEqual(t, len(events), testEventsMax)
		requireSound(t, events, err)
	})
}

func FuzzBinary(f *testing.F) {
	f.Add("subject", "Euro%20%E2%82%AC", "application/json", `{"a":1}`)
	f.Add("time", `"2026-01-31T08:00:00Z"`, "text/plain", "\xff")
	f.Add("x-y", "%zz", "", "\x00")
	f.Add("SOURCE", "\"\\", "a/b+json; charset=utf-16", "1")
	f.Add("datacontenttype", "text/plain", "text/plain;a", "1")
	f.Fuzz(func(t *testing.T, name, value, contentType, body string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		// Beside what a server lets through also what it does not.
		r.Header = http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"s"}, "Ce-Type": {"t"}, "Content-Type": {contentType}}
		r.Header["Ce-"+name] = append(r.Header["Ce-"+name], value)
		if contentType == "" {
			delete(r.Header, "Content-Type")
		}
		events, _, err := parseRequest(t, r, testLimits)
		requireSound(t, events, err)
	})
}
