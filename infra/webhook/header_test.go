package webhook

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckHeader(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"X-Team", "Authorization", "ce-type", "traceparent", "Idempotency-Key", "x_y", "!#$%&'*+-.^_`|~", "hosts", "webhook",
		strings.Repeat("a", HeaderNameMax),
	} {
		require.NoError(t, CheckHeader(name, "a value, \t ~"), name)
		require.NoError(t, CheckHeader(name, ""), name)
	}
	for _, name := range []string{
		"", "a b", "a:", "a\r\n", "é", "a\x00", strings.Repeat("a", HeaderNameMax+1),
		"webhook-id", "Webhook-Signature", "WEBHOOK-x", "webhook_id", "Webhook_Timestamp", "Host", "content-length", "Content_Length",
		"Content-Type", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer",
		"Upgrade", "HTTP2-Settings", "Expect", "User-Agent", "Accept-Encoding", "Forwarded", "X-Forwarded-For", "X-Real-IP", "Via",
	} {
		require.Error(t, CheckHeader(name, "x"), name)
		require.LessOrEqual(t, len(CheckHeader(name, "x").Error()), ErrorTextMax)
	}
	require.NoError(t, CheckHeader("x", strings.Repeat("v", HeaderValueMax)))
	for _, value := range []string{"a\r\nX: y", "a\n", "\x00", "\x7f", "é", strings.Repeat("v", HeaderValueMax+1)} {
		require.Error(t, CheckHeader("x", value), value)
	}
}

func FuzzCheckHeader(f *testing.F) {
	f.Add("X-Team", "a")
	f.Add("webhook_id", "a\r\nb: c")
	f.Fuzz(func(t *testing.T, name, value string) {
		if CheckHeader(name, value) != nil {
			return
		}
		require.NotContains(t, name+value, "\n")
		canonical := http.CanonicalHeaderKey(name)
		require.False(t, strings.HasPrefix(canonical, "Webhook-"))
		require.NotContains(t, []string{"Host", "Connection", "Content-Length", "Transfer-Encoding"}, canonical)
	})
}
