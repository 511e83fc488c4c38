package commands

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Limits of a webhook's configuration.
const (
	WebhookURLMax          = 2000
	WebhookTimeoutMsMin    = 1000
	WebhookTimeoutMsMax    = 60_000
	WebhookConcurrencyMax  = 64
	WebhookRateMax         = 10_000
	WebhookHeadersMax      = 32
	WebhookFailuresMin     = 1
	WebhookFailuresMax     = 1000
	WebhookFailuresDefault = 10
	WebhookPauseMsMin      = 1000
	WebhookPauseMsMax      = 7 * 86_400_000
	WebhookPauseMsDefault  = 3_600_000
	RetryScheduleMax       = 50
)

// Webhook is what a webhook subscription's handlerConfig says: where its messages are
// POSTed and how. The zero value of a field takes the default.
type Webhook struct {
	// URL is http or https.
	URL string `json:"url"`
	// Headers are sent with each request, beside those of Standard Webhooks.
	Headers map[string]string `json:"headers"`
	// CloudEvents asks for CloudEvents' binary mode.
	CloudEvents bool `json:"cloudEvents"`
	// TimeoutMs is how long an answer may take, PROCESSING_TIMEOUT_MS unless set.
	TimeoutMs int `json:"timeoutMs"`
	// Concurrency is how many requests are under way, MAX_CONCURRENT_CONSUMERS unless
	// set, and RatePerSecond how many begin, any number unless set; both are per
	// instance.
	Concurrency   int     `json:"concurrency"`
	RatePerSecond float64 `json:"ratePerSecond"`
	// BreakerFailures is after how many failures one after the other deliveries rest
	// for a while, and PauseAfterMs for how long failures must last until the
	// subscription is paused.
	BreakerFailures int   `json:"breakerFailures"`
	PauseAfterMs    int64 `json:"pauseAfterMs"`
}

// delivery is what any subscription's handlerConfig may say.
type deliveryConfig struct {
	// Ordered asks for messages of one key one after the other: the next once the one
	// before is settled.
	Ordered bool `json:"ordered"`
	// RetrySchedule are the delays before the first, second, … retry in ms; the last
	// is used again. It stands in for retryDelayMs and its growth.
	RetrySchedule []int64 `json:"retryScheduleMs"`
}

// handlerConfig is all that is read of a handlerConfig.
type handlerConfig struct {
	Webhook
	deliveryConfig
}

var errHandlerConfig = errors.New("is not what a handlerConfig holds")

// parseHandler reads a handlerConfig. A webhook's has no other fields; a consumer's
// may say whatever its consumer understands, and a webhook's fields mean nothing in it.
func parseHandler(raw json.RawMessage, isWebhook bool) (handlerConfig, error) {
	var h handlerConfig
	dec := json.NewDecoder(bytes.NewReader(raw)) // duplicate names and the rest were refused at the edge
	var into any = &h.deliveryConfig
	if isWebhook {
		dec.DisallowUnknownFields()
		into = &h
	}
	if err := dec.Decode(into); err != nil {
		text := strings.TrimPrefix(err.Error(), "json: ")
		return h, fmt.Errorf("%w: %s", errHandlerConfig, brief(text))
	}
	return h, nil
}

// Webhook returns the subscription's webhook; the defaults are the caller's.
func (s Subscription) Webhook() (Webhook, error) {
	h, err := parseHandler(s.Config.HandlerConfig, true)
	return h.Webhook, err
}

// handler checks handlerConfig: an object, and for a webhook one with its url.
func (c *check) handler(subscriptionType string, raw json.RawMessage) {
	c.atMost(len(raw), HandlerConfigBytesMax, "handlerConfig")
	if !isObjectOrAbsent(raw) {
		c.that(false, "handlerConfig", "a JSON object", "is not an object")
		return
	}
	isWebhook := subscriptionType == TypeWebhook
	h, err := parseHandler(raw, isWebhook)
	if err != nil {
		c.that(false, "handlerConfig", "url, headers, cloudEvents, timeoutMs, concurrency, ratePerSecond, breakerFailures, pauseAfterMs, ordered, retryScheduleMs", err.Error())
		return
	}
	c.that(len(h.RetrySchedule) <= RetryScheduleMax, "handlerConfig.retryScheduleMs", fmt.Sprintf("at most %d delays", RetryScheduleMax), fmt.Sprintf("has %d", len(h.RetrySchedule)))
	for i, ms := range h.RetrySchedule {
		c.between(ms, 0, RetryDelayMsMax, fmt.Sprintf("handlerConfig.retryScheduleMs[%d]", i))
	}
	if !isWebhook {
		return
	}
	u, err := url.Parse(h.URL)
	ok := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && len(h.URL) <= WebhookURLMax
	c.that(ok, "handlerConfig.url", fmt.Sprintf("an http or https URL of at most %d characters, without user and password", WebhookURLMax), "is not one")
	c.that(len(h.Headers) <= WebhookHeadersMax, "handlerConfig.headers", fmt.Sprintf("at most %d", WebhookHeadersMax), fmt.Sprintf("has %d", len(h.Headers)))
	var given struct { // 0 is not as if a field was left out
		TimeoutMs       *int64 `json:"timeoutMs"`
		Concurrency     *int64 `json:"concurrency"`
		BreakerFailures *int64 `json:"breakerFailures"`
		PauseAfterMs    *int64 `json:"pauseAfterMs"`
	}
	if len(raw) > 0 {
		c.that(json.Unmarshal(raw, &given) == nil, "handlerConfig", "a JSON object", "is not one")
	}
	c.ifGiven(given.TimeoutMs, WebhookTimeoutMsMin, WebhookTimeoutMsMax, "handlerConfig.timeoutMs")
	c.ifGiven(given.Concurrency, 1, WebhookConcurrencyMax, "handlerConfig.concurrency")
	c.that(h.RatePerSecond >= 0 && h.RatePerSecond <= WebhookRateMax, "handlerConfig.ratePerSecond", fmt.Sprintf("more than 0, at most %d", WebhookRateMax), fmt.Sprintf("is %g", h.RatePerSecond))
	c.ifGiven(given.BreakerFailures, WebhookFailuresMin, WebhookFailuresMax, "handlerConfig.breakerFailures")
	c.ifGiven(given.PauseAfterMs, WebhookPauseMsMin, WebhookPauseMsMax, "handlerConfig.pauseAfterMs")
}

// ifGiven is between for what may also be left out.
func (c *check) ifGiven(n *int64, least, most int64, field string) {
	if n != nil {
		c.between(*n, least, most, field)
	}
}

// SecretOverlap is for how long a rotated secret goes on signing beside its successor.
const SecretOverlap = 24 * time.Hour

// SecretInfos are what the subscription's secrets are derived from, the current one's
// first: the one before signs too for a while after a rotation.
func (s Subscription) SecretInfos(now time.Time) []string {
	info := func(generation int) string { return fmt.Sprintf("%s %d", s.Config.SubscriptionID, generation) }
	infos := []string{info(s.Config.SecretGeneration)}
	if s.Config.SecretGeneration > 0 && now.UnixMilli() < s.Config.OldSecretUntilMs {
		infos = append(infos, info(s.Config.SecretGeneration-1))
	}
	return infos
}
