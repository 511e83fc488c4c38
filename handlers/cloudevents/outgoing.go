package cloudevents

import (
	"encoding/json"
	"fmt"
	"mime"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/tallymq/tallymq/handlers/web"
)

// TypePrefix makes a CloudEvents type of an event's kind.
const TypePrefix = "tallymq."

// Lifecycle is an event of the log on its way out: what event_history has of it.
type Lifecycle struct {
	Shard          int
	Position       int64
	ID             string
	Kind           string
	TenantID       string
	TopicID        *string
	SubscriptionID *string
	MessageID      *string
	OccurredAt     time.Time
	Actor          string
	TraceParent    string
	Data           json.RawMessage
}

// outgoing is an event as CloudEvents 1.0.2 has it, section 3 of its specification and the
// JSON format: all but data. Names of ours (extensions) are in lower case, as it demands.
type outgoing struct {
	Specversion     string   `json:"specversion"`
	ID              string   `json:"id"`
	Source          string   `json:"source"`
	Type            string   `json:"type"`
	Subject         string   `json:"subject,omitempty"`
	Time            web.Time `json:"time"`
	Datacontenttype string   `json:"datacontenttype"`
	Tenantid        string   `json:"tenantid"`
	Shard           int      `json:"shard"`
	// Position is text: a CloudEvents integer has 32 bits.
	Position       string `json:"position"`
	Topicid        string `json:"topicid,omitempty"`
	Subscriptionid string `json:"subscriptionid,omitempty"`
	Messageid      string `json:"messageid,omitempty"`
	Actor          string `json:"actor,omitempty"`
	Traceparent    string `json:"traceparent,omitempty"`
}

// Append appends the event's JSON. Its data leave byte for byte.
func (e Lifecycle) Append(dst []byte) ([]byte, error) {
	out := outgoing{
		Specversion: "1.0", ID: e.ID, Source: "/tenants/" + e.TenantID, Type: TypePrefix + e.Kind, Time: web.Time(e.OccurredAt),
		Datacontenttype: "application/json", Tenantid: e.TenantID, Shard: e.Shard, Position: strconv.FormatInt(e.Position, 10),
		Actor: e.Actor, Traceparent: e.TraceParent,
	}
	// What it is about is the narrowest of these.
	if e.TopicID != nil {
		out.Topicid, out.Subject = *e.TopicID, *e.TopicID
		out.Source += "/queues/" + *e.TopicID
	}
	if e.SubscriptionID != nil {
		out.Subscriptionid, out.Subject = *e.SubscriptionID, *e.SubscriptionID
	}
	if e.MessageID != nil {
		out.Messageid, out.Subject = *e.MessageID, *e.MessageID
	}
	text, err := jsonv2.Marshal(out)
	if err != nil {
		return dst, fmt.Errorf("render event %s: %w", e.ID, err)
	}
	// An encoder would rewrite data.
	dst = append(append(dst, text[:len(text)-1]...), `,"data":`...)
	return append(append(dst, e.Data...), '}'), nil
}

// EncodeHeader is the percent-encoding of CloudEvents' HTTP binding, section 3.1.3.2: what
// is not printable ASCII, and blank, quote and percent.
func EncodeHeader(value string) string {
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

// IsPlain reports whether text is printable ASCII and blanks.
func IsPlain(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// IsJSON reports whether a content type is JSON, or a format in JSON (RFC 6839, section 3.1).
func IsJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	_, subtype, _ := strings.Cut(media, "/")
	return err == nil && (subtype == "json" || strings.HasSuffix(subtype, "+json"))
}
