package feed

import (
	"context"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// cloudEvent is an event as CloudEvents 1.0.2 has it, section 3 of its specification
// and the JSON format: all but data. Names of ours (extensions) are in lower case,
// as it demands.
type cloudEvent struct {
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

// show renders an event. Its data leave byte for byte as the log has them, but for a
// payload that is encrypted there.
func (h *Handlers) show(ctx context.Context, e queries.FeedEvent) ([]byte, error) {
	if h.deps.OpenEvent != nil {
		data, err := h.deps.OpenEvent(ctx, e.TenantID, e.Kind, e.Data)
		if err != nil {
			return nil, fmt.Errorf("open event %s: %w", e.ID, err)
		}
		e.Data = data
	}
	out := cloudEvent{
		Specversion: "1.0", ID: e.ID, Source: "/tenants/" + e.TenantID, Type: typePrefix + e.Kind, Time: web.Time(e.OccurredAt),
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
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("render event %s: %w", e.ID, err)
	}
	// An encoder would rewrite data.
	text = append(text[:len(text)-1], `,"data":`...)
	return append(append(text, e.Data...), '}'), nil
}
