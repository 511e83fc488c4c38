package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/config"
)

// Limits of publishing a file.
const (
	// publishBatchDefault is how many messages go in one request; within a
	// script call's limit, so that a batch is one atomic step.
	publishBatchDefault = 200
	// publishBytesMax bounds a request; a single larger line still goes, alone.
	publishBytesMax = 4 << 20
	// rejectedShown is how many rejected lines are shown one by one.
	rejectedShown = 50
)

// line is one line of the input, as a message.
type line struct {
	number int
	bytes  int
	// message is the publish request's JSON.
	message []byte
}

type rejection struct {
	number int
	reason string
}

// filePublisher is the publish command.
type filePublisher struct {
	client

	queue, key string
	batchMax   int

	run      string
	batches  int
	accepted int
	// refused counts lines; rejected are the first of them.
	refused  int
	rejected []rejection
	bar      *progressbar.ProgressBar
}

func publishCommand() *cobra.Command {
	p := &filePublisher{}
	cmd := &cobra.Command{
		Use:   "publish --queue <name> [--key <json path>] <file.ndjson | ->",
		Short: "Publish every line of a file as a message",
		Long: `Publishes each line, a JSON document, as a message's payload, byte for byte. Batches
go one after the other, so lines with the same key keep their order; a batch that got
no answer is repeated under the same idempotency key, so no line is published twice.
Lines that are refused are listed with their numbers, and the exit status is then 1.`,
		Example: "  tallymq publish --queue orders --key customer.id orders.ndjson",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, size, err := openInput(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }()
			p.bar = progress(cmd.ErrOrStderr(), size, "publishing", "bytes")
			began := time.Now()
			err = p.publish(cmd.Context(), in)
			_ = p.bar.Clear()
			p.summarize(cmd.ErrOrStderr(), time.Since(began))
			if err == nil && p.refused > 0 {
				err = exitError{status: 1}
			}
			return err
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&p.queue, "queue", "", "the queue's name")
	cmd.Flags().StringVar(&p.key, "key", "", "where in a line its message key is, such as repository.full_name; lines without it have no key")
	cmd.Flags().IntVar(&p.batchMax, "batch", publishBatchDefault, fmt.Sprintf("messages in one request, at most %d", commands.BatchMessagesMax))
	_ = cmd.MarkFlagRequired("queue")
	return cmd
}

// openInput opens a file, or standard input for "-". The size is -1 where it is
// not known.
func openInput(cmd *cobra.Command, name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(cmd.InOrStdin()), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("publish: %w", err)
	}
	size := int64(-1)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, nil
}

func (p *filePublisher) publish(ctx context.Context, in io.Reader) error {
	if p.batchMax < 1 || p.batchMax > commands.BatchMessagesMax {
		return fmt.Errorf("--batch: is %d; allowed: 1 to %d", p.batchMax, commands.BatchMessagesMax)
	}
	p.run = newID()
	reader := bufio.NewReaderSize(in, 1<<20)
	var batch []line
	bytesHeld := 0
	for number := 1; ; number++ {
		text, tooLong, err := readLine(reader)
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return fmt.Errorf("read line %d: %w", number, err)
		}
		l, reason := p.toMessage(number, text, tooLong)
		switch {
		case reason != "":
			p.reject(number, reason)
		case l != nil:
			if len(batch) == p.batchMax || (len(batch) > 0 && bytesHeld+len(l.message) > publishBytesMax) {
				if err := p.send(ctx, batch); err != nil {
					return err
				}
				batch, bytesHeld = batch[:0], 0
			}
			batch = append(batch, *l)
			bytesHeld += len(l.message)
		}
		if ended {
			return p.send(ctx, batch)
		}
	}
}

// readLine returns a line without its end. A line longer than any payload may be
// is read past and reported. io.EOF comes with the last line.
func readLine(r *bufio.Reader) (text []byte, tooLong bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(text)+len(part) > config.MessageSizeMax {
			tooLong, text = true, text[:0]
		} else if !tooLong {
			text = append(text, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), tooLong, err
		}
	}
}

