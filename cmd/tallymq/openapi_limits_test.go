package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/docs"
	"github.com/tallymq/tallymq/handlers/jobs"
	"github.com/tallymq/tallymq/handlers/monitor"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/config"
)

// documentedLimits are the numbers of the document by their places, and the code's.
var documentedLimits = map[string]float64{
	"QueueCreate.properties.displayName.maxLength":                                   commands.DisplayNameMax,
	"QueueCreate.properties.description.maxLength":                                   commands.DescriptionMax,
	"QueueCreate.properties.partitionCount.maximum":                                  commands.QueuePartitionsMax,
	"QueueCreate.properties.retentionMs.minimum":                                     commands.QueueRetentionMsMin,
	"QueueCreate.properties.retentionMs.maximum":                                     commands.QueueRetentionMsMax,
	"QueueCreate.properties.retentionMs.default":                                     commands.QueueRetentionMsDefault,
	"QueueCreate.properties.allowedProducers.maxItems":                               commands.CallersMax,
	"QueueCreate.properties.allowedProducers.items.maxLength":                        commands.CallerNameMax,
	"QueueCreate.properties.allowedConsumers.maxItems":                               commands.CallersMax,
	"QueueCreate.properties.allowedConsumers.items.maxLength":                        commands.CallerNameMax,
	"QueueChange.properties.displayName.maxLength":                                   commands.DisplayNameMax,
	"QueueChange.properties.description.maxLength":                                   commands.DescriptionMax,
	"QueueChange.properties.partitionCount.maximum":                                  commands.QueuePartitionsMax,
	"QueueChange.properties.retentionMs.minimum":                                     commands.QueueRetentionMsMin,
	"QueueChange.properties.retentionMs.maximum":                                     commands.QueueRetentionMsMax,
	"QueueChange.properties.allowedProducers.maxItems":                               commands.CallersMax,
	"QueueChange.properties.allowedProducers.items.maxLength":                        commands.CallerNameMax,
	"TopicMessage.properties.payload.x-maxDepth":                                     web.PayloadDepthMax,
	"TopicMessage.properties.key.maxLength":                                          commands.MessageKeyMax,
	"TopicMessage.properties.correlationId.maxLength":                                commands.CorrelationIDMax,
	"TopicMessage.properties.contentType.maxLength":                                  commands.ContentTypeMax,
	"TopicMessage.properties.partition.maximum":                                      commands.QueuePartitionsMax - 1,
	"TopicMessage.properties.ttlMs.maximum":                                          commands.MessageTTLMsMax,
	"PublishRequest.properties.key.maxLength":                                        commands.MessageKeyMax,
	"MessageHeaders.maxProperties":                                                   commands.HeadersMax,
	"MessageHeaders.x-maxBytes":                                                      commands.HeadersBytesMax,
	"BatchRequest.properties.messages.maxItems":                                      commands.BatchMessagesMax,
	"CloudEventBatch.maxItems":                                                       commands.BatchMessagesMax,
	"CloudEvent.properties.partitionkey.maxLength":                                   commands.MessageKeyMax,
	"SubscriptionCreate.properties.maxPollRecords.maximum":                           commands.PollRecordsMax,
	"SubscriptionCreate.properties.maxPollRecords.default":                           commands.PollRecordsDefault,
	"SubscriptionCreate.properties.sessionTimeoutMs.minimum":                         commands.SessionTimeoutMsMin,
	"SubscriptionCreate.properties.sessionTimeoutMs.maximum":                         commands.SessionTimeoutMsMax,
	"SubscriptionCreate.properties.heartbeatIntervalMs.minimum":                      commands.HeartbeatMsMin,
	"SubscriptionCreate.properties.heartbeatIntervalMs.maximum":                      commands.SessionTimeoutMsMax - 1,
	"SubscriptionCreate.properties.heartbeatIntervalMs.default":                      commands.HeartbeatMsDefault,
	"SubscriptionCreate.properties.handlerConfig.x-maxBytes":                         commands.HandlerConfigBytesMax,
	"SubscriptionCreate.properties.maxRetryAttempts.maximum":                         commands.RetryAttemptsMax,
	"SubscriptionCreate.properties.maxRetryAttempts.default":                         commands.RetryAttemptsDefault,
	"SubscriptionCreate.properties.retryDelayMs.maximum":                             commands.RetryDelayMsMax,
	"SubscriptionCreate.properties.retryDelayMs.default":                             commands.RetryDelayMsDefault,
	"SubscriptionCreate.properties.messageFilter.x-maxBytes":                         commands.MessageFilterBytesMax,
	"SubscriptionChange.properties.maxPollRecords.maximum":                           commands.PollRecordsMax,
	"SubscriptionChange.properties.sessionTimeoutMs.minimum":                         commands.SessionTimeoutMsMin,
	"SubscriptionChange.properties.sessionTimeoutMs.maximum":                         commands.SessionTimeoutMsMax,
	"SubscriptionChange.properties.heartbeatIntervalMs.minimum":                      commands.HeartbeatMsMin,
	"SubscriptionChange.properties.heartbeatIntervalMs.maximum":                      commands.SessionTimeoutMsMax - 1,
	"SubscriptionChange.properties.handlerConfig.x-maxBytes":                         commands.HandlerConfigBytesMax,
	"SubscriptionChange.properties.maxRetryAttempts.maximum":                         commands.RetryAttemptsMax,
	"SubscriptionChange.properties.retryDelayMs.maximum":                             commands.RetryDelayMsMax,
	"SubscriptionChange.properties.messageFilter.x-maxBytes":                         commands.MessageFilterBytesMax,
	"TopicMessage.properties.maxRetryAttempts.maximum":                               commands.RetryAttemptsMax,
	"TopicMessage.properties.retryDelayMs.maximum":                                   commands.RetryDelayMsMax,
	"DelayedRequest.properties.delayMs.maximum":                                      commands.DelayMsMax,
	"DelayedRequest.properties.maxRetryAttempts.maximum":                             commands.RetryAttemptsMax,
	"ScheduledRequest.properties.retryDelayMs.maximum":                               commands.RetryDelayMsMax,
	"ScheduleCreate.properties.name.maxLength":                                       commands.ScheduleNameMax,
	"ScheduleCreate.properties.cron.maxLength":                                       commands.CronMax,
	"ScheduleCreate.properties.timeZone.maxLength":                                   commands.TimeZoneMax,
	"ScheduleCreate.properties.payload.x-maxDepth":                                   web.PayloadDepthMax,
	"ScheduleCreate.properties.key.maxLength":                                        commands.MessageKeyMax,
	"ScheduleCreate.properties.correlationId.maxLength":                              commands.CorrelationIDMax,
	"ScheduleCreate.properties.contentType.maxLength":                                commands.ContentTypeMax,
	"ScheduleCreate.properties.ttlMs.maximum":                                        commands.MessageTTLMsMax,
	"RedriveRequest.properties.messageIds.maxItems":                                  command.RedriveIDsMax,
	"ReplayRequest.properties.speed.maximum":                                         command.ReplaySpeedMax,
	"FilterRequest.properties.payload.x-maxDepth":                                    web.PayloadDepthMax,
	"FilterRequest.properties.key.maxLength":                                         commands.MessageKeyMax,
	"FilterRequest.properties.messageFilter.x-maxBytes":                              commands.MessageFilterBytesMax,
	"PullRequest.properties.maxMessages.maximum":                                     commands.PullMessagesMax,
	"PullRequest.properties.waitMs.maximum":                                          commands.PullWaitMsMax,
	"AckRequest.properties.ackTokens.maxItems":                                       commands.AckTokensMax,
	"NackRequest.properties.delayMs.maximum":                                         commands.NackDelayMsMax,
	"NackRequest.properties.error.maxLength":                                         commands.NackErrorMax,
	"ExtendRequest.properties.leaseMs.minimum":                                       commands.ExtendMsMin,
	"ExtendRequest.properties.leaseMs.maximum":                                       commands.ExtendMsMax,
	"Status.properties.shards.maximum":                                               config.ShardsMax,
	"/components/parameters/limit/schema/maximum":                                    web.ListLimitMax,
	"/components/parameters/limit/schema/default":                                    web.ListLimitDefault,
	"/components/parameters/Idempotency-Key/schema/maxLength":                        commands.IdempotencyKeyMax,
	"/components/requestBodies/Nothing/x-maxBytes":                                   command.AdminBodyMax,
	"/paths/~1api~1v1~1mq~1queues/post/requestBody/x-maxBytes":                       command.AdminBodyMax,
	"/paths/~1api~1v1~1mq~1subscriptions/post/requestBody/x-maxBytes":                command.AdminBodyMax,
	"/paths/~1api~1v1~1mq~1publish~1batch/post/requestBody/x-maxBytes":               command.BatchBodyMax,
	"/paths/~1api~1v1~1mq~1subscriptions~1{id}~1seek/post/requestBody/x-maxBytes":    command.AdminBodyMax,
	"/paths/~1api~1v1~1mq~1subscriptions~1{id}~1redrive/post/requestBody/x-maxBytes": command.AdminBodyMax,
	"/paths/~1api~1v1~1mq~1queues~1{name}~1replay/post/requestBody/x-maxBytes":       command.AdminBodyMax,
	"/paths/~1api~1v1~1mq~1subscriptions~1{id}~1ack/post/requestBody/x-maxBytes":     command.SettleBodyMax,
}

