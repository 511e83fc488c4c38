package command_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/command"
)

const (
	noSchedule   = "MQ_SCHEDULE_NOT_FOUND"
	noMessage    = "MQ_MESSAGE_NOT_FOUND"
	noJob        = "MQ_JOB_NOT_FOUND"
	conflict     = "MQ_CONFLICT"
	uuidLimit    = "a UUID in lower case"
	nothere      = "01890a5d-ac97-7d6b-8f2a-0c6d5f1e2a3b"
	futureLimit  = "in the future, within 365 days"
	placeLimit   = "earliest, latest, a time as in RFC 3339 or an offset"
	cronLimit    = "five fields as in crontab(5)"
	targetLimit  = "subscriptionId or queue, one of them"
	yearsLimit   = "a time from 1970 on, before 2200"
	timeLimit    = "a time as in RFC 3339, such as 2026-01-31T08:00:00Z"
	reasonsLimit = "one of nack, lease_expired, released, unreadable, webhook"
)

// tomorrow is a time to schedule something for, as RFC 3339.
func tomorrow() string { return time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339Nano) }

func hostileDelivery(sub string) []hostileCase {
	cases := hostileMessages("/publish/delayed", `"queue":"orders","delayMs":60000,`)
	cases = append(cases, hostileMessages("/publish/scheduled", `"queue":"orders","scheduledAt":"`+tomorrow()+`",`)...)
	cases = append(cases, hostileTimes()...)
	cases = append(cases, hostileSchedules()...)
	cases = append(cases, hostileSteering(sub)...)
	cases = append(cases, hostileRedrives(sub)...)
	return append(cases, hostileReplays(sub)...)
}

func hostileTimes() []hostileCase {
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	delayed := func(delay string) string { return `{"queue":"orders","payload":1,"delayMs":` + delay + `}` }
	at := func(t string) string { return `{"queue":"orders","payload":1,"scheduledAt":` + t + `}` }
	stranger := []string{"X-Test-Tenant", otherTenant}
	return []hostileCase{
		{"no delay", "/publish/delayed", `{"queue":"orders","payload":1}`, nil, 400, invalid, "delayMs", "0 to 31536000000"},
		{"null for a delay", "/publish/delayed", delayed("null"), nil, 400, invalid, "delayMs", "0 to 31536000000"},
		{"into the past", "/publish/delayed", delayed("-1"), nil, 400, invalid, "delayMs", "0 to 31536000000"},
		{"more than a year", "/publish/delayed", delayed(fmt.Sprint(commands.DelayMsMax + 1)), nil, 400, invalid, "delayMs", "0 to 31536000000"},
		{"half a millisecond", "/publish/delayed", delayed("0.5"), nil, 400, invalid, "delayMs", "an integer"},
		{"another's field", "/publish/delayed", at(`"` + tomorrow() + `"`), nil, 400, invalid, "scheduledAt", fieldsLimit},
		{"delay where there is none", "/publish", delayed("1"), nil, 400, invalid, "delayMs", fieldsLimit},
		{"delay in a topic's", "/topics/orders/publish", `{"payload":1,"delayMs":1}`, nil, 400, invalid, "delayMs", fieldsLimit},
		{"delay in a batch", "/publish/batch", `{"messages":[` + delayed("1") + `]}`, nil, 400, invalid, "messages[0].delayMs", fieldsLimit},
		{"nowhere, later", "/publish/delayed", `{"queue":"nowhere","payload":1,"delayMs":1}`, nil, 404, noQueue, "", ""},
		{"another tenant's, later", "/publish/delayed", delayed("1"), stranger, 404, noQueue, "", ""},
		{"an event", "/publish/delayed", `{"specversion":"1.0"}`, []string{"Content-Type", "application/cloudevents+json"}, 415, wrongMedia, "Content-Type", "application/json"},
		{"no time", "/publish/scheduled", `{"queue":"orders","payload":1}`, nil, 400, invalid, "scheduledAt", futureLimit},
		{"long past", "/publish/scheduled", at(`"` + in(-2*time.Minute) + `"`), nil, 400, invalid, "scheduledAt", futureLimit},
		{"in more than a year", "/publish/scheduled", at(`"` + in(366*24*time.Hour) + `"`), nil, 400, invalid, "scheduledAt", futureLimit},
		{"in words", "/publish/scheduled", at(`"tomorrow"`), nil, 400, invalid, "scheduledAt", timeLimit},
		{"as a number", "/publish/scheduled", at(`1767225600`), nil, 400, invalid, "scheduledAt", timeLimit},
		{"another tenant's, at a time", "/publish/scheduled", at(`"` + tomorrow() + `"`), stranger, 404, noQueue, "", ""},
	}
}

