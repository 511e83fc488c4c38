package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"code.dny.dev/ssrf"
)

// ErrNotAllowed is what errors.Is finds where an endpoint's URL or the address behind
// it is not one that may be dialled. Nothing was sent.
var ErrNotAllowed = errors.New("address not allowed")

// deniedIPv4 is what is public by its number but not by its use.
var deniedIPv4 = []netip.Prefix{
	netip.MustParsePrefix("168.63.129.16/32"), // what Azure answers a virtual machine on
}

// disguises are IPv6 addresses that stand for an IPv4 address, or may be delivered to
// one by a translator or a tunnel. Nothing opens them, for none is an endpoint's own.
var disguises = []netip.Prefix{
	netip.MustParsePrefix("::/96"),           // IPv4-compatible (RFC 4291, 2.5.5.1), and ::
	netip.MustParsePrefix("::ffff:0:0/96"),   // IPv4-mapped (RFC 4291, 2.5.5.2)
	netip.MustParsePrefix("::ffff:0:0:0/96"), // IPv4-translated (RFC 2765, 2.1)
	netip.MustParsePrefix("64:ff9b:1::/48"),  // NAT64, local use (RFC 8215): the place of the IPv4 address is unknown
	netip.MustParsePrefix("2001::/32"),       // Teredo (RFC 4380)
	netip.MustParsePrefix("2002::/16"),       // 6to4 (RFC 3056)
}

// nat64 is the well-known prefix of NAT64; the last 32 bits are the IPv4 address
// (RFC 6052, 2.1). Prefixes that a network chose itself cannot be told from others.
var nat64 = ssrf.IPv6NAT64Prefix

// guard decides what may be dialled, and refuses what it cannot read.
//
// Any port may: receivers listen on 8443 and the like, and which port it is says nothing
// about whose machine it is; the address does. So ssrf is asked about addresses alone.
type guard struct {
	// public knows public addresses alone, allowed those of Config.Allow too.
	public, allowed *ssrf.Guardian
}

func newGuard(allow []netip.Prefix) guard {
	var v4, v6 []netip.Prefix
	for _, p := range allow {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	deny := ssrf.WithDeniedV4Prefixes(slices.Clone(deniedIPv4)...)
	return guard{
		public:  ssrf.New(deny),
		allowed: ssrf.New(deny, ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...)),
	}
}

// control is a net.Dialer's: it is called with the very address that a socket is about
// to be connected to, for each that a name has. Go connects to an IPv4-mapped address
// by IPv4, so that one comes as IPv4 and is judged as what it is.
func (g guard) control(network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%w: network %s", ErrNotAllowed, network)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	return g.check(ap.Addr())
}

// check is control for an address alone.
func (g guard) check(addr netip.Addr) error {
	if !addr.IsValid() || addr.Zone() != "" {
		return fmt.Errorf("%w: no address, or one with a zone", ErrNotAllowed)
	}
	if addr != netip.IPv6Loopback() && slices.ContainsFunc(disguises, func(p netip.Prefix) bool { return contains(p, addr) }) {
		return fmt.Errorf("%w: an IPv4 address in IPv6", ErrNotAllowed)
	}
	if nat64.Contains(addr) {
		b := addr.As16()
		if err := g.public.SafeAddr(netip.AddrFrom4([4]byte(b[12:]))); err != nil {
			return fmt.Errorf("%w: by NAT64: %w", ErrNotAllowed, err)
		}
	}
	if err := g.allowed.SafeAddr(addr); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	return nil
}

// contains is p.Contains for an IPv6 prefix, but it knows IPv4-mapped addresses too.
func contains(p netip.Prefix, addr netip.Addr) bool {
	if !addr.Is6() {
		return false
	}
	masked, err := addr.Prefix(p.Bits())
	return err == nil && masked.Addr() == p.Addr()
}
