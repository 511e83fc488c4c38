package events

import (
	"encoding/json"
	"fmt"
)

// Kind is an event's permanent name. It is stored with every event, so a kind is
// never renamed and never used again for something else.
type Kind string

// The catalogue. "One word per event" in code is the struct's name below.
const (
	KindTopicCreated        Kind = "topic.created"
	KindTopicUpdated        Kind = "topic.updated"
	KindTopicPurged         Kind = "topic.purged"
	KindTopicDeleted        Kind = "topic.deleted"
	KindSubscriptionCreated Kind = "subscription.created"
	KindSubscriptionUpdated Kind = "subscription.updated"
	KindSubscriptionPaused  Kind = "subscription.paused"
	KindSubscriptionResumed Kind = "subscription.resumed"
	KindSubscriptionStopped Kind = "subscription.stopped"
	KindSubscriptionSought  Kind = "subscription.sought"
	KindSubscriptionDeleted Kind = "subscription.deleted"
	KindScheduleCreated     Kind = "schedule.created"
	KindSchedulePaused      Kind = "schedule.paused"
	KindScheduleResumed     Kind = "schedule.resumed"
	KindScheduleDeleted     Kind = "schedule.deleted"
	KindMessagePublished    Kind = "message.published"
	KindMessageScheduled    Kind = "message.scheduled"
	KindMessageReleased     Kind = "message.released"
	KindMessageCancelled    Kind = "message.cancelled"
	KindMessageConsumed     Kind = "message.consumed"
	KindMessageFailed       Kind = "message.failed"
	KindMessageDeadLettered Kind = "message.dead_lettered"
	KindMessageFiltered     Kind = "message.filtered"
	KindMessageExpired      Kind = "message.expired"
	KindMessageRedriven     Kind = "message.redriven"
	KindMessageErased       Kind = "message.erased"
	KindTopicRetained       Kind = "topic.retained"
)

// Event is one fact of the catalogue. The interface is sealed: the types below
// are all there are, and gochecksumtype names every switch that forgets one.
//
//sumtype:decl
type Event interface {
	// Kind returns the event's permanent name.
	Kind() Kind

	// about seals the interface; see RefsOf.
	about() Refs
}

func (TopicCreated) Kind() Kind        { return KindTopicCreated }
func (TopicUpdated) Kind() Kind        { return KindTopicUpdated }
func (TopicPurged) Kind() Kind         { return KindTopicPurged }
func (TopicDeleted) Kind() Kind        { return KindTopicDeleted }
func (SubscriptionCreated) Kind() Kind { return KindSubscriptionCreated }
func (SubscriptionUpdated) Kind() Kind { return KindSubscriptionUpdated }
func (SubscriptionPaused) Kind() Kind  { return KindSubscriptionPaused }
func (SubscriptionResumed) Kind() Kind { return KindSubscriptionResumed }
func (SubscriptionDeleted) Kind() Kind { return KindSubscriptionDeleted }
func (MessagePublished) Kind() Kind    { return KindMessagePublished }
func (MessageConsumed) Kind() Kind     { return KindMessageConsumed }
func (MessageFailed) Kind() Kind       { return KindMessageFailed }
func (MessageDeadLettered) Kind() Kind { return KindMessageDeadLettered }
func (SubscriptionStopped) Kind() Kind { return KindSubscriptionStopped }
func (SubscriptionSought) Kind() Kind  { return KindSubscriptionSought }
func (ScheduleCreated) Kind() Kind     { return KindScheduleCreated }
func (SchedulePaused) Kind() Kind      { return KindSchedulePaused }
func (ScheduleResumed) Kind() Kind     { return KindScheduleResumed }
func (ScheduleDeleted) Kind() Kind     { return KindScheduleDeleted }
func (MessageScheduled) Kind() Kind    { return KindMessageScheduled }
func (MessageReleased) Kind() Kind     { return KindMessageReleased }
func (MessageCancelled) Kind() Kind    { return KindMessageCancelled }
func (MessageFiltered) Kind() Kind     { return KindMessageFiltered }
func (MessageExpired) Kind() Kind      { return KindMessageExpired }
func (MessageRedriven) Kind() Kind     { return KindMessageRedriven }
func (MessageErased) Kind() Kind       { return KindMessageErased }
func (TopicRetained) Kind() Kind       { return KindTopicRetained }