func TestTheDocumentHasTheCodesLimits(t *testing.T) {
	t.Parallel()
	text, err := docs.JSON()
	require.NoError(t, err)
	var doc any
	require.NoError(t, json.Unmarshal(text, &doc))
	limits := maps.Clone(documentedLimits)
	for _, schema := range []string{"SubscriptionCreate", "SubscriptionChange"} {
		for place, want := range handlerConfigLimits {
			limits[schema+".properties.handlerConfig.properties."+place] = want
		}
	}
	for place, want := range limits {
		if !strings.HasPrefix(place, "/") {
			place = "/components/schemas/" + strings.ReplaceAll(place, ".", "/")
		}
		require.InDelta(t, want, at(doc, place), 0, place)
	}
	cfg, err := config.Load(nil)
	require.NoError(t, err)
	require.InDelta(t, cfg.MessageSizeBytesMax, at(doc, "/components/schemas/TopicMessage/properties/payload/x-maxBytes"), 0)
	// Numbers that stand in sentences.
	require.Contains(t, string(text), fmt.Sprintf("at most %d MiB of messages", pullBytesMax>>20))
	require.Contains(t, string(text), fmt.Sprintf("All bodies under way together have\\n%d MiB", bodyBytesMax>>20))
	require.Contains(t, string(text), fmt.Sprintf("at least %d KiB per second", web.BodyBytesPerSecondMin>>10))
	require.Contains(t, string(text), fmt.Sprintf("within %d hours", int(idempotencyTTL.Hours())))
	require.Equal(t, 3, strings.Count(string(text), fmt.Sprintf("%d jobs of the tenant have not ended", jobs.OpenMax)))
	require.Contains(t, string(text), fmt.Sprintf("for %d hours", int(commands.SecretOverlap.Hours())))
	require.Equal(t, 1000, monitor.QueuesMax)
	require.Contains(t, string(text), "up to 1,000 of its queues")
	require.Equal(t, 20, cloudevents.NameCharsMax)
	require.Contains(t, string(text), `{1,20}|data_base64`)
}

