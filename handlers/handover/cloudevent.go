package handover

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"
)

// typePrefix makes a CloudEvents type of an event's kind.
const typePrefix = "tallymq."

// cloudEvent is an event in the form of GET /events (a test holds the two against each
// other): all but data.
type cloudEvent struct {
	Specversion     string `json:"specversion"`
	ID              string `json:"id"`
	Source          string `json:"source"`
	Type            string `json:"type"`
	Subject         string `json:"subject,omitempty"`
	Time            string `json:"time"`
	Datacontenttype string `json:"datacontenttype"`
	Tenantid        string `json:"tenantid"`
	Shard           int    `json:"shard"`
	// Position is text: a CloudEvents integer has 32 bits.
	Position       string `json:"position"`
	Topicid        string `json:"topicid,omitempty"`
	Subscriptionid string `json:"subscriptionid,omitempty"`
	Messageid      string `json:"messageid,omitempty"`
	Actor          string `json:"actor,omitempty"`
	Traceparent    string `json:"traceparent,omitempty"`
}

// render returns events as CloudEvents' JSON batch. Their data leave byte for byte as
// the log has them, but for a payload that is encrypted there.
func (l *lifecycle) render(ctx context.Context, batch []event) ([]byte, error) {
	var b bytes.Buffer
	for i, e := range batch {
		if l.f.cfg.OpenEvent != nil {
			data, err := l.f.cfg.OpenEvent(ctx, e.TenantID, e.Kind, e.Data)
			if err != nil {
				return nil, fmt.Errorf("open event %s: %w", e.ID, err)
			}
			e.Data = data
		}
		out := cloudEvent{
			Specversion: "1.0", ID: e.ID, Source: "/tenants/" + e.TenantID, Type: typePrefix + e.Kind,
			Time: e.OccurredAt.UTC().Format(timeFormat), Datacontenttype: mimeJSON,
			Tenantid: e.TenantID, Shard: e.Shard, Position: strconv.FormatInt(e.Position, 10), Actor: e.Actor, Traceparent: e.TraceParent,
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
		text, err := json.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("render event %s: %w", e.ID, err)
		}
		b.WriteByte("[,"[min(i, 1)])
		b.Write(text[:len(text)-1])
		b.WriteString(`,"data":`)
		b.Write(e.Data)
		b.WriteByte('}')
	}
	b.WriteByte(']')
	return b.Bytes(), nil
}
