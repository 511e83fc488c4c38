package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallymq/tallymq/events"
)

// tailDetailMax is how long an event's detail is, in characters.
const tailDetailMax = 120

// feedEvent is what tail shows of an event.
type feedEvent struct {
	Type      string    `json:"type"`
	Time      time.Time `json:"time"`
	TopicID   string    `json:"topicid"`
	MessageID string    `json:"messageid"`
	Data      feedData  `json:"data"`
}

// feedData are the fields of all kinds of events that are worth a word.
type feedData struct {
	Name          string          `json:"name"`
	Status        string          `json:"status"`
	Key           string          `json:"key"`
	Partition     int             `json:"partition"`
	Offset        int64           `json:"offset"`
	Payload       json.RawMessage `json:"payload"`
	ConsumerGroup string          `json:"consumerGroup"`
	ConsumerName  string          `json:"consumerName"`
	Consumer      string          `json:"consumer"`
	Attempt       int             `json:"attempt"`
	Reason        string          `json:"reason"`
	Error         string          `json:"error"`
}

// print writes an event on a line.
func (t *tailer) print(text []byte) error {
	line := string(text)
	if !t.raw {
		var e feedEvent
		if err := json.Unmarshal(text, &e); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		line = t.line(e)
	}
	if _, err := fmt.Fprintln(t.out, line); err != nil {
		return fmt.Errorf("%w: %w", errPrint, err)
	}
	return nil
}

func (t *tailer) line(e feedEvent) string {
	kind := strings.TrimPrefix(e.Type, "tallymq.")
	queue := e.TopicID
	if e.Data.Name != "" {
		queue = e.Data.Name
	} else if t.queue != "" {
		queue = t.queue
	}
	shown := fmt.Sprintf("%-21s", plain(kind))
	if t.colour {
		shown = colourOf(events.Kind(kind)) + shown + "\x1b[0m"
	}
	message := e.MessageID
	if message == "" {
		message = "-"
	}
	line := []string{e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), shown, plain(queue), plain(message), plain(e.Data.detail(events.Kind(kind)))}
	return strings.TrimRight(strings.Join(line, "  "), " ")
}

func (d feedData) detail(kind events.Kind) string {
	var said []string
	add := func(format string, value any, known bool) {
		if known {
			said = append(said, fmt.Sprintf(format, value))
		}
	}
	published := kind == events.KindMessagePublished
	add("partition %d", d.Partition, published)
	add("offset %d", d.Offset, published)
	add("%d bytes", len(d.Payload), published)
	add("key %s", d.Key, d.Key != "")
	add("group %s", d.ConsumerGroup, d.ConsumerGroup != "")
	add("consumer %s", d.Consumer+d.ConsumerName, d.Consumer+d.ConsumerName != "")
	add("attempt %d", d.Attempt, d.Attempt > 0)
	add("%s", d.Status, d.Status != "")
	add("%s", d.Reason, d.Reason != "")
	add("%s", d.Error, d.Error != "")
	text := strings.Join(said, ", ")
	if utf8.RuneCountInString(text) > tailDetailMax {
		return string([]rune(text)[:tailDetailMax-1]) + "…"
	}
	return text
}

// plain is text that does nothing to a terminal: what stands in an event, others
// wrote.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// colourOf is the ANSI sequence that begins a kind's colour.
func colourOf(kind events.Kind) string {
	switch kind {
	case events.KindMessagePublished:
		return "\x1b[36m"
	case events.KindMessageConsumed:
		return "\x1b[32m"
	case events.KindMessageFailed:
		return "\x1b[33m"
	case events.KindMessageDeadLettered:
		return "\x1b[31m"
	default:
		return "\x1b[35m"
	}
}