// at is what a JSON pointer (RFC 6901) leads to, nil for nothing.
func at(value any, pointer string) any {
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		object, _ := value.(map[string]any)
		value = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]
	}
	return value
}

// What the document allows at most is taken, and more is refused with the field's name.
func TestTheDocumentsLimitsAreTheService(t *testing.T) {
	t.Parallel()
	s := &stage{truth: newTruth(t), auth: newAuthService(t)}
	cfg := testConfig(t)
	cfg.AuthURL, cfg.AuthIssuer, cfg.PlatformTenant = s.auth.url, accessIssuer, platformTenant
	s.main = start(t, cfg, accessToken)
	tried := 0
	for _, op := range operationsOf(s.truth.doc) {
		if op.RequestBody == nil || strings.HasPrefix(op.path, internalPrefix) || op.OperationID == "publishBatch" {
			continue
		}
		media := op.RequestBody.Value.Content["application/json"]
		for name, property := range media.Schema.Value.Properties {
			for _, e := range edgesOf(property.Value) {
				s.tryEdge(t, op, name, s.newScene(t, op).first(op), func(r *docRequest, value any) { r.set(name, value) }, e)
				tried++
			}
		}
	}
	require.Greater(t, tried, 150)
}

// tryEdge has a field at its limit taken, and past it refused.
func (s *stage) tryEdge(t *testing.T, op documentedOp, name string, r *docRequest, set func(r *docRequest, value any), e edge) {
	t.Helper()
	what := fmt.Sprintf("%s: %s", op.OperationID, name)
	if !onlyBeyond[op.OperationID+" "+name] {
		set(r, e.within)
		got := s.truth.send(t, s.main.url, r)
		require.Less(t, got.status, http.StatusMultipleChoices, "%s at its limit: %s", what, got.body)
	}
	set(r, e.beyond)
	got := s.truth.send(t, s.main.url, r)
	field, _ := got.refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
	require.True(t, strings.HasPrefix(field, name), "%s past its limit: %s", what, got.body)
}

