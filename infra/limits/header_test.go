package limits

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// item is a member of a list of strings with parameters (RFC 9651).
type item struct {
	name    string
	ints    map[string]int64
	strings map[string]string
}

var (
	sfString    = regexp.MustCompile(`^"([\x20\x21\x23-\x5b\x5d-\x7e]*)"`) // no escapes: we have none
	sfInteger   = regexp.MustCompile(`^-?[0-9]{1,15}`)
	sfKey       = regexp.MustCompile(`^[a-z*][a-z0-9_.*-]*`)
	sfSeparator = regexp.MustCompile(`^[ \t]*,[ \t]*`)
)

// parseList parses a structured field that is a list of strings.
func parseList(field string) ([]item, error) {
	var list []item
	for {
		m := sfString.FindStringSubmatch(field)
		if m == nil {
			return nil, fmt.Errorf("want a string at %q", field)
		}
		it := item{name: m[1], ints: map[string]int64{}, strings: map[string]string{}}
		field = field[len(m[0]):]
		for strings.HasPrefix(field, ";") {
			field = strings.TrimLeft(field[1:], " ")
			key := sfKey.FindString(field)
			field = field[len(key):]
			if key == "" || !strings.HasPrefix(field, "=") {
				return nil, fmt.Errorf("want a key and its value at %q", field)
			}
			field = field[1:]
			if text := sfString.FindStringSubmatch(field); text != nil {
				it.strings[key] = text[1]
				field = field[len(text[0]):]
				continue
			}
			number := sfInteger.FindString(field)
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("want an integer at %q: %w", field, err)
			}
			it.ints[key] = n
			field = field[len(number):]
		}
		list = append(list, it)
		if field == "" {
			return list, nil
		}
		separator := sfSeparator.FindString(field)
		if separator == "" {
			return nil, fmt.Errorf("want a comma at %q", field)
		}
		field = field[len(separator):]
	}
}

func mustParse(t *testing.T, field string) map[string]item {
	t.Helper()
	list, err := parseList(field)
	require.NoError(t, err, field)
	byName := map[string]item{}
	for _, it := range list {
		byName[it.name] = it
	}
	require.Len(t, byName, len(list), field)
	return byName
}

func TestHeaderFields(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rates  Rates
		policy string
		state  string
	}{
		"defaults": {
			Rates{Requests: Rate{PerSecond: DefaultRequestsPerSecond}, Bytes: Rate{PerSecond: DefaultBytesPerSecond}},
			`"requests";q=10000;w=2, "bytes";q=134217728;qu="content-bytes";w=2`,
			`"requests";r=9999;t=2, "bytes";r=134217718;t=2`,
		},
		"requests only": {Rates{Requests: Rate{PerSecond: 10, Burst: 10}}, `"requests";q=10;w=1`, `"requests";r=9;t=1`},
		"bytes only":    {Rates{Bytes: Rate{PerSecond: 3, Burst: 100}}, `"bytes";q=100;qu="content-bytes";w=34`, `"bytes";r=90;t=30`},
		"no limit":      {Rates{}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLimiter(t, tc.rates)
			require.Equal(t, tc.policy, l.Policy())
			state, err := l.Admit("a", 10, start)
			require.NoError(t, err)
			require.Equal(t, tc.state, state)
			if tc.policy != "" {
				mustParse(t, tc.policy)
				mustParse(t, tc.state)
			}
		})
	}
	_, err := parseList(`"a";r=1, b;r=1`)
	require.Error(t, err, "the parser refuses what is wrong")
}

// At every level of the buckets the fields say what the draft wants of them.
func TestHeaderFieldsKeepToTheDraft(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{{3, 7}, {50, 50}, {10, 1000}, {PerSecondMax, BurstMax}} {
		l := newLimiter(t, Rates{Requests: r, Bytes: r})
		policy := mustParse(t, l.Policy())
		require.Equal(t, "content-bytes", policy["bytes"].strings["qu"])
		refused := 0
		for i := range 3000 {
			now := start.Add(time.Duration(i) * time.Millisecond)
			state, err := l.Admit("a", r.Burst/3, now)
			fields := mustParse(t, state)
			require.Len(t, fields, 2)
			for name, it := range fields {
				left, window := it.ints["r"], it.ints["t"]
				require.True(t, left >= 0 && left <= policy[name].ints["q"], "r is within the quota: %s", state)
				require.GreaterOrEqual(t, window, int64(1), state)
				if err == nil {
					require.LessOrEqual(t, left/window, r.PerSecond, "r over t is no more than the rate: %s", state)
				}
				if refusal, ok := errors.AsType[*Refusal](err); ok {
					refused++
					require.LessOrEqual(t, window, seconds(refusal.RetryAfter()), "Retry-After is not before the end of t: %s", state)
				}
			}
		}
		require.Positive(t, refused, r)
	}
}

func TestSecondsRoundUp(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]int64{0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, DebtMax: 3600} {
		require.Equal(t, want, seconds(d))
	}
}

func TestTheLongestStateHasRoom(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{1, BurstMax}, Bytes: Rate{1, BurstMax}})
	state := l.stateField(Decision{RequestsLeft: math.MaxInt32 * 10, BytesLeft: math.MaxInt32 * 10})
	require.LessOrEqual(t, len(state), stateBytesMax)
}