func hostileSchedules() []hostileCase {
	with := func(fields string) string { return `{"queue":"orders","payload":1,"cron":"* * * * *",` + fields + `}` }
	timed := func(cron string) string { return `{"queue":"orders","payload":1,"cron":"` + cron + `"}` }
	const path = "/schedules"
	cases := []hostileCase{
		{"no queue", path, `{"payload":1,"cron":"* * * * *"}`, nil, 400, invalid, "queue", queueName},
		{"no payload", path, `{"queue":"orders","cron":"* * * * *"}`, nil, 400, invalid, "payload", "any JSON value"},
		{"payload too large", path, `{"queue":"orders","cron":"* * * * *","payload":"` + strings.Repeat("x", payloadMax-1) + `"}`, nil, 413, tooLarge, "payload", "at most 2000 bytes"},
		{"payload too deep", path, `{"queue":"orders","cron":"* * * * *","payload":` + nested("[", "]", 33) + `}`, nil, 400, invalid, "payload", depthLimit},
		{"NUL in a payload", path, `{"queue":"orders","cron":"* * * * *","payload":"\u0000"}`, nil, 400, invalid, "payload", nulLimit},
		{"name too long", path, with(`"name":"` + strings.Repeat("x", commands.ScheduleNameMax+1) + `"`), nil, 400, invalid, "name", "at most 200 characters"},
		{"cron too long", path, timed(strings.Repeat("x", commands.CronMax+1)), nil, 400, invalid, "cron", "at most 200 characters"},
		{"zone too long", path, with(`"timeZone":"` + strings.Repeat("x", commands.TimeZoneMax+1) + `"`), nil, 400, invalid, "timeZone", "at most 100 characters"},
		{"zone that is none", path, with(`"timeZone":"Mars/Olympus"`), nil, 400, invalid, "cron", cronLimit},
		{"the machine's zone", path, with(`"timeZone":"Local"`), nil, 400, invalid, "cron", cronLimit},
		{"key too long", path, with(`"key":"` + strings.Repeat("x", commands.MessageKeyMax+1) + `"`), nil, 400, invalid, "key", "at most 500 characters"},
		{"reserved header", path, with(`"headers":{"tallymq-x":"x"}`), nil, 400, invalid, "headers.tallymq-x", "names not starting with tallymq- or _watermill"},
		{"long correlation id", path, with(`"correlationId":"` + strings.Repeat("x", 201) + `"`), nil, 400, invalid, "correlationId", "at most 200 characters"},
		{"no time to live", path, with(`"ttlMs":0`), nil, 400, invalid, "ttlMs", "1 to 31536000000"},
		{"status that is none", path, with(`"status":"stopped"`), nil, 400, invalid, "status", "one of active, paused"},
		{"id of its own", path, with(`"id":"` + nothere + `"`), nil, 400, invalid, "id", fieldsLimit},
		{"unknown queue", path, `{"queue":"nowhere","payload":1,"cron":"* * * * *"}`, nil, 404, noQueue, "", ""},
		{"another tenant's queue", path, timed("* * * * *"), []string{"X-Test-Tenant", otherTenant}, 404, noQueue, "", ""},
	}
	for _, cron := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* * 30 2 *", "@every 1s", "@reboot", "TZ=UTC * * * * *", "a b c d e"} {
		cases = append(cases, hostileCase{"cron " + cron, path, timed(cron), nil, 400, invalid, "cron", cronLimit})
	}
	return cases
}

func hostileSteering(sub string) []hostileCase {
	at := func(what string) string { return "/subscriptions/" + sub + "/" + what }
	testing := func(fields string) string { return `{"payload":1,` + fields + `}` }
	stranger := []string{"X-Test-Tenant", otherTenant}
	cases := []hostileCase{
		{"no payload", at("test-filter"), `{}`, nil, 400, invalid, "payload", "any JSON value"},
		{"payload too large", at("test-filter"), `{"payload":"` + strings.Repeat("x", payloadMax-1) + `"}`, nil, 413, tooLarge, "payload", "at most 2000 bytes"},
		{"key too long", at("test-filter"), testing(`"key":"` + strings.Repeat("x", 501) + `"`), nil, 400, invalid, "key", "at most 500 characters"},
		{"header too large", at("test-filter"), testing(`"headers":{"a":"` + strings.Repeat("x", 16<<10) + `"}`), nil, 400, invalid, "headers", "at most 16384 bytes"},
		{"filter that is a list", at("test-filter"), testing(`"messageFilter":[]`), nil, 400, invalid, "messageFilter", "a JSON object"},
		{"filter too large", at("test-filter"), testing(`"messageFilter":{"key":"` + strings.Repeat("x", 4<<10) + `"}`), nil, 400, invalid, "messageFilter", "at most 4096 bytes"},
		{"filter that does not compile", at("test-filter"), testing(`"messageFilter":{"nonsense":1}`), nil, 400, invalid, "messageFilter", `{"cel"`},
		{"filter of another tenant's", at("test-filter"), `{"payload":1}`, stranger, 404, noSub, "", ""},
		{"seek another tenant's", at("seek"), `{"to":"latest"}`, stranger, 404, noSub, "", ""},
		{"seek and say when", at("seek"), `{"to":"latest","from":"earliest"}`, nil, 400, invalid, "from", fieldsLimit},
	}
	for _, to := range []string{``, `"to":null`, `"to":""`, `"to":"middle"`, `"to":"Earliest"`, `"to":-1`, `"to":"-1"`, `"to":1.5`, `"to":1e3`, `"to":9007199254740992`, `"to":true`, `"to":{}`, `"to":["latest"]`, `"to":"2026-01-31"`} {
		cases = append(cases, hostileCase{"seek to " + to, at("seek"), `{` + to + `}`, nil, 400, invalid, "to", placeLimit})
	}
	for what, body := range map[string]string{"seek": `{"to":"latest"}`, "test-filter": `{"payload":1}`, "redrive": `{}`, "rotate-secret": `{}`} {
		for _, bad := range []string{"x", strings.ToUpper(sub), sub + "0", "%00", "%ff"} {
			cases = append(cases, hostileCase{what + " by " + bad, "/subscriptions/" + bad + "/" + what, body, nil, 400, invalid, "id", uuidLimit})
		}
		cases = append(cases, hostileCase{what + " of none", "/subscriptions/" + nothere + "/" + what, body, nil, 404, noSub, "", ""})
	}
	return cases
}

