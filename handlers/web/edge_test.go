package web

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
)

// What comes in a URL need not be UTF-8, and is answered all the same.
func TestAnswersNameWhatIsNoText(t *testing.T) {
	t.Parallel()
	e := echo.New()
	e.HTTPErrorHandler = ErrorHandler(slog.New(slog.DiscardHandler))
	e.Use(RequestIDs, Recover)
	e.GET("/", func(c echo.Context) error { return CheckQuery(c, "a") })
	e.GET("/raw", func(c echo.Context) error {
		return WriteRawJSON(c, http.StatusOK, map[string]any{c.QueryParam("a"): Raw(" 1")})
	})
	get := func(path string) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		return rec
	}
	rec := get("/?%ff=1")
	require.Equal(t, http.StatusBadRequest, rec.Code, rec.Body)
	var answer Error
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &answer))
	require.Equal(t, "\ufffd", answer.Details[0].Field)
	rec = get("/raw?a=%ff")
	require.Equal(t, http.StatusOK, rec.Code)
	require.Equal(t, "{\"\ufffd\": 1}", rec.Body.String())
}

func TestDecodeLeavesToTheCallerWhatStandsApart(t *testing.T) {
	t.Parallel()
	decode := func(body string) *httptest.ResponseRecorder {
		e := echo.New()
		e.HTTPErrorHandler = ErrorHandler(slog.New(slog.DiscardHandler))
		e.POST("/", func(c echo.Context) error {
			var got outer
			if err := Decode(c, &got, testBodyMax, "/messages/*/payload"); err != nil {
				return err
			}
			return c.NoContent(http.StatusNoContent)
		})
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		return rec
	}
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, taken := range []string{
		`{"messages":[{"payload":"\u0000"}]}`,
		`{"messages":[{"payload":1},{"key":"a", "payload" : ` + deep + ` ,"headers":{}}]}`,
		`{"messages":[{"payload":1e999},{"payload":{"payload":"\u0000"}}]}`,
		`{"messages":[{"p\u0061yload":"\u0000"}]}`,
	} {
		require.Equal(t, http.StatusNoContent, decode(taken).Code, taken)
	}
	for refused, field := range map[string]string{
		`{"payload":"\u0000"}`:                                          "payload",
		`{"messages":[{"key":"\u0000"}]}`:                               "messages[0].key",
		`{"messages":[{"payload":"\u0000"},{"key":"\u0000"}]}`:          "messages[1].key",
		`{"messages":[{"headers":{"payload":"\u0000"}}]}`:               "messages[0].headers.payload",
		`{"messages":[{"payload":"\u0000"}],"queue":"\u0000"}`:          "queue",
		`{"messages":[{"payload":"\u0000","headers":{"\u0000":"\""}}]}`: "messages[0].headers.\x00",
		`{"messages":[{"payload":{"a":1,"a":2}}]}`:                      "messages[0].payload.a",
		`{"messages":[{"payload":"\ud800"}]}`:                           "messages[0].payload",
	} {
		rec := decode(refused)
		require.Equal(t, http.StatusBadRequest, rec.Code, refused)
		var e Error
		require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &e))
		require.Equal(t, field, e.Details[0].Field, refused)
	}
}

// An answer must not grow with the depth of what it refuses.
func TestFieldsOfRefusalsAreShort(t *testing.T) {
	t.Parallel()
	rec, _ := post(t, `{"payload":`+strings.Repeat(`{"a name":`, 300)+"?")
	require.Equal(t, http.StatusBadRequest, rec.Code)
	require.Less(t, rec.Body.Len(), 1500)
	require.Contains(t, rec.Body.String(), "…")
}
