package webhook

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

// received is a request as a receiver has seen it.
type received struct {
	*http.Request

	body []byte
}

// receiver answers every request with a status, and hands over what it got.
func receiver(t *testing.T, status int) (*httptest.Server, <-chan received) {
	got := make(chan received, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- received{r, body}
		w.WriteHeader(status)
	}))
	t.Cleanup(srv.Close)
	return srv, got
}

func TestSend_signsForTheOldAndTheNewSecret(t *testing.T) {
	t.Parallel()
	srv, got := receiver(t, http.StatusNoContent)
	current, old, other := Secret([]byte("key"), "2"), Secret([]byte("key"), "1"), Secret([]byte("key"), "3")
	r := delivery(srv.URL + "/hook?x=y")
	r.Secrets = []string{current, old}

	result := clientOf(t, nil, loopback...).Send(t.Context(), r)
	require.NoError(t, result.Err)
	require.True(t, result.OK())
	require.Equal(t, http.StatusNoContent, result.Status)
	require.Positive(t, result.Took)

	in := <-got
	require.Equal(t, "POST /hook?x=y", in.Method+" "+in.RequestURI)
	require.Equal(t, r.Body, in.body)
	require.Equal(t, "application/json", in.Header.Get("Content-Type"))
	require.Equal(t, "test/1", in.Header.Get("User-Agent"))
	require.Equal(t, r.ID, in.Header.Get(standardwebhooks.HeaderWebhookID))
	require.Len(t, strings.Split(in.Header.Get(standardwebhooks.HeaderWebhookSignature), " "), 2)
	for secret, valid := range map[string]bool{current: true, old: true, other: false} {
		verifier, err := standardwebhooks.NewWebhook(secret)
		require.NoError(t, err)
		require.Equal(t, valid, verifier.Verify(in.body, in.Header) == nil)
		require.Error(t, verifier.Verify(append(in.body, ' '), in.Header))
	}
}

func TestSend_unsignedAndEmpty(t *testing.T) {
	t.Parallel()
	srv, got := receiver(t, http.StatusOK)
	r := delivery(srv.URL)
	r.Body, r.ContentType = nil, ""
	require.True(t, clientOf(t, nil, loopback...).Send(t.Context(), r).OK())
	in := <-got
	require.Empty(t, in.body)
	require.NotContains(t, in.Header, "Content-Type")
	require.NotContains(t, in.Header, "Webhook-Signature")
	require.Equal(t, r.ID, in.Header.Get(standardwebhooks.HeaderWebhookID))
	require.NotEmpty(t, in.Header.Get(standardwebhooks.HeaderWebhookTimestamp))
}

func TestSend_customHeaders(t *testing.T) {
	t.Parallel()
	srv, got := receiver(t, http.StatusOK)
	r := delivery(srv.URL)
	r.Secrets = []string{Secret(nil, "")}
	r.Header = http.Header{
		"Ce-Type": {"order.paid"}, "authorization": {"Bearer x"}, "X-Many": {"1", "2"},
		"webhook-id": {"forged"}, "Webhook_Signature": {"v1,forged"}, "WEBHOOK-TIMESTAMP": {"1"}, "Host": {"other.example"},
		"Content-Length": {"1"}, "Transfer-Encoding": {"chunked"}, "Connection": {"close, X-Many"}, "User-Agent": {"forged"},
		"content-type": {"text/forged"}, "X-Forwarded-For": {"127.0.0.1"}, "Expect": {"100-continue"}, "Bad Name": {"x"}, "X-Bad": {"a\r\nX: y"},
	}
	require.True(t, clientOf(t, nil, loopback...).Send(t.Context(), r).OK())
	in := <-got
	require.Equal(t, strings.TrimPrefix(srv.URL, "http://"), in.Host)
	require.Equal(t, r.Body, in.body)
	signature := in.Header.Get("Webhook-Signature")
	require.NotContains(t, signature, "forged")
	in.Header.Del("Webhook-Signature")
	in.Header.Del("Webhook-Timestamp")
	require.Equal(t, http.Header{
		"Ce-Type": {"order.paid"}, "Authorization": {"Bearer x"}, "X-Many": {"1", "2"}, "Content-Type": {"application/json"},
		"Content-Length": {"17"}, "User-Agent": {"test/1"}, "Webhook-Id": {r.ID},
	}, in.Header)
}

