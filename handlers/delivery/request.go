package delivery

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/cloudevents"
)

// What a request's headers are called, and what is in them.
const (
	headerQueue         = "X-Tallymq-Queue"
	headerAttempt       = "X-Tallymq-Attempt"
	headerKey           = "X-Tallymq-Message-Key"
	headerCorrelationID = "X-Correlation-ID" // on the wire -Id, as all of them
	headerTraceParent   = "Traceparent"
	headerPrefix        = "X-Message-"
	headerNameMax       = 100

	// attributePrefix and an attribute's name are the message's header, and the request's,
	// that holds a CloudEvents attribute.
	attributePrefix = "ce-"
	messageType     = "tallymq.message"
	specVersion     = "1.0"
	mimeJSON        = "application/json"
	timeFormat      = "2006-01-02T15:04:05.000Z07:00"
)

var (
	headerName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	attributeName = regexp.MustCompile(`^[a-z0-9]{1,20}$`)
	traceParent   = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// request is one attempt's, but for its timeout.
func (t *target) request(m commands.Pulled, correlationID string, now time.Time) Request {
	r := Request{URL: t.hook.URL, ID: m.MessageID, Header: http.Header{}}
	if t.p.cfg.Secrets != nil {
		r.Secrets = t.p.cfg.Secrets(t.sub, now)
	}
	for name, value := range t.hook.Headers {
		r.Header.Set(name, value)
	}
	own := t.header(m, correlationID)
	body, isDecoded := bodyOf(m)
	r.Body, r.ContentType = body, contentTypeOf(m, isDecoded)
	if t.hook.CloudEvents {
		t.cloudEvent(own, m, correlationID)
		if !isDecoded && !cloudevents.IsJSON(m.Meta.ContentType) && m.Meta.ContentType != "" {
			// The body is still the payload's JSON.
			r.ContentType = mimeJSON
			own.Set(attributePrefix+"messagecontenttype", cloudevents.EncodeHeader(m.Meta.ContentType))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Meta.Headers)) {
		_, isAttribute := attributeOf(name)
		isSaid := (t.hook.CloudEvents && isAttribute) || (isDecoded && name == headerDataEncoding)
		if !isSaid && len(name) <= headerNameMax && headerName.MatchString(name) {
			own.Add(headerPrefix+name, cloudevents.EncodeHeader(m.Meta.Headers[name]))
		}
	}
	// Those of the service stand in for the subscription's.
	maps.Copy(r.Header, own)
	return r
}

// header is what every request says of its message. Nothing that a producer chose gets
// into it as it is.
func (t *target) header(m commands.Pulled, correlationID string) http.Header {
	h := http.Header{}
	h.Set(headerQueue, cloudevents.EncodeHeader(t.sub.QueueName()))
	h.Set(headerAttempt, strconv.Itoa(m.Attempt))
	if m.Meta.Key != "" {
		h.Set(headerKey, cloudevents.EncodeHeader(m.Meta.Key))
	}
	if correlationID != "" {
		h.Set(headerCorrelationID, cloudevents.EncodeHeader(correlationID))
	}
	if traceParent.MatchString(m.Meta.TraceParent) {
		h.Set(headerTraceParent, m.Meta.TraceParent)
	}
	return h
}

// cloudEvent adds the attributes of CloudEvents' binary mode. A message that came in as a
// CloudEvent keeps its own.
func (t *target) cloudEvent(h http.Header, m commands.Pulled, correlationID string) {
	attribute := func(name, value string) {
		if value != "" {
			h.Set(attributePrefix+name, cloudevents.EncodeHeader(value))
		}
	}
	attribute("id", m.MessageID)
	attribute("type", messageType)
	attribute("source", "/tenants/"+t.sub.QueueTenantID+"/queues/"+t.sub.Queue)
	attribute("time", time.UnixMilli(m.Position.Ms()).UTC().Format(timeFormat))
	attribute("partitionkey", m.Meta.Key)
	attribute("partition", strconv.Itoa(m.Partition))
	attribute("offset", strconv.FormatInt(m.Offset, 10))
	attribute("correlationid", correlationID)
	for _, name := range slices.Sorted(maps.Keys(m.Meta.Headers)) {
		if own, ok := attributeOf(name); ok {
			attribute(own, m.Meta.Headers[name])
		}
	}
	attribute("specversion", specVersion)
}

// attributeOf is the CloudEvents attribute that a message's header holds.
func attributeOf(header string) (name string, ok bool) {
	if len(header) < len(attributePrefix) || !strings.EqualFold(header[:len(attributePrefix)], attributePrefix) {
		return "", false
	}
	name = strings.ToLower(header[len(attributePrefix):])
	return name, attributeName.MatchString(name) && name != "datacontenttype" && name != "data"
}

func contentTypeOf(m commands.Pulled, isDecoded bool) string {
	switch {
	case isDecoded && m.Meta.Headers[headerDataEncoding] == encodingNone:
		return ""
	case m.Meta.ContentType == "" || !cloudevents.IsPlain(m.Meta.ContentType):
		return mimeJSON
	default:
		return m.Meta.ContentType
	}
}
