package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
)

type inner struct {
	Payload jsontext.Value    `json:"payload"`
	Key     string            `json:"key"`
	Headers map[string]string `json:"headers"`
}

type outer struct {
	inner

	Queue    string     `json:"queue"`
	Count    *int       `json:"count"`
	At       *time.Time `json:"at"`
	Messages []inner    `json:"messages"`
}

const testBodyMax = 4096

// post sends a body to a route that decodes it, and returns the answer.
func post(t testing.TB, body string, header ...string) (*httptest.ResponseRecorder, outer) {
	t.Helper()
	var got outer
	e := echo.New()
	e.HTTPErrorHandler = ErrorHandler(slog.New(slog.DiscardHandler))
	e.Use(RequestIDs, Recover)
	e.POST("/", func(c echo.Context) error {
		if err := Decode(c, &got, testBodyMax); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	})
	req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, req)
	return rec, got
}

func TestDecodeRefusesWhatIsNotAsItMustBe(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for name, tc := range map[string]struct {
		body, field, problem string
		status               int
	}{
		"unknown field":          {`{"queue":"a","quueue":"b"}`, "quueue", "unknown", 400},
		"unknown field in array": {`{"messages":[{},{"x":1}]}`, "messages[1].x", "unknown", 400},
		"other case":             {`{"Queue":"a"}`, "Queue", "unknown", 400},
		"duplicate key":          {`{"queue":"a","queue":"b"}`, "queue", "twice", 400},
		"duplicate in payload":   {`{"payload":{"a":{"b":1,"b":2}}}`, "payload.a.b", "twice", 400},
		"trailing data":          {`{"queue":"a"} {}`, "body", "behind", 400},
		"trailing garbage":       {`{"queue":"a"}x`, "body", "behind", 400},
		"empty":                  {" \n", "body", "empty", 400},
		"cut off":                {`{"queue":"a`, "queue", "ends in the middle", 400},
		"not JSON":               {`{queue:1}`, "body", "not valid JSON", 400},
		"array":                  {`[]`, "body", "an array", 400},
		"invalid UTF-8":          {"{\"queue\":\"\xff\"}", "body", "UTF-8", 400},
		"invalid UTF-8 in raw":   {"{\"payload\":\"\xc3\x28\"}", "body", "UTF-8", 400},
		"lone surrogate":         {`{"queue":"\ud800"}`, "queue", "surrogate", 400},
		"lone surrogate in raw":  {`{"payload":{"a":["\udc00"]}}`, "payload.a[0]", "surrogate", 400},
		"NUL":                    {`{"queue":"a\u0000b"}`, "queue", "NUL", 400},
		"NUL in payload":         {`{"payload":[1,{"a":"\u0000"}]}`, "payload[1].a", "NUL", 400},
		"NUL in a name":          {`{"payload":{"a\u0000":1}}`, "payload.a\x00", "NUL", 400},
		"raw NUL":                {"{\"queue\":\"\x00\"}", "queue", "not valid JSON", 400},
		"depth":                  {`{"payload":` + deep + `}`, "payload", "nested deeper", 400},
		"huge number":            {`{"payload":{"n":1e309}}`, "payload.n", "out of range", 400},
		"number jsonb refuses":   {`{"payload":1e-20000}`, "payload", "out of range", 400},
		"long number":            {`{"payload":` + strings.Repeat("1", 1001) + `}`, "payload", "out of range", 400},
		"string for number":      {`{"count":"1"}`, "count", "a string", 400},
		"fraction for integer":   {`{"count":1.5}`, "count", "a number", 400},
		"number for string":      {`{"queue":1}`, "queue", "a number", 400},
		"bad time":               {`{"at":"yesterday"}`, "at", "a string", 400},
		"array for object":       {`{"headers":[]}`, "headers", "an array", 400},
		"too large":              {`{"queue":"` + strings.Repeat("a", testBodyMax) + `"}`, "body", "larger", 413},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec, _ := post(t, tc.body)
			require.Equal(t, tc.status, rec.Code, rec.Body)
			var e Error
			require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &e), rec.Body)
			require.Len(t, e.Details, 1, rec.Body)
			field := e.Details[0].Field
			require.True(t, field == tc.field || strings.HasPrefix(field, tc.field+"["), "field %q, want %q: %s", field, tc.field, rec.Body)
			require.Contains(t, e.Details[0].Problem, tc.problem)
			require.NotEmpty(t, e.RequestID)
			require.NotEmpty(t, e.Details[0].Limit)
		})
	}
}

