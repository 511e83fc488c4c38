package cloudevents_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/web"
)

const (
	testBodyMax    = 4096
	testPayloadMax = 1024
	testEventsMax  = 3
)

var testLimits = cloudevents.Limits{
	BodyBytesMax: testBodyMax, PayloadBytesMax: testPayloadMax, EventsMax: testEventsMax,
}

// parse parses a POST; header is name, value, name, value and so on.
func parse(t testing.TB, body string, header ...string) ([]cloudevents.Event, bool, *web.Error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	for pair := range slices.Chunk(header, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	return parseRequest(t, r, testLimits)
}

func parseRequest(t testing.TB, r *http.Request, limits cloudevents.Limits) ([]cloudevents.Event, bool, *web.Error) {
	t.Helper()
	events, batched, err := cloudevents.Parse(echo.New().NewContext(r, httptest.NewRecorder()), limits)
	if err == nil {
		return events, batched, nil
	}
	require.Empty(t, events)
	e, ok := errors.AsType[*web.Error](err)
	require.True(t, ok, "%T", err)
	return nil, batched, e
}

// parsed is the one event of a request that is fine.
func parsed(t testing.TB, body string, header ...string) cloudevents.Event {
	t.Helper()
	events, batched, err := parse(t, body, header...)
	require.Nil(t, err)
	require.False(t, batched)
	require.Len(t, events, 1)
	return events[0]
}

func structured(members string) string {
	return `{"specversion":"1.0","id":"1","source":"/s","type":"t"` + members + `}`
}

func binary(more ...string) []string {
	return append([]string{"ce-specversion", "1.0", "ce-id", "1", "ce-source", "/s", "ce-type", "t"}, more...)
}

// restore does what doc.go tells consumers to do.
func restore(t testing.TB, e cloudevents.Event) (attributes map[string]string, data []byte) {
	t.Helper()
	attributes = map[string]string{}
	for name, value := range e.Headers {
		if attribute, ok := strings.CutPrefix(name, cloudevents.HeaderPrefix); ok {
			attributes[attribute] = value
		}
	}
	var text string
	switch e.Headers[cloudevents.HeaderDataEncoding] {
	case cloudevents.EncodingNone:
		require.Equal(t, "null", string(e.Payload))
		return attributes, nil
	case cloudevents.EncodingText:
		require.NoError(t, json.Unmarshal(e.Payload, &text))
		return attributes, []byte(text)
	case cloudevents.EncodingBase64:
		require.NoError(t, json.Unmarshal(e.Payload, &text))
		data, err := base64.StdEncoding.DecodeString(text)
		require.NoError(t, err)
		return attributes, data
	default:
		require.NotContains(t, e.Headers, cloudevents.HeaderDataEncoding)
		return attributes, e.Payload
	}
}
