package webhook

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

const (
	// URLMax bounds the bytes of an endpoint's URL.
	URLMax = 2048
	// hostMax bounds a host name's bytes (RFC 1035, 2.3.4, as text).
	hostMax = 253
)

// CheckURL says what is wrong with an endpoint's URL before anything is dialled, nil if
// it may be tried: at most URLMax bytes, http or https, a host, no user info, no
// fragment, a port from 1 to 65535 if any. A literal IP address must be one that may be
// dialled, an IPv4 address four decimal numbers, an international name in its ASCII
// form. What a name resolves to is known when it is dialled, and checked then.
//
// The texts are for the tenant and do not repeat the URL.
func (c *Client) CheckURL(text string) error {
	_, err := c.parse(text)
	return err
}

func (c *Client) parse(text string) (*url.URL, error) {
	if len(text) > URLMax {
		return nil, badURL("the URL is longer than " + strconv.Itoa(URLMax) + " bytes")
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, badURL("that is no URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, badURL("the URL's scheme must be http or https")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, badURL("the URL has no host")
	case u.User != nil:
		return nil, badURL("the URL must not have user info")
	case strings.Contains(text, "#"):
		return nil, badURL("the URL must not have a fragment")
	case !validPort(u.Host):
		return nil, badURL("the URL's port must be 1 to 65535")
	}
	if err := c.checkHost(u); err != nil {
		return nil, err
	}
	return u, nil
}

func badURL(text string) error { return &failure{text, ErrRequest} }

// validPort is whether a host with a colon after it has a port after the colon.
func validPort(host string) bool {
	end := strings.LastIndexByte(host, ':')
	if end < 0 || end < strings.LastIndexByte(host, ']') {
		return true
	}
	port, err := strconv.ParseUint(host[end+1:], 10, 16)
	return err == nil && port > 0
}

func (c *Client) checkHost(u *url.URL) error {
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	if strings.HasPrefix(u.Host, "[") && (err != nil || !addr.Is6()) {
		return badURL("that is no IPv6 address")
	}
	if err == nil {
		return refusal(c.guard.check(addr))
	}
	if !validName(host) {
		return badURL("the URL's host is not a valid name")
	}
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(host), "."), ".")
	last := labels[len(labels)-1]
	if isNumber(last) {
		// Some resolvers read 2130706433, 0x7f.1 or 0177.0.0.1 as an address.
		return badURL("an IPv4 address must be four decimal numbers")
	}
	if last == "localhost" { // RFC 6761, 6.3: loopback, whatever the DNS says
		if err := c.guard.check(netip.IPv6Loopback()); err == nil {
			return nil
		}
		return refusal(c.guard.check(netip.AddrFrom4([4]byte{127, 0, 0, 1})))
	}
	return nil
}

// refusal is the guard's error as a tenant may see it.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	return &failure{ErrNotAllowed.Error(), err}
}

// validName is whether a host has the characters and the lengths of a DNS name.
func validName(host string) bool {
	if len(host) > hostMax {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			if !isAlphanumeric(label[i]) && label[i] != '-' && label[i] != '_' {
				return false
			}
		}
	}
	return true
}

// isNumber is whether a last label makes its host an IPv4 address in the eyes of a
// browser or of inet_aton (the URL Standard, 3.5: "ends in a number").
func isNumber(label string) bool {
	digits, hex := strings.CutPrefix(label, "0x")
	for i := range len(digits) {
		d := digits[i]
		if (d < '0' || d > '9') && (!hex || d < 'a' || d > 'f') {
			return false
		}
	}
	return true
}