// onlyBeyond are fields whose limit something else in the scene holds lower.
var onlyBeyond = map[string]bool{
	"publish partition": true, "publishToTopic partition": true, "publishDelayed partition": true, "publishScheduled partition": true, // the queue has four
	"pull maxMessages":                       true,                                                 // as the subscription says
	"pull waitMs":                            true,                                                 // it would be waited for
	"createSubscription heartbeatIntervalMs": true, "updateSubscription heartbeatIntervalMs": true, // less than sessionTimeoutMs
	"updateSubscription sessionTimeoutMs": true,                                                          // more than heartbeatIntervalMs
	"createSubscription subscriptionType": true,                                                          // a webhook needs its url
	"createSubscription queue":            true, "updateSubscription queue": true, "publish queue": true, // there must be one of that name
	"publishDelayed queue": true, "publishScheduled queue": true, "createSchedule queue": true, "replay queue": true, // likewise
	"createSubscription deadLetterQueue": true, "updateSubscription deadLetterQueue": true, // likewise
	"createSchedule cron": true, "createSchedule timeZone": true, // none that says something is that long
	"createSubscription handlerConfig.url": true,                                                                                                                                                                               // likewise
	"updateQueue name":                     true, "updateSubscription offsetResetPolicy": true, "updateSubscription subscriptionType": true, "updateSubscription consumerGroup": true, "updateSubscription consumerName": true, // cannot change
	"updateQueue partitionCount": true,                                                   // cannot become less
	"ack ackTokens":              true, "nack ackTokens": true, "extend ackTokens": true, // tokens of nothing are refused one by one
}

// edge is a value at a limit, and the nearest beyond it.
type edge struct{ within, beyond any }

// edgesOf are a schema's limits.
func edgesOf(s *openapi3.Schema) []edge {
	var out []edge
	if s.Max != nil {
		out = append(out, edge{within: *s.Max, beyond: *s.Max + 1})
	}
	if s.Min != nil {
		out = append(out, edge{within: *s.Min, beyond: *s.Min - 1})
	}
	if s.MaxLength != nil && !slices.Contains([]string{"date-time", "uuid"}, s.Format) {
		most := int(*s.MaxLength) //nolint:gosec // a small number
		out = append(out, edge{within: strings.Repeat("a", most), beyond: strings.Repeat("a", most+1)})
	}
	if s.MaxItems != nil {
		most := int(*s.MaxItems) //nolint:gosec // a small number
		item := any("a")
		switch s.Items.Value.Format {
		case "uuid":
			item = newID()
		default:
			if s.Items.Value.Type.Is("integer") {
				item = 1
			}
		}
		out = append(out, edge{within: slices.Repeat([]any{item}, most), beyond: slices.Repeat([]any{item}, most+1)})
	}
	if s.MaxProps != nil {
		object := map[string]string{}
		for i := range *s.MaxProps {
			object[fmt.Sprint("h", i)] = "x"
		}
		more := map[string]string{"one": "more"}
		for name := range object {
			more[name] = "x"
		}
		out = append(out, edge{within: object, beyond: more})
	}
	if len(s.Enum) > 0 {
		for _, value := range s.Enum {
			out = append(out, edge{within: value, beyond: "another"})
		}
	}
	return out
}