func hostileRedrives(sub string) []hostileCase {
	path := "/subscriptions/" + sub + "/redrive"
	ids := func(n int) string {
		return `{"messageIds":[` + strings.TrimSuffix(strings.Repeat(`"`+nothere+`",`, n), ",") + `]}`
	}
	return []hostileCase{
		{"no ids", path, ids(0), nil, 400, invalid, "messageIds", "1 to 1000 ids"},
		{"too many ids", path, ids(command.RedriveIDsMax + 1), nil, 400, invalid, "messageIds", "1 to 1000 ids"},
		{"id that is none", path, `{"messageIds":["` + nothere + `","x"]}`, nil, 400, invalid, "messageIds[1]", uuidLimit},
		{"id that is a number", path, `{"messageIds":[1]}`, nil, 400, invalid, "messageIds[0]", "a string"},
		{"reason that is none", path, `{"reason":"bad luck"}`, nil, 400, invalid, "reason", reasonsLimit},
		{"time in words", path, `{"from":"yesterday"}`, nil, 400, invalid, "from", timeLimit},
		{"too early", path, `{"from":"1969-12-31T23:59:59Z"}`, nil, 400, invalid, "from", yearsLimit},
		{"too late", path, `{"to":"2200-01-01T00:00:00Z"}`, nil, 400, invalid, "to", yearsLimit},
		{"too early in UTC", path, `{"from":"1970-01-01T00:59:59+01:00"}`, nil, 400, invalid, "from", yearsLimit},
		{"backwards", path, `{"from":"2026-01-31T08:00:00Z","to":"2026-01-31T08:00:00Z"}`, nil, 400, invalid, "to", "later than from"},
		{"another's", path, `{}`, []string{"X-Test-Tenant", otherTenant}, 404, noSub, "", ""},
		{"at a pace", path, `{"speed":1}`, nil, 400, invalid, "speed", fieldsLimit},
	}
}

func hostileReplays(sub string) []hostileCase {
	const path = "/queues/orders/replay"
	to := func(fields string) string { return `{"subscriptionId":"` + sub + `",` + fields + `}` }
	cases := []hostileCase{
		{"to nowhere", path, `{}`, nil, 400, invalid, "subscriptionId", targetLimit},
		{"to both", path, to(`"queue":"others"`), nil, 400, invalid, "queue", targetLimit},
		{"to a subscription that is none", path, `{"subscriptionId":"x"}`, nil, 400, invalid, "subscriptionId", uuidLimit},
		{"to a queue that cannot be", path, `{"queue":"Others"}`, nil, 400, invalid, "queue", queueName},
		{"to another tenant's queue", path, `{"queue":"` + otherTenant + `:others"}`, nil, 400, invalid, "queue", queueName},
		{"to itself", path, `{"queue":"orders"}`, nil, 400, invalid, "queue", "another queue than the one that is replayed"},
		{"too fast", path, to(`"speed":100.5`), nil, 400, invalid, "speed", "0 to 100"},
		{"backwards", path, to(`"speed":-0.1`), nil, 400, invalid, "speed", "0 to 100"},
		{"speed in words", path, to(`"speed":"fast"`), nil, 400, invalid, "speed", ""},
		{"too early", path, to(`"from":"0001-01-01T00:00:00Z"`), nil, 400, invalid, "from", yearsLimit},
		{"too late", path, to(`"to":"9999-12-31T00:00:00Z"`), nil, 400, invalid, "to", yearsLimit},
		{"ends before it begins", path, to(`"from":"2026-01-31T08:00:00Z","to":"2026-01-31T07:00:00Z"`), nil, 400, invalid, "to", "later than from"},
		{"of no queue", "/queues/nowhere/replay", to(`"speed":1`), nil, 404, noQueue, "", ""},
		{"of another tenant's", path, to(`"speed":1`), []string{"X-Test-Tenant", otherTenant}, 404, noQueue, "", ""},
	}
	for _, bad := range []string{"A", "%20", "%ff", "%00", "a%2Fb", "é", strings.Repeat("a", 201)} {
		cases = append(cases, hostileCase{"of " + bad, "/queues/" + bad + "/replay", to(`"speed":1`), nil, 400, invalid, "name", queueName})
	}
	return cases
}
