package feed

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// errReader says that the reader does not take what is written.
var errReader = errors.New("write to the reader")

// sseWriter writes server-sent events (HTML standard, section 9.2). Each write has
// writeTimeout to get through, whatever the server's own timeout.
type sseWriter struct {
	w       http.ResponseWriter
	ctl     *http.ResponseController
	timeout time.Duration
	buf     []byte
}

// retryMs is how long a reader waits before it connects again.
const retryMs = 1000

// openSSE begins the answer. id is where the stream begins, so that a reader whose
// connection breaks before the first event has where to go on from.
func openSSE(c echo.Context, id string, timeout time.Duration) (*sseWriter, error) {
	header := c.Response().Header()
	header.Set(echo.HeaderContentType, mimeEventStream)
	header.Set(echo.HeaderCacheControl, "no-cache")
	// A proxy must not hold events back (nginx).
	header.Set("X-Accel-Buffering", "no")
	s := &sseWriter{w: c.Response(), ctl: http.NewResponseController(c.Response().Writer), timeout: timeout}
	// The request is read; the server's deadline for that would end the stream.
	if err := s.ctl.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("%w: lift the read deadline: %w", errReader, err)
	}
	c.Response().WriteHeader(http.StatusOK)
	if err := s.write(fmt.Appendf(nil, "retry: %d\nid: %s\n\n", retryMs, id)); err != nil {
		return nil, err
	}
	return s, s.flush()
}

// event writes one event. Line ends in data stand between JSON's tokens only and
// become spaces: an event is one line.
func (s *sseWriter) event(id, name string, data []byte) error {
	for i, b := range data {
		if b == '\n' || b == '\r' {
			data[i] = ' '
		}
	}
	s.buf = fmt.Appendf(s.buf[:0], "id: %s\nevent: %s\ndata: ", id, name)
	s.buf = append(append(s.buf, data...), "\n\n"...)
	return s.write(s.buf)
}

// heartbeat writes a comment, and an id for the reader to note where there is one.
func (s *sseWriter) heartbeat(id string) error {
	s.buf = append(s.buf[:0], ": heartbeat\n"...)
	if id != "" {
		s.buf = fmt.Appendf(s.buf, "id: %s\n", id)
	}
	if err := s.write(append(s.buf, '\n')); err != nil {
		return err
	}
	return s.flush()
}

func (s *sseWriter) write(p []byte) error {
	if err := s.ctl.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return fmt.Errorf("%w: deadline: %w", errReader, err)
	}
	if _, err := s.w.Write(p); err != nil {
		return fmt.Errorf("%w: %w", errReader, err)
	}
	return nil
}

func (s *sseWriter) flush() error {
	if err := s.ctl.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errReader, err)
	}
	return nil
}

// end leaves the server time to end the answer in order.
func (s *sseWriter) end() { _ = s.ctl.SetWriteDeadline(time.Now().Add(s.timeout)) }
