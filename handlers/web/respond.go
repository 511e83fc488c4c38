package web

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"
)

// Raw is JSON that leaves exactly as it is, white space and all; empty is null.
// Only [WriteRawJSON] can write it.
type Raw []byte

// MarshalJSONTo refuses: any other encoder would rewrite the bytes.
func (Raw) MarshalJSONTo(*jsontext.Encoder) error {
	return errors.New("a web.Raw is written by WriteRawJSON only")
}

// Time is an instant in the API's form: RFC 3339, UTC, milliseconds.
type Time time.Time

const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalJSONTo writes the time.
func (t Time) MarshalJSONTo(enc *jsontext.Encoder) error {
	return enc.WriteToken(jsontext.String(FormatTime(time.Time(t)))) //nolint:wrapcheck // the encoder's own
}

// FormatTime is the text of an instant in the API's form.
func FormatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// TimePtr is the form of a time that may be absent.
func TimePtr(t *time.Time) *Time {
	if t == nil {
		return nil
	}
	out := Time(*t)
	return &out
}

// rawMark stands where raw JSON goes while the rest is encoded. No text of ours
// or of a caller's has a NUL, so nothing else looks like it.
const rawMark = `"\u0000"`

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// pooledBytesMax keeps the rare large answer from staying in the pool.
const pooledBytesMax = 1 << 20

// answerForm: an answer may have to name what came in a path or query, which need
// not be UTF-8; what is not becomes U+FFFD instead of an answer that cannot be made.
var answerForm = json.JoinOptions(json.Deterministic(true), jsontext.AllowInvalidUTF8(true))

// WriteJSON answers with v, which holds no [Raw], as JSON.
func WriteJSON(c echo.Context, status int, v any) error {
	text, err := json.Marshal(v, answerForm)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return blob(c, status, text)
}

// blob answers with a length: without one, net/http would cut a larger answer into
// chunks.
func blob(c echo.Context, status int, text []byte) error {
	c.Response().Header().Set(echo.HeaderContentLength, strconv.Itoa(len(text)))
	return c.Blob(status, echo.MIMEApplicationJSON, text)
}

// WriteRawJSON answers with v, which may hold [Raw] values, as JSON.
func WriteRawJSON(c echo.Context, status int, v any) error {
	buf, _ := buffers.Get().(*bytes.Buffer)
	buf.Reset()
	defer func() {
		if buf.Cap() <= pooledBytesMax {
			buffers.Put(buf)
		}
	}()
	if err := encodeRaw(buf, v); err != nil {
		return err
	}
	return blob(c, status, buf.Bytes())
}

func encodeRaw(buf *bytes.Buffer, v any) error {
	var raws []Raw
	collect := json.MarshalToFunc(func(enc *jsontext.Encoder, raw Raw) error {
		if len(raw) == 0 {
			return enc.WriteToken(jsontext.Null)
		}
		raws = append(raws, raw)
		return enc.WriteToken(jsontext.String("\x00"))
	})
	text, err := json.Marshal(v, json.WithMarshalers(collect), answerForm)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	for _, raw := range raws {
		before, after, found := bytes.Cut(text, []byte(rawMark))
		if !found {
			return errors.New("encode the answer: a raw value has no place")
		}
		buf.Write(before)
		buf.Write(raw)
		text = after
	}
	buf.Write(text)
	return nil
}
