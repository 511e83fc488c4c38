package events

import (
	"fmt"
	"strconv"
	"strings"
)

// HeaderReservedPrefix starts the metadata keys that are ours in a delivered
// message; no message header may start with it.
const HeaderReservedPrefix = "tallymq-"

const (
	headerTenant      = HeaderReservedPrefix + "tenant"
	headerKey         = HeaderReservedPrefix + "key"
	headerContentType = HeaderReservedPrefix + "content-type"
	headerCorrelation = HeaderReservedPrefix + "correlation-id"
	headerTraceParent = HeaderReservedPrefix + "traceparent"
	headerExpiresAtMs = HeaderReservedPrefix + "expires-at-ms"
	headerSealed      = HeaderReservedPrefix + "sealed"
	headerMaxRetries  = HeaderReservedPrefix + "max-retry-attempts"
	headerRetryDelay  = HeaderReservedPrefix + "retry-delay-ms"
)

// Metadata returns the metadata under which a message waits in its partition's
// stream: the producer's headers as they are, ours under [HeaderReservedPrefix].
// Empty fields are left out.
func (m DeliveryMeta) Metadata() map[string]string { return fromPairs(m.AppendPairs(nil)) }

// AppendPairs appends what [DeliveryMeta.Metadata] returns as keys and values in
// turn, ours last: where a key came twice, ours would win.
func (m DeliveryMeta) AppendPairs(dst []string) []string {
	for name, value := range m.Headers {
		dst = append(dst, name, value)
	}
	dst = appendPair(dst, headerTenant, m.TenantID)
	dst = appendPair(dst, headerKey, m.Key)
	dst = appendPair(dst, headerContentType, m.ContentType)
	dst = appendPair(dst, headerCorrelation, m.CorrelationID)
	dst = appendPair(dst, headerTraceParent, m.TraceParent)
	if m.ExpiresAtMs != 0 {
		dst = append(dst, headerExpiresAtMs, strconv.FormatInt(m.ExpiresAtMs, 10))
	}
	if m.Sealed {
		dst = append(dst, headerSealed, "1")
	}
	if m.MaxRetryAttempts != nil {
		dst = append(dst, headerMaxRetries, strconv.Itoa(*m.MaxRetryAttempts))
	}
	if m.RetryDelayMs != nil {
		dst = append(dst, headerRetryDelay, strconv.Itoa(*m.RetryDelayMs))
	}
	return dst
}

// ParseDeliveryMeta is the inverse of [DeliveryMeta.Metadata]. It keeps md.
func ParseDeliveryMeta(md map[string]string) (DeliveryMeta, error) {
	m := DeliveryMeta{
		TenantID: md[headerTenant], Key: md[headerKey], ContentType: md[headerContentType],
		CorrelationID: md[headerCorrelation], TraceParent: md[headerTraceParent], Sealed: md[headerSealed] != "",
	}
	if v := md[headerExpiresAtMs]; v != "" {
		ms, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return DeliveryMeta{}, fmt.Errorf("delivery metadata: %s: %w", headerExpiresAtMs, err)
		}
		m.ExpiresAtMs = ms
	}
	var err error
	if m.MaxRetryAttempts, err = optionalInt(md, headerMaxRetries); err != nil {
		return DeliveryMeta{}, err
	}
	if m.RetryDelayMs, err = optionalInt(md, headerRetryDelay); err != nil {
		return DeliveryMeta{}, err
	}
	for key := range md {
		if strings.HasPrefix(key, HeaderReservedPrefix) {
			delete(md, key)
		}
	}
	m.Headers = md
	return m, nil
}

func optionalInt(md map[string]string, header string) (*int, error) {
	text, given := md[header]
	if !given {
		return nil, nil //nolint:nilnil // nil is none
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("delivery metadata: %s: %w", header, err)
	}
	return &n, nil
}