func TestDecodeRefusesOtherMediaTypes(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{"text/plain", "application/xml", "application/json; charset=latin1", ";"} {
		rec, _ := post(t, `{}`, "Content-Type", contentType)
		require.Equal(t, http.StatusUnsupportedMediaType, rec.Code)
		require.Contains(t, rec.Body.String(), CodeUnsupportedMediaType)
	}
	rec, _ := post(t, `{}`, "Content-Type", "application/json; charset=UTF-8")
	require.Equal(t, http.StatusNoContent, rec.Code)
}

func TestDecodeKeepsRawBytes(t *testing.T) {
	t.Parallel()
	raw := "{ \"b\" : 1.00 ,\n\t\"a\":[ 1e2,\"\\u00e9\\/\" ] }"
	rec, got := post(t, `{"queue":"q","payload": `+raw+` ,"key":"k"}`)
	require.Equal(t, http.StatusNoContent, rec.Code, rec.Body)
	require.Equal(t, raw, string(got.Payload))
	require.Equal(t, "q", got.Queue)
	require.Equal(t, "k", got.Key)
	rec, got = post(t, `{"payload":null}`)
	require.Equal(t, http.StatusNoContent, rec.Code, rec.Body)
	require.Equal(t, "null", string(got.Payload))
}

func TestCheckPayloadLimits(t *testing.T) {
	t.Parallel()
	nested := func(n int) jsontext.Value {
		return jsontext.Value(strings.Repeat("[", n) + strings.Repeat("]", n))
	}
	require.Nil(t, CheckPayload("payload", nested(PayloadDepthMax), 100))
	require.Contains(t, CheckPayload("payload", nested(PayloadDepthMax+1), 100).Limit, "32 levels")
	require.Nil(t, CheckPayload("payload", jsontext.Value(`"12"`), 4))
	require.Contains(t, CheckPayload("payload", jsontext.Value(`"123"`), 4).Limit, "4 bytes")
	for _, ok := range []string{`"[[[[\\u0000 {\""`, `-1.5e-300`, `1.7e308`, `[0,-0,12345678901234567890]`, `"\\u0000"`} {
		require.Nil(t, CheckPayload("payload", jsontext.Value(ok), 100), ok)
	}
	for _, bad := range []string{`"\\\u0000"`, `1e309`, `-1e309`, `0e1001`, `1e-1001`} {
		require.NotNil(t, CheckPayload("payload", jsontext.Value(bad), 100), bad)
	}
}

func TestAnswersKeepRawBytesAndTimes(t *testing.T) {
	t.Parallel()
	e := echo.New()
	rec := httptest.NewRecorder()
	c := e.NewContext(httptest.NewRequest(http.MethodGet, "/", nil), rec)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_700_000, time.FixedZone("x", 3600))
	require.NoError(t, WriteRawJSON(c, http.StatusOK, map[string]any{
		"a": Raw("{ \"x\" : 1.0,\n \"y\":\"<&>\" }"), "b": Time(at), "c": Raw(nil), "d": `"\u0000"`, "e": []Raw{Raw(" 1"), Raw("2")},
	}))
	//nolint:testifylint // byte for byte, not just the same JSON
	require.Equal(t, `{"a":{ "x" : 1.0,`+"\n"+` "y":"<&>" },"b":"2026-01-02T02:04:05.006Z","c":null,"d":"\"\\u0000\"","e":[ 1,2]}`, rec.Body.String())
	require.Error(t, WriteJSON(c, http.StatusOK, Raw("1")), "Raw outside WriteRawJSON would be rewritten")
}

func TestErrorsHideFaultsAndNameTheRequest(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	e := echo.New()
	e.HTTPErrorHandler = ErrorHandler(slog.New(slog.NewTextHandler(&logged, nil)))
	e.Use(RequestIDs, Recover)
	e.GET("/fault", func(echo.Context) error { return errors.New("secret dsn") })
	e.GET("/panic", func(echo.Context) error { panic("secret") })
	e.GET("/away", func(echo.Context) error { return fmt.Errorf("wrapped: %w", Unavailable("Redis does not answer")) })
	get := func(method, path string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, path, nil)
		req.Header.Set(echo.HeaderXRequestID, "r-1")
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		return rec
	}
	for _, path := range []string{"/fault", "/panic"} {
		rec := get(http.MethodGet, path)
		require.Equal(t, http.StatusInternalServerError, rec.Code)
		require.JSONEq(t, `{"code":"MQ_INTERNAL","message":"internal error","requestId":"r-1"}`, rec.Body.String())
	}
	require.Contains(t, logged.String(), "secret dsn")
	rec := get(http.MethodGet, "/away")
	require.Equal(t, "1", rec.Header().Get("Retry-After"))
	require.JSONEq(t, `{"code":"MQ_UNAVAILABLE","message":"Redis does not answer","retryAfter":1,"requestId":"r-1"}`, rec.Body.String())
	require.Equal(t, http.StatusNotFound, get(http.MethodGet, "/nowhere").Code)
	require.Equal(t, http.StatusMethodNotAllowed, get(http.MethodPut, "/away").Code)
	require.Equal(t, "r-1", rec.Header().Get(echo.HeaderXRequestID))
}

