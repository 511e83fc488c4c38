package webhook

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckURL(t *testing.T) {
	t.Parallel()
	c := clientOf(t, nil)
	for _, ok := range []string{
		"http://example.com", "https://example.com/hook?x=1&token=abc", "HTTPS://EXAMPLE.com:8443/", "http://8.8.8.8/", "http://8.8.8.8:1/",
		"https://[2606:4700:4700::1111]:65535/x", "https://xn--bcher-kva.example/", "https://a_b.example.com./", "http://internal/", "https://h2.0x.example/",
		"https://example.com/" + strings.Repeat("a", URLMax-len("https://example.com/")),
	} {
		require.NoError(t, c.CheckURL(ok), ok)
	}
	for text, want := range map[string]string{
		"":                                            "scheme",
		"example.com":                                 "scheme",
		"//example.com/":                              "scheme",
		"ftp://example.com/":                          "scheme",
		"file:///etc/passwd":                          "scheme",
		"gopher://127.0.0.1/":                         "scheme",
		"http:example.com":                            "no host",
		"http:///x":                                   "no host",
		"http://":                                     "no host",
		"http://:80/":                                 "no host",
		"http://user@example.com/":                    "user info",
		"http://user:pass@example.com/":               "user info",
		"http://@example.com/":                        "user info",
		"http://example.com/#x":                       "fragment",
		"http://example.com/#":                        "fragment",
		"http://example.com:0/":                       "port",
		"http://example.com:/":                        "port",
		"http://example.com:65536/":                   "port",
		"http://example.com:99999999999":              "port",
		"http://example.com:x/":                       "no URL",
		"http://exa mple.com/":                        "no URL",
		"http://example.com/\x00":                     "no URL",
		"http://example.com/\r\nX: y":                 "no URL",
		"http://[::1":                                 "no URL",
		"http://bücher.example/":                      "valid name",
		"http://１２７.０.０.１/":                           "valid name",
		"http://127。0。0。1/":                           "valid name",
		"http://a..b/":                                "valid name",
		"http://./":                                   "valid name",
		"http://a*b/":                                 "valid name",
		"http://" + strings.Repeat("a", 64) + ".de/":  "valid name",
		"http://" + strings.Repeat("a.", 127) + "de/": "valid name",
		"https://example.com/" + strings.Repeat("a", URLMax-len("https://example.com/")+1): "longer than",
		"http://2130706433/":                 "four decimal",
		"http://0x7f000001/":                 "four decimal",
		"http://0X7F.1/":                     "four decimal",
		"http://0x7f.1/":                     "four decimal",
		"http://127.1/":                      "four decimal",
		"http://0177.0.0.1/":                 "four decimal",
		"http://127.0.0.1./":                 "four decimal",
		"http://0/":                          "four decimal",
		"http://017700000001/":               "four decimal",
		"http://1.2.3.4.5/":                  "four decimal",
		"http://256.0.0.1/":                  "four decimal",
		"http://localhost/":                  "address not allowed",
		"http://LOCALHOST.:8080/":            "address not allowed",
		"http://x.localhost/":                "address not allowed",
		"http://127.0.0.1/":                  "address not allowed",
		"http://169.254.169.254/latest/":     "address not allowed",
		"http://[::]/":                       "address not allowed",
		"http://[::1]:80/":                   "address not allowed",
		"http://[::ffff:127.0.0.1]/":         "address not allowed",
		"http://[::ffff:7f00:1]/":            "address not allowed",
		"http://[0:0:0:0:0:ffff:7f00:0001]/": "address not allowed",
		"http://[64:ff9b::7f00:1]/":          "address not allowed",
		"http://[fe80::1%25eth0]/":           "address not allowed",
	} {
		err := c.CheckURL(text)
		require.ErrorContains(t, err, want, text)
		require.LessOrEqual(t, len(err.Error()), ErrorTextMax)
	}
}

func TestCheckURL_refusesEveryAddressThatIsNotPublic(t *testing.T) {
	t.Parallel()
	c := clientOf(t, nil)
	for _, a := range refused {
		host := a
		if strings.Contains(a, ":") {
			host = "[" + strings.ReplaceAll(a, "%", "%25") + "]"
		}
		require.ErrorIs(t, c.CheckURL("https://"+host+":8443/"), ErrNotAllowed, a)
	}
}

func TestCheckURL_knowsWhatIsAllowed(t *testing.T) {
	t.Parallel()
	c := clientOf(t, nil, netip.MustParsePrefix("127.0.0.0/8"))
	for _, ok := range []string{"http://127.0.0.1:8080/", "http://localhost:8080/", "http://x.localhost/"} {
		require.NoError(t, c.CheckURL(ok), ok)
	}
	for _, no := range []string{"http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://10.0.0.1/", "http://2130706433/"} {
		require.Error(t, c.CheckURL(no), no)
	}
	require.NoError(t, clientOf(t, nil, netip.MustParsePrefix("::1/128")).CheckURL("http://localhost/"))
}

func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/x?y", "http://2130706433/", "http://[::ffff:127.0.0.1]:80/", "http://u:p@h/#f", "http://0x7f.1", "http://h:0",
		"http://[fe80::1%25lo]/", "http:x", "http://localhost.", "http://１２７.０.０.１/", "http://[1.2.3.4]/",
	} {
		f.Add(seed)
	}
	c := New(Config{})
	f.Fuzz(func(t *testing.T, text string) {
		if err := c.CheckURL(text); err != nil {
			require.LessOrEqual(t, len(err.Error()), ErrorTextMax)
			return
		}
		u, err := url.Parse(text)
		require.NoError(t, err)
		require.Contains(t, []string{"http", "https"}, u.Scheme)
		require.NotEmpty(t, u.Hostname())
		require.Nil(t, u.User)
		require.Empty(t, u.Fragment)
		require.NotEqual(t, "localhost", strings.ToLower(u.Hostname()))
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			require.NoError(t, c.guard.check(addr))
		}
	})
}
