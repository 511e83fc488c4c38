package webhook

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

const (
	// HeaderNameMax bounds the bytes of a custom header's name. How many headers there
	// may be is for the caller to bound.
	HeaderNameMax = 128
	// HeaderValueMax bounds the bytes of a custom header's value.
	HeaderValueMax = 4096
)

// reservedHeaders and reservedPrefixes are set by the delivery itself, belong to the
// connection (RFC 9110, 7.6.1), change how the request is sent, or tell a receiver who
// sent it, which is not the tenant's to say.
var (
	reservedHeaders = []string{
		"accept-encoding", "connection", "content-length", "content-type", "expect", "forwarded", "host",
		"http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-real-ip",
	}
	reservedPrefixes = []string{"proxy-", "webhook-", "x-forwarded-"}
)

// CheckHeader says whether a tenant may set this header on deliveries, nil if so. A name
// is a token (RFC 9110, 5.6.2), a value visible ASCII, spaces and tabs. Those that the
// delivery sets or the connection owns are refused, also with _ for -, which some
// receivers cannot tell apart. The texts do not repeat name or value.
func CheckHeader(name, value string) error {
	if name == "" || len(name) > HeaderNameMax {
		return errors.New("a header's name has 1 to " + strconv.Itoa(HeaderNameMax) + " bytes")
	}
	for i := range len(name) {
		if !isAlphanumeric(name[i]) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(name[i])) {
			return errors.New("a header's name has letters, digits and !#$%&'*+-.^_`|~ only")
		}
	}
	if len(value) > HeaderValueMax {
		return errors.New("a header's value has at most " + strconv.Itoa(HeaderValueMax) + " bytes")
	}
	if !validFieldValue(value) {
		return errors.New("a header's value has visible ASCII characters, spaces and tabs only")
	}
	plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if slices.Contains(reservedHeaders, plain) ||
		slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(plain, p) }) {
		return errors.New("this header is set by the delivery itself")
	}
	return nil
}

func validFieldValue(value string) bool {
	for i := range len(value) {
		if (value[i] < ' ' && value[i] != '\t') || value[i] > '~' {
			return false
		}
	}
	return true
}

func isAlphanumeric(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}
