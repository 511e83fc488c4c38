package projections

import (
	"encoding/binary"
	"io"
	"strings"
)

// The columns of a statement's rows are binary arrays, whose elements are written as the
// fields of a binary COPY are (length, then bytes; PostgreSQL's documentation of COPY,
// "Binary Format"). So the rows that a statement inserts can be copied instead, field by
// field, which is less work for the server.

const copySignature = "PGCOPY\n\xff\r\n\x00"

// copyChunkBytes is about how much of a COPY is laid out ahead of the connection.
const copyChunkBytes = 64 << 10

// copyStatement is the COPY that inserts what `INSERT INTO table (columns) SELECT … FROM
// unnest` does, "" for any other statement.
func copyStatement(sql string) string {
	into, found := strings.CutPrefix(strings.TrimSpace(sql), "INSERT INTO ")
	target, rest, closed := strings.Cut(into, ")")
	if !found || !closed || strings.Contains(target, " AS ") || strings.Contains(rest, "ON CONFLICT") || strings.Contains(rest, "JOIN") {
		return ""
	}
	return "COPY " + target + ") FROM STDIN (FORMAT binary)"
}

// copyReader is the rows of a statement's columns as a binary COPY.
type copyReader struct {
	columns [][]byte
	rows    int
	chunk   []byte
	// unread is the part of chunk that is not read yet.
	unread []byte
	begun  bool
	ended  bool
}

// newCopyReader reads from complete arrays: see [array.param].
func newCopyReader(params [][]byte, rows int) *copyReader {
	r := &copyReader{columns: make([][]byte, len(params)), rows: rows}
	for i, p := range params {
		r.columns[i] = p[arrayHeaderBytes:]
	}
	return r
}

func (r *copyReader) Read(into []byte) (int, error) {
	if len(r.unread) == 0 {
		if r.ended {
			return 0, io.EOF
		}
		r.fill()
	}
	n := copy(into, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}

func (r *copyReader) fill() {
	const header, null = 4, 1<<32 - 1
	out := r.chunk[:0]
	if !r.begun {
		r.begun = true
		out = append(append(out, copySignature...), 0, 0, 0, 0, 0, 0, 0, 0) // no flags, no more header
	}
	for ; r.rows > 0 && len(out) < copyChunkBytes; r.rows-- {
		out = binary.BigEndian.AppendUint16(out, uint16(len(r.columns))) //nolint:gosec // a few dozen
		for i, column := range r.columns {
			size := header
			if length := binary.BigEndian.Uint32(column); length != null {
				size += int(length)
			}
			out = append(out, column[:size]...)
			r.columns[i] = column[size:]
		}
	}
	if r.rows == 0 {
		r.ended = true
		out = append(out, 0xff, 0xff)
	}
	r.chunk, r.unread = out, out
}
