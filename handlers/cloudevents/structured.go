package cloudevents

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
)

// Members that are no attributes.
const (
	memberData       = "data"
	memberDataBase64 = "data_base64"
)

// parseStructured reads the event that is the body.
func parseStructured(c echo.Context, limits Limits) (Event, error) {
	var raw jsontext.Value
	r := c.Request()
	if err := web.Decode(jsonBody(c, r.Body, r.ContentLength), &raw, limits.BodyBytesMax); err != nil {
		return Event{}, err
	}
	e, problem := parseObject(c, raw, "", limits.PayloadBytesMax)
	if problem != nil {
		return Event{}, problem
	}
	return e, nil
}

// parseBatch reads the events of the array that is the body.
func parseBatch(c echo.Context, limits Limits) ([]Event, error) {
	bodyMax, eventsMax := limits.BatchBytesMax, limits.EventsMax
	if bodyMax == 0 {
		bodyMax = limits.BodyBytesMax
	}
	if eventsMax == 0 {
		eventsMax = EventsMax
	}
	batch := members{max: eventsMax}
	r := c.Request()
	// Members are checked one by one below.
	if err := web.Decode(jsonBody(c, r.Body, r.ContentLength), &batch, bodyMax, "/*/*"); err != nil {
		return nil, err
	}
	switch {
	case batch.another:
		return nil, web.Invalid(web.Detail{Field: "body", Limit: "an array of events", Problem: "is something else"})
	case batch.count > eventsMax:
		return nil, web.Invalid(web.Detail{Field: "body", Limit: fmt.Sprintf("at most %d events", eventsMax), Problem: fmt.Sprintf("has %d", batch.count)})
	}
	events := make([]Event, len(batch.raw))
	for i, raw := range batch.raw {
		e, problem := parseObject(c, raw, fmt.Sprintf("[%d]", i), limits.PayloadBytesMax)
		e.Problem = problem
		events[i] = e
	}
	return events, nil
}

// members is an array's elements, of which no more than max are kept.
type members struct {
	max, count int
	raw        []jsontext.Value
	// another says that it is no array.
	another bool
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (m *members) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if kind := dec.PeekKind(); kind != jsontext.KindBeginArray {
		m.another = true
		return dec.SkipValue() //nolint:wrapcheck // what is read is the caller's, and so is its error
	}
	if _, err := dec.ReadToken(); err != nil {
		return err //nolint:wrapcheck // as above
	}
	for ; dec.PeekKind() != jsontext.KindEndArray; m.count++ {
		if m.count >= m.max {
			if err := dec.SkipValue(); err != nil {
				return err //nolint:wrapcheck // as above
			}
			continue
		}
		raw, err := dec.ReadValue()
		if err != nil {
			return err //nolint:wrapcheck // as above
		}
		m.raw = append(m.raw, raw.Clone())
	}
	_, err := dec.ReadToken()
	return err //nolint:wrapcheck // as above
}

// parseObject reads an event from JSON that is known to be valid; at is its path, ""
// for the body.
func parseObject(c echo.Context, raw jsontext.Value, at string, payloadBytesMax int) (Event, *web.Error) {
	path := func(name string) string {
		if at == "" {
			return name
		}
		return at + "." + name
	}
	if raw.Kind() != jsontext.KindBeginObject {
		field := at
		if at == "" {
			field = "body"
		}
		return Event{}, web.Invalid(web.Detail{Field: field, Limit: "an object", Problem: "is something else"})
	}
	d := newDraft(path)
	plain, encoded := d.members(raw)
	e, problem := d.event()
	if problem != nil {
		return Event{}, problem
	}
	data := data{c: c, at: path(memberData), contentTypeAt: path("datacontenttype"), payloadBytesMax: payloadBytesMax}
	if len(encoded) > 0 {
		data.at = path(memberDataBase64)
	}
	return e, data.member(&e, plain, encoded)
}

// members reads the attributes of an event, and returns its data, nil for none.
func (d *draft) members(object jsontext.Value) (plain, encoded jsontext.Value) {
	dec := jsontext.NewDecoder(bytes.NewReader(object))
	_, _ = dec.ReadToken() // the object's begin; it is known to be valid
	for dec.PeekKind() == jsontext.KindString {
		token, err := dec.ReadToken()
		if err != nil {
			break
		}
		name := token.String()
		value, err := dec.ReadValue()
		if err != nil {
			break
		}
		null := value.Kind() == jsontext.KindNull
		switch {
		case name == memberData:
			plain = value.Clone()
		case name == memberDataBase64:
			if !null {
				encoded = value.Clone()
			}
		case !attributeName.MatchString(name):
			d.wrong(name, limitName, "is no attribute")
		case !null:
			d.member(name, value)
		}
	}
	if plain != nil && encoded != nil {
		d.wrong(memberDataBase64, "data or data_base64, not both", "is given beside data")
	}
	return plain, encoded
}

// member reads an attribute's value: a string, or for extensions also a boolean or
// an integer.
func (d *draft) member(name string, value jsontext.Value) {
	switch kind := value.Kind(); {
	case kind == jsontext.KindString:
		text, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			d.wrong(name, limitText, "is not that")
			return
		}
		d.set(name, string(text))
	case core(name):
		d.attributes[name] = ""
		d.wrong(name, "a string", "is something else")
	case kind == jsontext.KindTrue || kind == jsontext.KindFalse:
		d.set(name, string(value))
	case kind == jsontext.KindNumber:
		n, err := strconv.ParseInt(string(value), 10, 32)
		if err != nil {
			d.wrong(name, "integers of 32 bits, as digits with or without a minus", "is another number")
			return
		}
		d.set(name, strconv.FormatInt(n, 10))
	default:
		d.wrong(name, "a string, true, false or an integer", "is something else")
	}
}

// core reports whether an attribute is a string as the specification has it, or as
// the extension that defines it has.
func core(name string) bool {
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype",
		"partitionkey", "traceparent", "tracestate":
		return true
	default:
		return false
	}
}
