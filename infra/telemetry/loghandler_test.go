package telemetry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

const (
	someTrace       = "4bf92f3577b34da6a3ce929d0e0e4736"
	someTraceparent = "00-" + someTrace + "-00f067aa0ba902b7-01"
)

func TestRecordsCarryTheTraceOfTheirContext(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := slog.New(NewTraceHandler(slog.NewTextHandler(&out, nil))).With("a", 1).WithGroup("g")
	ctx := trace.ContextWithSpanContext(context.Background(), remote(someTraceparent))
	logger.InfoContext(ctx, "with")
	require.Contains(t, out.String(), "g.traceId="+someTrace+" g.spanId=00f067aa0ba902b7")
	out.Reset()
	logger.InfoContext(context.Background(), "without")
	require.NotContains(t, out.String(), "traceId")
	logger.InfoContext(ctx, "its own", "traceId", "x")
	require.Contains(t, out.String(), "traceId=x")
	require.NotContains(t, out.String(), someTrace)
	require.False(t, logger.Enabled(ctx, slog.LevelDebug))
}

func TestLeakedFindsSecretsInAllTheirForms(t *testing.T) {
	t.Parallel()
	const secret = "canary/7f3a \"é"
	for name, output := range map[string]string{
		"plain":  "a=" + secret,
		"hex":    hex.EncodeToString([]byte("{" + secret + "}")),
		"base64": base64.StdEncoding.EncodeToString([]byte(secret + " and more")),
		"quoted": `{"a":"canary/7f3a \"é"}`,
		"query":  "?q=canary%2F7f3a+%22%C3%A9",
	} {
		require.Equal(t, []string{secret}, Leaked(output, "absent", secret, ""), name)
	}
	require.Empty(t, Leaked("nothing of the kind", secret))
}
