package main

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

// handlerConfigLimits are those within a handlerConfig.
var handlerConfigLimits = map[string]float64{
	"retryScheduleMs.maxItems":      commands.RetryScheduleMax,
	"retryScheduleMs.items.maximum": commands.RetryDelayMsMax,
	"url.maxLength":                 commands.WebhookURLMax,
	"headers.maxProperties":         commands.WebhookHeadersMax,
	"timeoutMs.minimum":             commands.WebhookTimeoutMsMin,
	"timeoutMs.maximum":             commands.WebhookTimeoutMsMax,
	"concurrency.maximum":           commands.WebhookConcurrencyMax,
	"ratePerSecond.maximum":         commands.WebhookRateMax,
	"breakerFailures.minimum":       commands.WebhookFailuresMin,
	"breakerFailures.maximum":       commands.WebhookFailuresMax,
	"breakerFailures.default":       commands.WebhookFailuresDefault,
	"pauseAfterMs.minimum":          commands.WebhookPauseMsMin,
	"pauseAfterMs.maximum":          commands.WebhookPauseMsMax,
	"pauseAfterMs.default":          commands.WebhookPauseMsDefault,
}

// What the document allows at most within a webhook's handlerConfig is taken, and more is
// refused with the field's name.
func TestTheDocumentsLimitsOfWebhooksAreTheService(t *testing.T) {
	t.Parallel()
	s := &stage{truth: newTruth(t), auth: newAuthService(t)}
	cfg := testConfig(t)
	cfg.AuthURL, cfg.AuthIssuer = s.auth.url, accessIssuer
	s.main = start(t, cfg, accessToken)
	ops := operationsOf(s.truth.doc)
	op := ops[slices.IndexFunc(ops, func(o documentedOp) bool { return o.OperationID == "createSubscription" })]
	config := op.RequestBody.Value.Content["application/json"].Schema.Value.Properties["handlerConfig"].Value
	tried := 0
	for name, property := range config.Properties {
		for _, e := range edgesOf(property.Value) {
			r := s.newScene(t, op).first(op).set("subscriptionType", "webhook").set("status", "paused")
			s.tryEdge(t, op, "handlerConfig."+name, r, func(r *docRequest, value any) {
				r.set("handlerConfig", map[string]any{"url": "https://example.com/", name: value})
				r.set("consumerGroup", newID())
			}, e)
			tried++
		}
	}
	require.Greater(t, tried, 10)
}
