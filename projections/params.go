package projections

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// array is a one-dimensional array parameter in Postgres' binary format (array_send
// in the server's source): a column of the rows that one statement writes. Columns
// are encoded here once, without reflection and without a value per element: that
// is most of what a projector does.
type array struct {
	buf   []byte
	n     int
	nulls bool
}

const (
	arrayHeaderBytes = 20
	// microseconds from the Unix epoch to Postgres', 2000-01-01.
	postgresEpochMicros = 946_684_800_000_000
	jsonbVersion        = 1
)

// newArray returns an empty array of a type with room for rows of so many bytes.
func newArray(elementOID uint32, rows, rowBytes int) *array {
	a := &array{buf: make([]byte, arrayHeaderBytes, arrayHeaderBytes+rows*(4+rowBytes))}
	binary.BigEndian.PutUint32(a.buf[0:], 1) // dimensions
	binary.BigEndian.PutUint32(a.buf[8:], elementOID)
	binary.BigEndian.PutUint32(a.buf[16:], 1) // index of the first element
	return a
}

// param completes the array. It is not to be added to after that.
func (a *array) param() []byte {
	if a.nulls {
		binary.BigEndian.PutUint32(a.buf[4:], 1)
	}
	binary.BigEndian.PutUint32(a.buf[12:], uint32(a.n)) //nolint:gosec // at most a batch
	return a.buf
}

func (a *array) length(bytes int) {
	a.n++
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(bytes)) //nolint:gosec // far below 4 GiB
}

func (a *array) null() {
	a.n++
	a.nulls = true
	a.buf = binary.BigEndian.AppendUint32(a.buf, 1<<32-1)
}

func (a *array) text(s string) {
	a.length(len(s))
	a.buf = append(a.buf, s...)
}

// textOrNull adds NULL for "".
func (a *array) textOrNull(s string) {
	if s == "" {
		a.null()
		return
	}
	a.text(s)
}

// json adds a value of type json: its text.
func (a *array) json(raw []byte) {
	a.length(len(raw))
	a.buf = append(a.buf, raw...)
}

// jsonb adds a value of type jsonb: a version and its text. Empty is NULL.
func (a *array) jsonb(raw []byte) {
	if len(raw) == 0 {
		a.null()
		return
	}
	a.length(1 + len(raw))
	a.buf = append(a.buf, jsonbVersion)
	a.buf = append(a.buf, raw...)
}

func (a *array) int64(n int64) {
	a.length(8)
	a.buf = binary.BigEndian.AppendUint64(a.buf, uint64(n)) //nolint:gosec // two's complement, as the server reads it
}

func (a *array) int32(n int) {
	a.length(4)
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(n)) //nolint:gosec // checked by whoever made the event
}

// int32OrNull adds NULL for 0.
func (a *array) int32OrNull(n int) {
	if n == 0 {
		a.null()
		return
	}
	a.int32(n)
}

func (a *array) int16(n int) {
	a.length(2)
	a.buf = binary.BigEndian.AppendUint16(a.buf, uint16(n)) //nolint:gosec // a shard
}

func (a *array) bool(b bool) {
	a.length(1)
	if b {
		a.buf = append(a.buf, 1)
		return
	}
	a.buf = append(a.buf, 0)
}

// time adds an instant; the zero time is NULL.
func (a *array) time(t time.Time) {
	if t.IsZero() {
		a.null()
		return
	}
	a.int64(t.UnixMicro() - postgresEpochMicros)
}

// uuid adds an id in its canonical form; "" is NULL.
func (a *array) uuid(id string) error {
	if id == "" {
		a.null()
		return nil
	}
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' {
		return fmt.Errorf("%q is no UUID", id)
	}
	a.length(16)
	for _, part := range [...]string{id[:8], id[9:13], id[14:18], id[19:23], id[24:]} {
		var err error
		if a.buf, err = hex.AppendDecode(a.buf, []byte(part)); err != nil {
			return fmt.Errorf("%q is no UUID: %w", id, err)
		}
	}
	return nil
}

// columns makes the arrays of a statement's parameters, in the order in which they
// are asked for.
type columns struct {
	rows int
	all  []*array
}

func (c *columns) add(elementOID uint32, rowBytes int) *array {
	a := newArray(elementOID, c.rows, rowBytes)
	c.all = append(c.all, a)
	return a
}

// Sizes are guesses; arrays grow.
func (c *columns) text() *array    { return c.add(pgtype.TextOID, 36) }
func (c *columns) uuid() *array    { return c.add(pgtype.UUIDOID, 16) }
func (c *columns) json() *array    { return c.add(pgtype.JSONOID, 600) }
func (c *columns) jsonb() *array   { return c.add(pgtype.JSONBOID, 64) }
func (c *columns) payload() *array { return c.add(pgtype.JSONBOID, 300) }
func (c *columns) int64() *array   { return c.add(pgtype.Int8OID, 8) }
func (c *columns) int32() *array   { return c.add(pgtype.Int4OID, 4) }
func (c *columns) int16() *array   { return c.add(pgtype.Int2OID, 2) }
func (c *columns) boolean() *array { return c.add(pgtype.BoolOID, 1) }
func (c *columns) time() *array    { return c.add(pgtype.TimestamptzOID, 8) }

// statement returns the statement with its parameters.
func (c *columns) statement(sql string, more ...[]byte) statement {
	params := make([][]byte, 0, len(c.all)+len(more))
	for _, a := range c.all {
		params = append(params, a.param())
	}
	return statement{sql: sql, params: append(params, more...), rows: c.rows}
}
