package telemetry

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
)

// Leaked returns the secrets that output (a log, a scrape) contains, as they are or
// in hex, base64, quoted or URL-encoded form. Tests plant canaries and expect none.
// A base64 of more than the secret is found where the secret's bytes begin at a
// multiple of three.
func Leaked(output string, secrets ...string) []string {
	var found []string
	lower := strings.ToLower(output)
	for _, s := range secrets {
		if s == "" {
			continue
		}
		whole := s[:len(s)/3*3] // of which base64 does not depend on what follows
		if strings.Contains(output, s) || strings.Contains(lower, hex.EncodeToString([]byte(s))) ||
			strings.Contains(output, strings.Trim(strconv.Quote(s), `"`)) ||
			strings.Contains(output, url.QueryEscape(s)) || strings.Contains(output, url.PathEscape(s)) ||
			(whole != "" && (strings.Contains(output, base64.StdEncoding.EncodeToString([]byte(whole))) ||
				strings.Contains(output, base64.RawURLEncoding.EncodeToString([]byte(whole))))) {
			found = append(found, s)
		}
	}
	return found
}
