package handover

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/cloudevents"
)

// Types of what is sent.
const (
	messageType   = "tallymq.message"
	mimeJSON      = "application/json"
	mimeBatch     = "application/cloudevents-batch+json; charset=utf-8"
	headerPrefix  = "X-Message-"
	timeFormat    = "2006-01-02T15:04:05.000Z07:00"
	headerNameMax = 100
)

var (
	headerName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	traceParent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// messageHeader is a message's request but for its body. Nothing that a producer chose
// gets into it as it is: names are checked, values encoded.
func messageHeader(queue string, m commands.Pulled) http.Header {
	h := http.Header{}
	attribute := func(name, value string) {
		if value != "" {
			h.Set("Ce-"+name, cloudevents.EncodeHeader(value))
		}
	}
	attribute("Specversion", "1.0")
	attribute("Id", m.MessageID)
	attribute("Type", messageType)
	attribute("Source", "/tenants/"+m.Meta.TenantID+"/queues/"+queue)
	attribute("Time", time.UnixMilli(m.Position.Ms()).UTC().Format(timeFormat))
	attribute("Partitionkey", m.Meta.Key)
	attribute("Partition", strconv.Itoa(m.Partition))
	attribute("Offset", strconv.FormatInt(m.Offset, 10))
	attribute("Correlationid", m.Meta.CorrelationID)
	h.Set("Content-Type", mimeJSON)
	if cloudevents.IsJSON(m.Meta.ContentType) && cloudevents.IsPlain(m.Meta.ContentType) {
		h.Set("Content-Type", m.Meta.ContentType)
	} else {
		attribute("Messagecontenttype", m.Meta.ContentType)
	}
	if traceParent.MatchString(m.Meta.TraceParent) {
		h.Set("Traceparent", m.Meta.TraceParent)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Meta.Headers)) {
		if len(name) <= headerNameMax && headerName.MatchString(name) {
			h.Add(headerPrefix+name, cloudevents.EncodeHeader(m.Meta.Headers[name]))
		}
	}
	return h
}
