package cloudevents

import (
	"mime"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallymq/tallymq/handlers/web"
)

// Limits of attributes.
const (
	// NameCharsMax is how long an attribute's name may be.
	NameCharsMax = 20
	// DetailsMax is how many problems an answer names for one event.
	DetailsMax = 16

	// nameShownMax is how much of a name is repeated in an answer.
	nameShownMax = 60

	specVersion = "1.0"
)

// What attributes must be, in words.
const (
	limitOnce     = "once"
	limitName     = "names of 1 to 20 characters, a-z and 0-9"
	limitText     = "text without control characters and noncharacters"
	limitNonEmpty = "1 character or more"
)

var (
	attributeName = regexp.MustCompile(`^[a-z0-9]{1,20}$`)
	traceParent   = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// required attributes, in the order in which answers miss them.
var required = [...]string{"specversion", "id", "source", "type"}

// draft is an event being read: its attributes in canonical string form, and what
// is wrong with them.
type draft struct {
	attributes map[string]string
	problems   []web.Detail
	// field is the path of an attribute in this request.
	field func(name string) string
}

func newDraft(field func(name string) string) *draft {
	return &draft{attributes: map[string]string{}, field: field}
}

func (d *draft) wrong(name, limit, problem string) {
	if len(d.problems) < DetailsMax {
		d.problems = append(d.problems, web.Detail{Field: d.field(brief(name)), Limit: limit, Problem: problem})
	}
}

// set checks and keeps an attribute.
func (d *draft) set(name, value string) {
	// It counts as given even where it is wrong.
	d.attributes[name] = value
	if limit := limitOf(name, value); limit != "" {
		problem := "is not that"
		if value == "" {
			problem = "is empty"
		}
		d.wrong(name, limit, problem)
	}
}

// event is the message of the attributes, yet without its payload, or what is wrong.
func (d *draft) event() (Event, *web.Error) {
	for _, name := range required {
		if _, ok := d.attributes[name]; !ok {
			limit := limitNonEmpty
			if name == "specversion" {
				limit = specVersion
			}
			d.wrong(name, limit, "is missing")
		}
	}
	if len(d.problems) > 0 {
		return Event{}, web.Invalid(d.problems...)
	}
	e := Event{
		ID: d.attributes["id"], Source: d.attributes["source"], Key: d.attributes["partitionkey"],
		ContentType: d.attributes["datacontenttype"], Headers: make(map[string]string, len(d.attributes)+1),
	}
	// A malformed traceparent is no trace, as W3C Trace Context says; its header stays.
	if parent := d.attributes["traceparent"]; traceParent.MatchString(parent) {
		e.TraceParent = parent
	}
	for name, value := range d.attributes {
		if name != "datacontenttype" {
			e.Headers[HeaderPrefix+name] = value
		}
	}
	return e, nil
}

// limitOf returns what an attribute's value had to be, "" where it is that.
func limitOf(name, value string) string {
	if !plainText(value) {
		return limitText
	}
	switch name {
	case "specversion":
		return unless(value == specVersion, specVersion)
	case "id", "type", "subject", "partitionkey":
		return unless(value != "", limitNonEmpty)
	case "source":
		_, err := url.Parse(value)
		return unless(value != "" && err == nil, "a URI reference (RFC 3986)")
	case "dataschema":
		u, err := url.Parse(value)
		return unless(err == nil && u.IsAbs(), "an absolute URI (RFC 3986)")
	case "datacontenttype":
		media, _, err := mime.ParseMediaType(value)
		return unless(err == nil && strings.Contains(media, "/"), "a media type (RFC 2046)")
	case "time":
		var t time.Time
		err := t.UnmarshalText([]byte(strings.ToUpper(value)))
		return unless(err == nil, "a time as in RFC 3339, such as 2026-01-31T08:00:00Z")
	default:
		return ""
	}
}

func unless(ok bool, limit string) string {
	if ok {
		return ""
	}
	return limit
}

// plainText reports whether value has only what the type String may have.
func plainText(value string) bool {
	for _, r := range value {
		control := r < 0x20 || (r >= 0x7f && r <= 0x9f)
		noncharacter := r&0xfffe == 0xfffe || (r >= 0xfdd0 && r <= 0xfdef)
		if control || noncharacter {
			return false
		}
	}
	return utf8.ValidString(value)
}

func brief(name string) string {
	if utf8.RuneCountInString(name) <= nameShownMax {
		return name
	}
	return string([]rune(name)[:nameShownMax]) + "…"
}
