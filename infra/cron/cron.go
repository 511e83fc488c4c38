// Package cron tells when a recurring schedule ticks: five fields as in crontab(5), or one
// of the words @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly, in a
// time zone by its IANA name.
//
// It guarantees that the same schedule after the same instant ticks at the same one, on
// every instance: zones come with the program. Where clocks are put forward, a tick within
// the hour that is left out does not come; where they are put back, a tick within the hour
// that comes twice comes once, unless the schedule is for every hour.
//
// It imports robfig/cron, and nothing of TallyMQ.
package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a bare machine has no zones

	"github.com/robfig/cron/v3"
)

var (
	errFields = errors.New("has not five fields, nor is it a word such as @daily")
	errZone   = errors.New("timeZone is no IANA name, such as Europe/Berlin")
	errNever  = errors.New("never comes")
)

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// Next returns the first tick after an instant, in UTC. Its errors say what is wrong with
// the schedule.
func Next(spec, zone string, after time.Time) (time.Time, error) {
	// Local is the machine's, TZ= the library's own way to name a zone, and @every has no
	// times of its own.
	if strings.HasPrefix(spec, "@every") || strings.HasPrefix(spec, "TZ=") || strings.HasPrefix(spec, "CRON_TZ=") || spec == "" {
		return time.Time{}, errFields
	}
	if zone == "Local" {
		return time.Time{}, errZone
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return time.Time{}, errZone
	}
	schedule, err := parser.Parse(spec)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot be read: %w", err)
	}
	after = after.In(location)
	next := schedule.Next(after)
	if !next.IsZero() && !followsClock(spec) && !wall(next).After(wall(after)) {
		next = schedule.Next(next) // it came before the clocks were put back
	}
	if next.IsZero() {
		return time.Time{}, errNever
	}
	return next.UTC(), nil
}

// followsClock reports whether a schedule is meant by the hour that passes, not by the hour
// that is shown.
func followsClock(spec string) bool {
	fields := strings.Fields(spec)
	return spec == "@hourly" || (len(fields) > 1 && strings.HasPrefix(fields[1], "*"))
}

// wall is what a clock on the wall shows.
func wall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
}