func TestRequestIDsAreSane(t *testing.T) {
	t.Parallel()
	rec, _ := post(t, `{}`, echo.HeaderXRequestID, "bad id\n")
	require.True(t, ValidUUID(rec.Header().Get(echo.HeaderXRequestID)))
}

func TestCursorsAndQueries(t *testing.T) {
	t.Parallel()
	k := Cursors{Key: []byte("key")}
	context := func(query string) echo.Context {
		return echo.New().NewContext(httptest.NewRequest(http.MethodGet, "/?"+query, nil), httptest.NewRecorder())
	}
	cursor := k.Encode("t1", "messages?status=x", "a", "")
	got, err := k.Decode(context("cursor="+cursor), "t1", "messages?status=x", 2)
	require.NoError(t, err)
	require.Equal(t, []string{"a", ""}, got)
	none, err := k.Decode(context(""), "t1", "messages", 2)
	require.NoError(t, err)
	require.Nil(t, none)
	refused := func(cursor, tenant, list string, parts int) {
		t.Helper()
		_, err := k.Decode(context("cursor="+cursor), tenant, list, parts)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "cursor", e.Details[0].Field)
	}
	refused(cursor, "t2", "messages?status=x", 2)
	refused(cursor, "t1", "messages?status=y", 2)
	refused(cursor, "t1", "messages?status=x", 3)
	refused(cursor[:len(cursor)-2]+"AA", "t1", "messages?status=x", 2)
	refused("x", "t1", "messages", 2)
	refused(strings.Repeat("A", 4000), "t1", "messages", 2)
	refused(Cursors{Key: []byte("other")}.Encode("t1", "messages", "a", ""), "t1", "messages", 2)

	for query, want := range map[string]int{"": 50, "limit=1": 1, "limit=500": 500} {
		n, err := ParseLimit(context(query))
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "limit=-1"} {
		_, err := ParseLimit(context(query))
		require.ErrorContains(t, err, "1 to 500")
	}
	require.NoError(t, CheckQuery(context("a=1"), "a", "b"))
	require.ErrorContains(t, CheckQuery(context("c=1"), "a", "b"), "unknown query parameter")
	require.ErrorContains(t, CheckQuery(context("a=1&a=2"), "a", "b"), "2 times")
	require.ErrorContains(t, CheckQuery(context("a=%00"), "a", "b"), "NUL")
	require.ErrorContains(t, CheckQuery(context("a=%ff"), "a", "b"), "UTF-8")
}

// FuzzDecode: whatever comes, the answer is ours and the decoder does not panic;
// what is taken is valid JSON that encoding/json reads alike.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"payload":{"a":[1,"x"]},"key":"k"}`, `{"queue":"\ud800"}`, `{"payload":1e400}`, "\xff", `{"a":1,"a":2}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		rec, got := post(t, body)
		switch rec.Code {
		case http.StatusNoContent:
			require.True(t, json.Valid([]byte(body)))
			if got.Payload != nil {
				require.True(t, json.Valid(got.Payload))
				if CheckPayload("payload", got.Payload, testBodyMax) == nil {
					var v any
					require.NoError(t, json.Unmarshal(got.Payload, &v), "a number does not fit a double")
				}
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			require.True(t, json.Valid(rec.Body.Bytes()))
		default:
			t.Fatalf("answered %d", rec.Code)
		}
	})
}

func BenchmarkCheckPayload(b *testing.B) {
	for _, size := range []int{200, 20_000} {
		item := `{"id":12345,"name":"a name","price":12.5,"tags":["a","b"]},`
		raw := jsontext.Value("[" + strings.Repeat(item, size/len(item)) + "0]")
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if CheckPayload("payload", raw, 1<<20) != nil {
					b.Fatal("refused")
				}
			}
		})
	}
}
