package web

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

// Limits of lists.
const (
	// ListLimitDefault and ListLimitMax are how many items a page has.
	ListLimitDefault = 50
	ListLimitMax     = 500

	cursorCharsMax = 2000
	cursorVersion  = "1"
	cursorMACBytes = 16
)

var validUUID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// ValidUUID reports whether s is a UUID in its canonical lower-case form.
func ValidUUID(s string) bool { return validUUID.MatchString(s) }

// ValidText reports whether s is text that a store can hold: UTF-8 without NUL.
func ValidText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// CheckQuery refuses query parameters that the route does not have, and those
// given twice.
func CheckQuery(c echo.Context, allowed ...string) error {
	for name, values := range c.QueryParams() {
		if !slices.Contains(allowed, name) {
			return Invalid(Detail{Field: brief(name), Limit: cmp.Or(strings.Join(allowed, ", "), "none"), Problem: "is an unknown query parameter"})
		}
		if len(values) > 1 {
			return Invalid(Detail{Field: name, Limit: "once", Problem: fmt.Sprintf("is given %d times", len(values))})
		}
		if !ValidText(values[0]) {
			return Invalid(Detail{Field: name, Limit: "UTF-8 without the NUL character", Problem: "is not that"})
		}
	}
	return nil
}

// ParseLimit reads ?limit=.
func ParseLimit(c echo.Context) (int, error) {
	text := c.QueryParam("limit")
	if text == "" {
		return ListLimitDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > ListLimitMax {
		return 0, Invalid(Detail{Field: "limit", Limit: fmt.Sprintf("1 to %d", ListLimitMax), Problem: "is " + strconv.Quote(brief(text))})
	}
	return n, nil
}

// Cursors makes and reads the opaque cursors of lists. A cursor is good for one
// tenant and one list with its filters; Key is the same on every instance.
type Cursors struct{ Key []byte }

// Encode returns the cursor of a list's next page.
func (k Cursors) Encode(tenantID, list string, parts ...string) string {
	body := cursorVersion + "\x00" + strings.Join(parts, "\x00")
	return base64.RawURLEncoding.EncodeToString(append(k.mac(tenantID, list, body), body...))
}

// Decode reads ?cursor=: nil where there is none, else n parts.
func (k Cursors) Decode(c echo.Context, tenantID, list string, n int) ([]string, error) {
	text := c.QueryParam("cursor")
	if text == "" {
		return nil, nil
	}
	refused := Invalid(Detail{Field: "cursor", Limit: "a nextCursor of this list with these filters", Problem: "is not one"})
	if len(text) > cursorCharsMax {
		return nil, refused
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < cursorMACBytes {
		return nil, refused
	}
	body := string(b[cursorMACBytes:])
	if !hmac.Equal(b[:cursorMACBytes], k.mac(tenantID, list, body)) {
		return nil, refused
	}
	parts := strings.Split(body, "\x00")
	if parts[0] != cursorVersion || len(parts) != n+1 {
		return nil, refused
	}
	return parts[1:], nil
}

func (k Cursors) mac(tenantID, list, body string) []byte {
	h := hmac.New(sha256.New, k.Key)
	fmt.Fprintf(h, "%d:%s%d:%s%s", len(tenantID), tenantID, len(list), list, body)
	return h.Sum(nil)[:cursorMACBytes]
}