// What events are about. Those of deliveries say it by their Delivery, and scheduled ones
// as published ones do.

func (e TopicCreated) about() Refs    { return Refs{TopicID: e.TopicID} }
func (e TopicUpdated) about() Refs    { return Refs{TopicID: e.TopicID} }
func (e TopicPurged) about() Refs     { return Refs{TopicID: e.TopicID} }
func (e TopicDeleted) about() Refs    { return Refs{TopicID: e.TopicID} }
func (e TopicRetained) about() Refs   { return Refs{TopicID: e.TopicID} }
func (e ScheduleCreated) about() Refs { return Refs{TopicID: e.TopicID} }
func (e SchedulePaused) about() Refs  { return Refs{TopicID: e.TopicID} }
func (e ScheduleResumed) about() Refs { return Refs{TopicID: e.TopicID} }
func (e ScheduleDeleted) about() Refs { return Refs{TopicID: e.TopicID} }

func (e SubscriptionCreated) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionUpdated) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionPaused) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionResumed) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionStopped) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionSought) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionDeleted) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e MessagePublished) about() Refs { return Refs{TopicID: e.TopicID, MessageID: e.MessageID} }
func (e MessageReleased) about() Refs  { return Refs{TopicID: e.TopicID, MessageID: e.MessageID} }
func (e MessageCancelled) about() Refs { return Refs{TopicID: e.TopicID, MessageID: e.MessageID} }
func (e MessageErased) about() Refs    { return Refs{TopicID: e.TopicID, MessageID: e.MessageID} }

func (e MessageRedriven) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID, MessageID: e.MessageID}
}

func (d Delivery) about() Refs {
	return Refs{TopicID: d.TopicID, SubscriptionID: d.SubscriptionID, MessageID: d.MessageID}
}

// decoders has every kind; a test holds it against the catalogue.
var decoders = map[Kind]func(Kind, []byte) (Event, error){
	KindTopicCreated:        decode[TopicCreated],
	KindTopicUpdated:        decode[TopicUpdated],
	KindTopicPurged:         decode[TopicPurged],
	KindTopicDeleted:        decode[TopicDeleted],
	KindSubscriptionCreated: decode[SubscriptionCreated],
	KindSubscriptionUpdated: decode[SubscriptionUpdated],
	KindSubscriptionPaused:  decode[SubscriptionPaused],
	KindSubscriptionResumed: decode[SubscriptionResumed],
	KindSubscriptionDeleted: decode[SubscriptionDeleted],
	KindMessagePublished:    decode[MessagePublished],
	KindMessageConsumed:     decode[MessageConsumed],
	KindMessageFailed:       decode[MessageFailed],
	KindMessageDeadLettered: decode[MessageDeadLettered],
	KindSubscriptionStopped: decode[SubscriptionStopped],
	KindSubscriptionSought:  decode[SubscriptionSought],
	KindScheduleCreated:     decode[ScheduleCreated],
	KindSchedulePaused:      decode[SchedulePaused],
	KindScheduleResumed:     decode[ScheduleResumed],
	KindScheduleDeleted:     decode[ScheduleDeleted],
	KindMessageScheduled:    decode[MessageScheduled],
	KindMessageReleased:     decode[MessageReleased],
	KindMessageCancelled:    decode[MessageCancelled],
	KindMessageFiltered:     decode[MessageFiltered],
	KindMessageExpired:      decode[MessageExpired],
	KindMessageRedriven:     decode[MessageRedriven],
	KindMessageErased:       decode[MessageErased],
	KindTopicRetained:       decode[TopicRetained],
}

// Decode reads the JSON of an event of the given kind. Unknown fields are
// ignored, so that an older program can read a newer history; an unknown kind is
// an error, because a fold that skips what it does not know is not a fold.
func Decode(kind Kind, data []byte) (Event, error) {
	decode := decoders[kind]
	if decode == nil {
		return nil, fmt.Errorf("decode event: unknown kind %q", kind)
	}
	return decode(kind, data)
}

func decode[E Event](kind Kind, data []byte) (Event, error) {
	var e E
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("decode event %s: %w", kind, err)
	}
	return e, nil
}
