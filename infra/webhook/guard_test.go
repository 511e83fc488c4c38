package webhook

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// refused are addresses that no client reaches unless it is told to, in every form an
// address can come in.
var refused = []string{
	"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
	"127.0.0.1", "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
	"192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255",
	"198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
	"::", "::1", "::7f00:1", "::808:808", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8",
	"64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::8.8.8.8",
	"64:ff9b:1::127.0.0.1", "64:ff9b:1:7f00:0:100::", "64:ff9b:1::8.8.8.8", "64:ff9b:2::1",
	"2001::1", "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
	"2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "2620:4f:8000::1",
	"100::1", "fc00::1", "fd00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
}

// public are addresses that every client may reach.
var public = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1",
	"168.63.129.15", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "223.255.255.255",
	"2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2003::1",
}

func TestGuard_refusesWhatIsNotPublic(t *testing.T) {
	t.Parallel()
	g := newGuard(nil)
	for _, a := range refused {
		addr := netip.MustParseAddr(a)
		require.ErrorIs(t, g.check(addr), ErrNotAllowed, a)
		for _, network := range []string{"tcp4", "tcp6"} {
			for _, port := range []uint16{1, 80, 443, 8443, 65535} {
				require.ErrorIs(t, g.control(network, netip.AddrPortFrom(addr, port).String(), nil), ErrNotAllowed, a)
			}
		}
	}
	for _, a := range public {
		require.NoError(t, g.check(netip.MustParseAddr(a)), a)
		require.NoError(t, g.control("tcp6", netip.AddrPortFrom(netip.MustParseAddr(a), 8443).String(), nil), a)
	}
}

func TestGuard_refusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	g := newGuard([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
	require.NoError(t, g.control("tcp4", "8.8.8.8:80", nil))
	require.Error(t, g.check(netip.Addr{}))
	for _, tc := range [][2]string{
		{"tcp4", ""},
		{"tcp4", "8.8.8.8"},
		{"tcp4", "localhost:80"},
		{"tcp4", "8.8.8.8:http"},
		{"tcp4", "2130706433:80"},
		{"tcp4", "0x7f.1:80"},
		{"tcp4", "8.8.8.8:65536"},
		{"tcp", "8.8.8.8:80"},
		{"udp4", "8.8.8.8:80"},
		{"unix", "/run/x.sock"},
		{"", "8.8.8.8:80"},
	} {
		require.ErrorIs(t, g.control(tc[0], tc[1], nil), ErrNotAllowed, tc)
	}
}

func TestGuard_allowOpensExactlyThese(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		allow           []string
		opened, refused []string
	}{
		"an IPv4 network": {
			[]string{"10.1.2.0/24"},
			[]string{"10.1.2.0", "10.1.2.255"},
			[]string{
				"10.1.1.255", "10.1.3.0", "127.0.0.1", "::ffff:10.1.2.3", "::10.1.2.3", "::ffff:0:10.1.2.3", "64:ff9b::10.1.2.3",
				"64:ff9b:1::10.1.2.3", "2002:a01:203::1", "2001:0:a01:203::1", "2001::f5fe:fdfc",
			},
		},
		"loopback": {
			[]string{"127.0.0.0/8", "::1/128"},
			[]string{"127.0.0.1", "127.255.255.255", "::1"},
			[]string{"::", "::2", "0.0.0.0", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "::127.0.0.1", "10.0.0.1"},
		},
		"all IPv4":        {[]string{"0.0.0.0/0"}, []string{"127.0.0.1", "168.63.129.16"}, []string{"::1", "::ffff:127.0.0.1", "64:ff9b::8.8.8.8"}},
		"one's own IPv6":  {[]string{"fd12:3456::/32"}, []string{"fd12:3456::1"}, []string{"fd12:3457::1", "fe80::1", "127.0.0.1"}},
		"a public prefix": {[]string{"8.8.8.8/32"}, []string{"8.8.8.8"}, []string{"10.0.0.1"}},
		"NAT64 opens what is public behind it": {
			[]string{"64:ff9b::/96"},
			[]string{"64:ff9b::8.8.8.8"},
			[]string{"64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::100.64.0.1", "64:ff9b::168.63.129.16", "64:ff9b:1::8.8.8.8"},
		},
		"NAT64 and a network do not add up": {[]string{"64:ff9b::/96", "10.1.2.0/24"}, []string{"64:ff9b::8.8.8.8", "10.1.2.3"}, []string{"64:ff9b::10.1.2.3"}},
		"disguises stay closed": {
			[]string{"::/0"},
			[]string{"::1", "fd00::1"},
			[]string{"::", "::127.0.0.1", "::ffff:127.0.0.1", "64:ff9b:1::8.8.8.8", "2001::1", "2002:808:808::1", "64:ff9b::10.0.0.1", "127.0.0.1", "fe80::1%eth0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var allow []netip.Prefix
			for _, p := range tc.allow {
				allow = append(allow, netip.MustParsePrefix(p))
			}
			g := newGuard(allow)
			for _, a := range tc.opened {
				require.NoError(t, g.check(netip.MustParseAddr(a)), a)
			}
			for _, a := range tc.refused {
				require.ErrorIs(t, g.check(netip.MustParseAddr(a)), ErrNotAllowed, a)
			}
			for _, a := range public {
				require.NoError(t, g.check(netip.MustParseAddr(a)), a)
			}
		})
	}
}

func TestGuard_aPrefixThatIsNoneOpensNothing(t *testing.T) {
	t.Parallel()
	g := newGuard([]netip.Prefix{{}, netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 99)})
	for _, a := range refused {
		require.ErrorIs(t, g.check(netip.MustParseAddr(a)), ErrNotAllowed, a)
	}
}
