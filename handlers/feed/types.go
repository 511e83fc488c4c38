package feed

import (
	"slices"
	"strings"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/web"
)

// typeItemsMax is how many items ?type= may have.
const typeItemsMax = 50

// kinds is the catalogue, for ?type= to be checked against.
var kinds = []events.Kind{
	events.KindTopicCreated, events.KindTopicUpdated, events.KindTopicPurged, events.KindTopicDeleted,
	events.KindSubscriptionCreated, events.KindSubscriptionUpdated, events.KindSubscriptionPaused, events.KindSubscriptionResumed,
	events.KindSubscriptionStopped, events.KindSubscriptionSought, events.KindSubscriptionDeleted,
	events.KindScheduleCreated, events.KindSchedulePaused, events.KindScheduleResumed, events.KindScheduleDeleted,
	events.KindMessagePublished, events.KindMessageScheduled, events.KindMessageReleased, events.KindMessageCancelled,
	events.KindMessageConsumed, events.KindMessageFailed, events.KindMessageDeadLettered, events.KindMessageFiltered,
	events.KindMessageExpired, events.KindMessageRedriven, events.KindMessageErased, events.KindTopicRetained,
}

// parseTypes reads ?type=: kinds (message.published), or groups of them (message. or
// message.*), with commas between; with or without the tallymq. of a CloudEvents
// type. It returns each kind once, and nil for all.
func parseTypes(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	items := strings.Split(text, ",")
	if len(items) > typeItemsMax {
		return nil, web.Invalid(web.Detail{Field: "type", Limit: "at most 50 types", Problem: "has more"})
	}
	var chosen []string
	for _, item := range items {
		item = strings.TrimPrefix(strings.TrimSpace(item), cloudevents.TypePrefix)
		group := strings.TrimSuffix(item, "*")
		before := len(chosen)
		for _, kind := range kinds {
			if string(kind) == item || (strings.HasSuffix(group, ".") && strings.HasPrefix(string(kind), group)) {
				chosen = append(chosen, string(kind))
			}
		}
		if len(chosen) == before {
			return nil, web.Invalid(web.Detail{Field: "type", Limit: typesAllowed(), Problem: "has one that is none of them"})
		}
	}
	slices.Sort(chosen)
	return slices.Compact(chosen), nil
}

func typesAllowed() string {
	names := make([]string, len(kinds))
	for i, kind := range kinds {
		names[i] = string(kind)
	}
	return strings.Join(names, ", ") + ", or a group such as message.*"
}