// toMessage makes a line a message. A line of spaces is none; a line that the
// service would refuse together with its whole batch is refused here.
func (p *filePublisher) toMessage(number int, text []byte, tooLong bool) (l *line, reason string) {
	if tooLong {
		return nil, fmt.Sprintf("is longer than %d bytes", config.MessageSizeMax)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, ""
	}
	value := jsontext.Value(bytes.TrimSpace(text))
	if err := checkJSON(value); err != nil {
		return nil, "is not valid JSON: " + err.Error()
	}
	if d := web.CheckPayload("payload", value, config.MessageSizeMax); d != nil {
		return nil, d.Problem + "; allowed: " + d.Limit
	}
	var b bytes.Buffer
	b.WriteString(`{"queue":` + quoted(p.queue))
	if key := keyAt(value, p.key); key != "" {
		b.WriteString(`,"key":` + quoted(key))
	}
	b.WriteString(`,"payload":`)
	b.Write(value)
	b.WriteByte('}')
	return &line{number: number, bytes: len(text) + 1, message: b.Bytes()}, ""
}

// checkJSON reads a whole document: grammar, UTF-8 and names given twice.
func checkJSON(value jsontext.Value) error {
	dec := jsontext.NewDecoder(bytes.NewReader(value))
	if err := dec.SkipValue(); err != nil {
		return err //nolint:wrapcheck // for people
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(text)
}

// keyAt returns the string, number or boolean at a dotted path, "" for none.
func keyAt(value []byte, path string) string {
	if path == "" {
		return ""
	}
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	var at any
	if dec.Decode(&at) != nil {
		return ""
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "$."), ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return ""
		}
		at = object[name]
	}
	switch v := at.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

type batchResult struct {
	Error *web.Error `json:"error"`
}

// send publishes a batch. A message that fails for the moment makes the whole
// batch go again: under its key, those that are in already are in only once.
func (p *filePublisher) send(ctx context.Context, batch []line) error {
	if len(batch) == 0 {
		return nil
	}
	p.batches++
	key := fmt.Sprintf("%s-%d", p.run, p.batches)
	body := batchBody(batch)
	wait := clientWaitMin
	for try := 1; ; try++ {
		var answer struct {
			Results []batchResult `json:"results"`
		}
		if err := p.post(ctx, "/publish/batch", key, body, &answer); err != nil {
			return fmt.Errorf("lines %d to %d: %w", batch[0].number, batch[len(batch)-1].number, err)
		}
		if len(answer.Results) != len(batch) {
			return fmt.Errorf("the service answered for %d of %d messages", len(answer.Results), len(batch))
		}
		again, err := p.settle(batch, answer.Results, try == clientTriesMax)
		if err != nil || !again {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // asked to stop
		case <-time.After(wait):
		}
		wait = min(2*wait, clientWaitMax)
	}
}

func batchBody(batch []line) []byte {
	var b bytes.Buffer
	b.WriteString(`{"messages":[`)
	for i, l := range batch {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(l.message)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// settle notes a batch's results; true asks for the batch to go again.
func (p *filePublisher) settle(batch []line, results []batchResult, last bool) (again bool, err error) {
	for _, r := range results {
		if r.Error == nil {
			continue
		}
		switch r.Error.Code {
		case string(commands.CodeQueueNotFound):
			return false, fmt.Errorf("there is no queue %q", p.queue)
		case string(commands.CodeUnavailable):
			again = true
		}
	}
	if again && !last {
		return true, nil
	}
	done := 0
	for i, r := range results {
		done += batch[i].bytes
		if r.Error != nil {
			p.reject(batch[i].number, r.Error.Code+": "+r.Error.Message)
			continue
		}
		p.accepted++
	}
	_ = p.bar.Add(done)
	return false, nil
}

func (p *filePublisher) reject(number int, reason string) {
	p.refused++
	if len(p.rejected) < rejectedShown {
		p.rejected = append(p.rejected, rejection{number: number, reason: reason})
	}
}

func (p *filePublisher) summarize(w io.Writer, took time.Duration) {
	_, _ = fmt.Fprintf(w, "%s, %d rejected\n", rate(p.accepted, "published", took), p.refused)
	for _, r := range p.rejected {
		_, _ = fmt.Fprintf(w, "  line %d: %s\n", r.number, r.reason)
	}
	if more := p.refused - len(p.rejected); more > 0 {
		_, _ = fmt.Fprintf(w, "  and %d more\n", more)
	}
}
