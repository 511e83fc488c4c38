package cron

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return v
}

func TestNextIsInTheSchedulesZone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ spec, zone, after, want string }{
		"every minute":                {"* * * * *", "UTC", "2026-01-31T08:00:00Z", "2026-01-31T08:01:00Z"},
		"after, not at":               {"0 8 * * *", "UTC", "2026-01-31T08:00:00Z", "2026-02-01T08:00:00Z"},
		"zone":                        {"0 8 * * *", "Europe/Berlin", "2026-01-31T08:00:00Z", "2026-02-01T07:00:00Z"},
		"summer":                      {"0 8 * * *", "Europe/Berlin", "2026-07-31T08:00:00Z", "2026-08-01T06:00:00Z"},
		"word":                        {"@hourly", "UTC", "2026-01-31T08:30:00Z", "2026-01-31T09:00:00Z"},
		"day of week":                 {"0 0 * * MON", "UTC", "2026-01-31T00:00:00Z", "2026-02-02T00:00:00Z"},
		"leap day":                    {"0 0 29 2 *", "UTC", "2026-01-31T00:00:00Z", "2028-02-29T00:00:00Z"},
		"hour that is left out":       {"30 2 29 3 *", "Europe/Berlin", "2026-01-01T00:00:00Z", "2027-03-29T00:30:00Z"},
		"hour that comes twice":       {"30 2 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z"},
		"hour that comes twice, once": {"30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		"every half hour, both times": {"30 * * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next, err := Next(tc.spec, tc.zone, at(t, tc.after))
			require.NoError(t, err)
			require.Equal(t, at(t, tc.want), next)
		})
	}
}

func TestNextSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ spec, zone, want string }{
		"empty":         {"", "UTC", "five fields"},
		"seconds":       {"0 0 8 * * *", "UTC", "cannot be read"},
		"every":         {"@every 1s", "UTC", "five fields"},
		"zone in spec":  {"CRON_TZ=Asia/Tokyo 0 8 * * *", "UTC", "five fields"},
		"range":         {"61 * * * *", "UTC", "cannot be read"},
		"never":         {"0 0 31 2 *", "UTC", "never comes"},
		"no zone":       {"* * * * *", "Mars/Phobos", "timeZone"},
		"machine's own": {"* * * * *", "Local", "timeZone"},
		"path":          {"* * * * *", "../../etc/passwd", "timeZone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Next(tc.spec, tc.zone, at(t, "2026-01-31T08:00:00Z"))
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func FuzzNext(f *testing.F) {
	f.Add("*/5 1-3 * JAN,FEB ?", "Asia/Kathmandu")
	f.Add("@daily", "")
	f.Fuzz(func(t *testing.T, spec, zone string) {
		if len(spec) > 200 {
			return // longer ones are refused before
		}
		after := time.UnixMilli(1767323045006)
		next, err := Next(spec, zone, after)
		if err == nil && !next.After(after) {
			t.Fatalf("%q in %q: %v is not after %v", spec, zone, next, after)
		}
	})
}
