package cloudevents_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	sdk "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/format"
	sdkhttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	sdktypes "github.com/cloudevents/sdk-go/v2/types"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/cloudevents"
)

type received struct {
	is, batched bool
	events      []cloudevents.Event
	err         error
}

// receiver parses what is sent to its URL, and answers 204 or 400.
func receiver(t *testing.T) (url string, got <-chan received) {
	t.Helper()
	out := make(chan received, 1)
	e := echo.New()
	e.POST("/", func(c echo.Context) error {
		r := received{is: cloudevents.Is(c.Request().Header)}
		r.events, r.batched, r.err = cloudevents.Parse(c, testLimits)
		out <- r
		if r.err != nil {
			return c.NoContent(http.StatusBadRequest)
		}
		return c.NoContent(http.StatusNoContent)
	})
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return server.URL, out
}

// sent makes the events that are sent in each mode, by name.
func sent(t *testing.T) map[string]sdk.Event {
	t.Helper()
	made := map[string]sdk.Event{}
	for name, set := range map[string]func(*sdk.Event) error{
		"JSON object": func(e *sdk.Event) error {
			return e.SetData("application/json", map[string]any{"a": []int{1, 2}, "ü": "€"})
		},
		"JSON null": func(e *sdk.Event) error { return e.SetData("application/json", nil) },
		"JSON suffix": func(e *sdk.Event) error {
			return e.SetData("application/vnd.a+json; charset=utf-8", []byte(`{"a":1.50}`))
		},
		"JSON as bytes": func(e *sdk.Event) error { return e.SetData("application/json", []byte(`{ "a" : 1e2 }`)) },
		"text":          func(e *sdk.Event) error { return e.SetData("text/plain", "grüß \"Gott\"\n\x01") },
		"text as bytes": func(e *sdk.Event) error { return e.SetData("text/plain; charset=utf-8", []byte("😀")) },
		"text in latin": func(e *sdk.Event) error { return e.SetData("text/plain; charset=iso-8859-1", []byte("gr\xfc\xdf")) },
		"text, but not": func(e *sdk.Event) error { return e.SetData("text/plain", []byte("a\xff\x00")) },
		"XML":           func(e *sdk.Event) error { return e.SetData("application/xml", []byte("<a>1</a>")) },
		"binary":        func(e *sdk.Event) error { return e.SetData("application/octet-stream", []byte{0, 1, 0xfe, 0xff}) },
		"none":          func(*sdk.Event) error { return nil },
	} {
		e := sdk.NewEvent()
		e.SetID("id-" + name)
		e.SetSource("https://example.com/a?b=c#d")
		e.SetType("com.example.happened")
		e.SetSubject("größe/€ 😀")
		e.SetDataSchema("https://example.com/schema")
		e.SetTime(time.Date(2026, 1, 31, 8, 0, 0, 123456789, time.UTC))
		e.SetExtension("partitionkey", "k ü")
		e.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		e.SetExtension("tracestate", "a=b,c=d")
		e.SetExtension("yes", true)
		e.SetExtension("no", false)
		e.SetExtension("count", -42)
		e.SetExtension("due", time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC))
		require.NoError(t, set(&e))
		require.NoError(t, e.Validate())
		made[name] = e
	}
	return made
}

// requireSame requires that a message holds all of the event.
func requireSame(t *testing.T, want sdk.Event, got cloudevents.Event) {
	t.Helper()
	require.Nil(t, got.Problem)
	attributes, data := restore(t, got)
	expected := map[string]string{
		"specversion": "1.0", "id": want.ID(), "source": want.Source(), "type": want.Type(), "subject": want.Subject(),
		"dataschema": want.DataSchema(), "time": sdktypes.FormatTime(want.Time()),
	}
	for name, value := range want.Extensions() {
		text, err := sdktypes.Format(value)
		require.NoError(t, err)
		expected[name] = text
	}
	require.Equal(t, expected, attributes)
	require.Equal(t, string(want.Data()), string(data))
	require.Equal(t, want.DataContentType(), got.ContentType)
	require.Equal(t, want.ID(), got.ID)
	require.Equal(t, want.Source(), got.Source)
	require.Equal(t, "k ü", got.Key)
	require.Equal(t, want.Extensions()["traceparent"], got.TraceParent)
}

func TestClientSendsOneEvent(t *testing.T) {
	t.Parallel()
	modes := map[string]func(context.Context) context.Context{"binary": binding.WithForceBinary, "structured": binding.WithForceStructured}
	for mode, in := range modes {
		for name, want := range sent(t) {
			t.Run(mode+"/"+name, func(t *testing.T) {
				t.Parallel()
				url, got := receiver(t)
				client, err := sdk.NewClientHTTP(sdk.WithTarget(url))
				require.NoError(t, err)
				result := client.Send(in(t.Context()), want)
				r := <-got
				require.NoError(t, r.err)
				require.True(t, sdk.IsACK(result), "%v", result)
				require.True(t, r.is)
				require.False(t, r.batched)
				require.Len(t, r.events, 1)
				requireSame(t, want, r.events[0])
			})
		}
	}
}

func TestClientSendsABatch(t *testing.T) {
	t.Parallel()
	made := sent(t)
	for name, batch := range map[string][]sdk.Event{
		"none": {}, "one": {made["text"]}, "three": {made["JSON object"], made["binary"], made["none"]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, got := receiver(t)
			req, err := sdkhttp.NewHTTPRequestFromEvents(t.Context(), url, batch)
			require.NoError(t, err)
			require.Equal(t, format.JSONBatch.MediaType(), req.Header.Get("Content-Type"))
			answer, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			r := <-got
			require.NoError(t, r.err)
			require.True(t, r.is)
			require.True(t, r.batched)
			require.Len(t, r.events, len(batch))
			for i, want := range batch {
				requireSame(t, want, r.events[i])
			}
		})
	}
}