func TestSend_whatCannotBeSentIsNot(t *testing.T) {
	t.Parallel()
	srv, got := receiver(t, http.StatusOK)
	c := clientOf(t, nil, loopback...)
	for name, change := range map[string]func(*Request){
		"no id":            func(r *Request) { r.ID = "" },
		"id with stop":     func(r *Request) { r.ID = "a.1700000000.b" },
		"id with line end": func(r *Request) { r.ID = "a\r\nX: y" },
		"long id":          func(r *Request) { r.ID = strings.Repeat("a", IDMax+1) },
		"content type":     func(r *Request) { r.ContentType = "text/plain\r\nX: y" },
		"URL":              func(r *Request) { r.URL = "ftp://example.com" },
		"secret's prefix":  func(r *Request) { r.Secrets = []string{"whsk_" + strings.Repeat("A", 32)} },
		"secret's base64":  func(r *Request) { r.Secrets = []string{"whsec_" + strings.Repeat("!", 32)} },
		"short secret":     func(r *Request) { r.Secrets = []string{"whsec_" + strings.Repeat("AAAA", 8)[:31] + "="} },
		"long secret":      func(r *Request) { r.Secrets = []string{"whsec_" + strings.Repeat("AAAA", 22)} },
		"second secret":    func(r *Request) { r.Secrets = []string{Secret(nil, ""), "x"} },
		"too many secrets": func(r *Request) { r.Secrets = make([]string, SecretsMax+1) },
	} {
		r := delivery(srv.URL)
		change(&r)
		result := c.Send(t.Context(), r)
		require.ErrorIs(t, result.Err, ErrRequest, name)
		require.False(t, result.OK())
		require.LessOrEqual(t, len(result.Err.Error()), ErrorTextMax)
	}
	require.Empty(t, got)
}

func TestSend_everyStatusButA2xxIsAFailure(t *testing.T) {
	t.Parallel()
	elsewhere, redirected := receiver(t, http.StatusOK)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := 0
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.Header().Set("Location", elsewhere.URL)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	}))
	t.Cleanup(srv.Close)
	c := clientOf(t, nil, loopback...)
	for _, status := range []int{200, 201, 202, 204, 299, 300, 301, 302, 303, 304, 307, 308, 400, 404, 410, 429, 500, 503, 599} {
		result := c.Send(t.Context(), delivery(fmt.Sprintf("%s/%d", srv.URL, status)))
		require.NoError(t, result.Err)
		require.Equal(t, status, result.Status)
		require.Equal(t, status < 300, result.OK())
		require.Equal(t, !result.OK(), result.RetryAfter == 7*time.Second)
	}
	require.Empty(t, redirected, "a redirect was followed")
}

func TestSend_overTLS(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			seen := make(chan string, 1)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, err := io.ReadAll(r.Body)
				seen <- fmt.Sprint(r.Proto, " ", err)
			}))
			srv.EnableHTTP2 = proto == "HTTP/2.0"
			srv.StartTLS()
			t.Cleanup(srv.Close)
			c := clientOf(t, nil, loopback...)
			trust(c, srv)
			for _, body := range []string{"", "x"} {
				r := delivery(srv.URL)
				r.Body = []byte(body)
				result := c.Send(t.Context(), r)
				require.NoError(t, result.Err)
				require.True(t, result.OK())
				require.Equal(t, proto+" <nil>", <-seen)
			}
		})
	}
}

func TestSend_canceledByItsCaller(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		close(began)
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	result := clientOf(t, nil, loopback...).Send(ctx, delivery(srv.URL))
	require.ErrorIs(t, result.Err, context.Canceled)
	require.EqualError(t, result.Err, "canceled before an answer came")
}

func TestNew_limits(t *testing.T) {
	t.Parallel()
	c := New(Config{UserAgent: "a\nb"})
	require.Equal(t, DefaultUserAgent, c.userAgent)
	require.Equal(t, "x/1", New(Config{UserAgent: "x/1"}).userAgent)
	require.Nil(t, c.transport.Proxy)
	require.Equal(t, uint16(tls.VersionTLS12), c.transport.TLSClientConfig.MinVersion)
	require.False(t, c.transport.TLSClientConfig.InsecureSkipVerify)
	require.Equal(t, ConnsPerHostMax, c.transport.MaxConnsPerHost)
	require.Equal(t, IdleConnsPerHostMax, c.transport.MaxIdleConnsPerHost)
	require.Equal(t, IdleConnsMax, c.transport.MaxIdleConns)
	require.Equal(t, IdleConnTime, c.transport.IdleConnTimeout)
	require.Equal(t, DialTime, c.transport.TLSHandshakeTimeout)
}
