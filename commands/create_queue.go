package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/tallymq/tallymq/events"
)

// Limits of a queue's configuration.
const (
	// QueuePartitionsMax bounds what one pull has to look at.
	QueuePartitionsMax = 64
	// QueueRetentionMsMin and QueueRetentionMsMax are a minute and ten years.
	QueueRetentionMsMin = 60_000
	QueueRetentionMsMax = 315_360_000_000
	// QueueRetentionMsDefault is seven days.
	QueueRetentionMsDefault = 604_800_000
	// DisplayNameMax, DescriptionMax are in characters.
	DisplayNameMax = 200
	DescriptionMax = 4000
	// CallersMax is how many producers or consumers a queue may name, and
	// CallerNameMax how long each name is, in characters.
	CallersMax    = 100
	CallerNameMax = 200
)

// QueueNameLimit is the rule for queue names in words, queueName in code.
const QueueNameLimit = "[a-z0-9][a-z0-9._-]{0,199}"

var queueName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,199}$`)

// CreateQueue asks for a new queue. Zero values take the defaults.
type CreateQueue struct {
	// ID is the queue's id, minted by the caller.
	ID                string
	Name              string
	DisplayName       string
	Description       string
	TopicType         string
	PartitionCount    *int
	ReplicationFactor *int
	RetentionMs       *int64
	MessageFormat     string
	SchemaDefinition  json.RawMessage
	CompressionType   string
	IsPublic          bool
	AllowedProducers  []string
	AllowedConsumers  []string
	Status            string
}

// decideCreateQueue fills in the defaults and checks every field.
func decideCreateQueue(c CreateQueue) (events.TopicConfig, error) {
	e := events.TopicConfig{
		TopicID: c.ID, Name: c.Name, DisplayName: c.DisplayName, Description: c.Description,
		TopicType: or(c.TopicType, "redis_stream"), PartitionCount: deref(c.PartitionCount, 1),
		ReplicationFactor: deref(c.ReplicationFactor, 1), RetentionMs: deref(c.RetentionMs, QueueRetentionMsDefault),
		MessageFormat: or(c.MessageFormat, "json"), SchemaDefinition: c.SchemaDefinition,
		CompressionType: or(c.CompressionType, "none"), IsPublic: c.IsPublic,
		AllowedProducers: orEmpty(c.AllowedProducers), AllowedConsumers: orEmpty(c.AllowedConsumers),
		Status: or(c.Status, StatusActive),
	}
	var v check
	v.that(queueName.MatchString(e.Name), "name", QueueNameLimit, fmt.Sprintf("is %q", brief(e.Name)))
	v.oneOf(e.TopicType, "topicType", "redis_stream")
	v.topic(e)
	return e, v.refusal()
}

// topic checks what may change of a queue's configuration.
func (c *check) topic(e events.TopicConfig) {
	c.short(e.DisplayName, "displayName", DisplayNameMax)
	c.short(e.Description, "description", DescriptionMax)
	c.between(int64(e.PartitionCount), 1, QueuePartitionsMax, "partitionCount")
	c.between(int64(e.ReplicationFactor), 1, 1, "replicationFactor")
	c.between(e.RetentionMs, QueueRetentionMsMin, QueueRetentionMsMax, "retentionMs")
	c.oneOf(e.MessageFormat, "messageFormat", "json")
	c.oneOf(e.CompressionType, "compressionType", "none")
	c.oneOf(e.Status, "status", StatusActive, StatusPaused)
	c.that(isObjectOrAbsent(e.SchemaDefinition), "schemaDefinition", "a JSON object", "is not an object")
	c.callers(e.AllowedProducers, "allowedProducers")
	c.callers(e.AllowedConsumers, "allowedConsumers")
}

func (c *check) callers(names []string, field string) {
	c.that(len(names) <= CallersMax, field, fmt.Sprintf("at most %d", CallersMax), fmt.Sprintf("has %d", len(names)))
	for i, name := range names {
		c.that(name != "", fmt.Sprintf("%s[%d]", field, i), "1 character or more", "is empty")
		c.short(name, fmt.Sprintf("%s[%d]", field, i), CallerNameMax)
	}
}

// CreateQueue creates a queue and returns it. With an idempotency key, the same
// request again returns the same queue.
func (d *Dispatcher) CreateQueue(ctx context.Context, caller Caller, cmd CreateQueue) (Topic, Receipt, error) {
	fail := func(err error) (Topic, Receipt, error) { return Topic{}, Receipt{}, err }
	config, err := decideCreateQueue(cmd)
	if err != nil {
		return fail(err)
	}
	topic := Topic{TenantID: caller.TenantID, Version: 1, Config: config}
	shard := events.ShardOf(caller.TenantID, config.Name, d.cfg.Shards)
	out, err := d.appendState(ctx, shard, topic, events.Append{
		ID: cmd.ID, TenantID: caller.TenantID, Event: events.TopicCreated{TopicConfig: config}, Meta: d.meta(caller, d.fingerprint(caller, cmd)),
		Version: topic.Version,
	})
	if err != nil {
		return fail(err)
	}
	topic.CreatedAtMs, topic.ChangedAtMs = out.Position.Ms(), out.Position.Ms()
	switch out.Status {
	case events.StatusExists:
		return fail(refuse(CodeConflict, "a queue named %q exists", config.Name))
	case events.StatusKeyReused:
		return fail(keyReused())
	case events.StatusDuplicate:
		d.store.Forget(out.ID)
		topic, _, err = d.topic(ctx, caller, config.Name)
		if isRefused(err, CodeQueueNotFound) || (err == nil && topic.Config.TopicID != out.ID) {
			err = refuse(CodeConflict, "the queue that this request made has been deleted")
		}
		if err != nil {
			return fail(err)
		}
	default:
	}
	receipt, err := d.await(ctx, caller, shard, out)
	return topic, receipt, err
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

func deref[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// isObjectOrAbsent goes by the first byte: the edge has checked that it is JSON.
func isObjectOrAbsent(raw json.RawMessage) bool {
	text := strings.TrimLeft(string(raw), " \t\r\n")
	return text == "" || text[0] == '{'
}

// brief keeps error texts short.
func brief(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
