package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/klauspost/compress/zstd"

	"github.com/tallymq/tallymq/events"
)

// Limits of a segment.
const (
	// SegmentBytesMax is after how many bytes of rows, before compression, a segment ends;
	// a single larger row still goes, alone.
	SegmentBytesMax = 64 << 20
	// bufferBytes is how much is handed on at once.
	bufferBytes = 256 << 10
	// windowBytesMax bounds what is held to undo the compression.
	windowBytesMax = 8 << 20
)

// dayLayout is how days are written.
const dayLayout = time.DateOnly

// segmentWriter writes one segment.
type segmentWriter struct {
	segment Segment
	dir     string
	file    *os.File
	sum     hash.Hash
	zip     *zstd.Encoder
	encoder rowEncoder
	buffer  []byte
	// position and eventID are columns, -1 for none.
	position, eventID int
}

func (w *segmentWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.sum.Write(p[:n])
	w.segment.Bytes += int64(n)
	return n, err //nolint:wrapcheck // the caller says of which file
}

// newSegmentWriter begins the file that s names. zip is the caller's, for one segment
// after the other.
func newSegmentWriter(dir string, s Segment, fields []pgconn.FieldDescription, zip *zstd.Encoder, open opener) (*segmentWriter, error) {
	w := &segmentWriter{segment: s, dir: dir, sum: sha256.New(), zip: zip, encoder: newRowEncoder(fields), position: -1, eventID: -1}
	for i, f := range fields {
		w.segment.Columns = append(w.segment.Columns, f.Name)
		switch {
		case s.Table == history && f.Name == "position":
			w.position = i
		case s.Table == history && f.Name == "event_id":
			w.eventID = i
		}
	}
	path := w.path()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	file, err := open(path + tmpSuffix)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	w.file = file
	zip.Reset(w)
	return w, nil
}

func (w *segmentWriter) path() string {
	return filepath.Join(w.dir, filepath.FromSlash(w.segment.File))
}

// add writes a row.
func (w *segmentWriter) add(values [][]byte) error {
	before := len(w.buffer)
	w.buffer = w.encoder.appendRow(w.buffer, values)
	w.segment.RawBytes += int64(len(w.buffer) - before)
	w.segment.Rows++
	if w.position >= 0 {
		at, err := strconv.ParseInt(string(values[w.position]), 10, 64)
		if err != nil {
			return fmt.Errorf("backup: position: %w", err)
		}
		if w.segment.Rows == 1 {
			w.segment.FirstPosition = at
		}
		w.segment.LastPosition = at
		w.segment.LastEventID = string(values[w.eventID])
		if w.segment.Scope == scopeMessage {
			w.noteDay(events.Position(at).Time().Format(dayLayout))
		}
	}
	if len(w.buffer) >= bufferBytes {
		return w.flush()
	}
	return nil
}

// noteDay notes a day; they come in order.
func (w *segmentWriter) noteDay(day string) {
	if days := w.segment.Days; len(days) == 0 || days[len(days)-1] != day {
		w.segment.Days = append(w.segment.Days, day)
	}
}

func (w *segmentWriter) flush() error {
	_, err := w.zip.Write(w.buffer)
	w.buffer = w.buffer[:0]
	if err != nil {
		return fmt.Errorf("backup: %s: %w", w.segment.File, err)
	}
	return nil
}

// finish gives the file its name, once all of it is on the disk.
func (w *segmentWriter) finish() (Segment, error) {
	err := w.flush()
	err = errors.Join(err, w.zip.Close())
	if err == nil {
		err = w.file.Sync()
	}
	if err = errors.Join(err, w.file.Close()); err == nil {
		err = os.Rename(w.path()+tmpSuffix, w.path())
	}
	if err != nil {
		_ = os.Remove(w.path() + tmpSuffix)
		return Segment{}, fmt.Errorf("backup: %s: %w", w.segment.File, err)
	}
	w.segment.SHA256 = hex.EncodeToString(w.sum.Sum(nil))
	return w.segment, nil
}

// abandon takes away what there is of the file.
func (w *segmentWriter) abandon() {
	_ = w.file.Close()
	_ = os.Remove(w.path() + tmpSuffix)
}

// copyReader is a segment as COPY reads it.
type copyReader struct {
	segment Segment
	file    *os.File
	zip     *zstd.Decoder
	rows    *rowDecoder
	buffer  []byte
	read    int
	ended   bool
	// progress is told of rows as they are read.
	progress func(rows int64)
	told     int64
}

func openSegment(dir string, s Segment, skipBelow int64, progress func(int64)) (*copyReader, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(s.File)))
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	zip, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowBytesMax))
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("restore: %s: %w", s.File, err)
	}
	if s.Table != history || s.Scope != scopeMessage {
		skipBelow = 0
	}
	rows := newRowDecoder(io.LimitReader(zip, s.RawBytes), s.Columns, skipBelow)
	return &copyReader{segment: s, file: f, zip: zip, rows: rows, progress: progress}, nil
}

func (r *copyReader) Close() error {
	r.zip.Close()
	return r.file.Close() //nolint:wrapcheck // read only
}

// Read reads rows in COPY's text format.
func (r *copyReader) Read(p []byte) (int, error) {
	for r.read == len(r.buffer) {
		if r.ended {
			return 0, io.EOF
		}
		if err := r.fill(); err != nil {
			return 0, fmt.Errorf("restore: %s: %w", r.segment.File, err)
		}
	}
	n := copy(p, r.buffer[r.read:])
	r.read += n
	return n, nil
}

func (r *copyReader) fill() error {
	r.buffer, r.read = r.buffer[:0], 0
	for len(r.buffer) < bufferBytes {
		var err error
		r.buffer, err = r.rows.appendRow(r.buffer)
		if errors.Is(err, io.EOF) {
			r.ended = true
			switch n, err := io.ReadFull(r.zip, make([]byte, 1)); {
			case n > 0:
				return fmt.Errorf("has more than the %d bytes of rows that the manifest says", r.segment.RawBytes)
			case !errors.Is(err, io.EOF):
				return fmt.Errorf("decompress: %w", err)
			}
			if r.rows.rows != r.segment.Rows {
				return fmt.Errorf("has %d rows, the manifest says %d", r.rows.rows, r.segment.Rows)
			}
			break
		}
		if err != nil {
			return err
		}
	}
	if r.progress != nil {
		r.progress(r.rows.rows - r.told)
		r.told = r.rows.rows
	}
	return nil
}
