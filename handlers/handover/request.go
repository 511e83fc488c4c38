package handover

import (
	"maps"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallymq/tallymq/commands"
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
			h.Set("Ce-"+name, encode(value))
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
	if media, _, err := mime.ParseMediaType(m.Meta.ContentType); err == nil && isJSON(media) && isPlain(m.Meta.ContentType) {
		h.Set("Content-Type", m.Meta.ContentType)
	} else {
		attribute("Messagecontenttype", m.Meta.ContentType)
	}
	if traceParent.MatchString(m.Meta.TraceParent) {
		h.Set("Traceparent", m.Meta.TraceParent)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Meta.Headers)) {
		if len(name) <= headerNameMax && headerName.MatchString(name) {
			h.Add(headerPrefix+name, encode(m.Meta.Headers[name]))
		}
	}
	return h
}

func isJSON(media string) bool {
	_, subtype, _ := strings.Cut(media, "/")
	return subtype == "json" || strings.HasSuffix(subtype, "+json")
}

// isPlain reports whether text is printable ASCII and blanks.
func isPlain(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// encode is the percent-encoding of CloudEvents' HTTP binding, section 3.1.3.2: what is
// not printable ASCII, and blank, quote and percent.
func encode(value string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c > ' ' && c <= '~' && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}
