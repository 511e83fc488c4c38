package backup

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// rowEncoder makes lines of rows: an object whose fields are the table's columns, in its
// order. Small integers, booleans and jsonb are JSON of their own kind, and all other
// values are the text that Postgres writes them as, which it reads back to the same value:
// 64-bit integers too, which not every reader of JSON keeps, and json, whose very bytes only
// a string can keep.
type rowEncoder struct {
	// names are the columns as `"name":`.
	names []string
	kinds []valueKind
}

type valueKind int

const (
	asString valueKind = iota
	asIs
	asBool
)

func newRowEncoder(fields []pgconn.FieldDescription) rowEncoder {
	var e rowEncoder
	for _, f := range fields {
		kind := asString
		switch f.DataTypeOID {
		case pgtype.Int2OID, pgtype.Int4OID, pgtype.JSONBOID:
			kind = asIs
		case pgtype.BoolOID:
			kind = asBool
		}
		e.names = append(e.names, string(appendString(nil, []byte(f.Name)))+":")
		e.kinds = append(e.kinds, kind)
	}
	return e
}

// appendRow appends a line; a nil value is NULL.
func (e rowEncoder) appendRow(b []byte, values [][]byte) []byte {
	b = append(b, '{')
	for i, value := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, e.names[i]...)
		switch {
		case value == nil:
			b = append(b, "null"...)
		case e.kinds[i] == asString:
			b = appendString(b, value)
		case e.kinds[i] == asBool:
			b = strconv.AppendBool(b, string(value) == "t")
		default:
			b = append(b, value...)
		}
	}
	return append(b, "}\n"...)
}

const hexDigits = "0123456789abcdef"

// appendString appends a JSON string. Text from Postgres is valid UTF-8 and has no NUL.
func appendString(b, s []byte) []byte {
	b = append(b, '"')
	from := 0
	for i, c := range s {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}

// rowDecoder makes lines the text that COPY reads.
type rowDecoder struct {
	from *jsontext.Decoder
	// names are the columns as JSON.
	names   []string
	scratch []byte
	// position is the index of the column that skipBelow is about.
	position  int
	skipBelow int64

	rows, skipped int64
}

// newRowDecoder leaves out history rows whose position is below skipBelow.
func newRowDecoder(r io.Reader, columns []string, skipBelow int64) *rowDecoder {
	// Names are compared with the columns one by one: none can be there twice.
	d := &rowDecoder{from: jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true)), skipBelow: skipBelow, position: -1}
	for i, name := range columns {
		d.names = append(d.names, string(appendString(nil, []byte(name))))
		if name == "position" {
			d.position = i
		}
	}
	return d
}

// appendRow appends the next row, or nothing where it is left out; [io.EOF] is the end.
func (d *rowDecoder) appendRow(b []byte) ([]byte, error) {
	began := len(b)
	token, err := d.from.ReadToken()
	if errors.Is(err, io.EOF) {
		return b, io.EOF
	}
	if err != nil {
		return b, d.wrong(err)
	}
	if token.Kind() != '{' {
		return b, d.wrong(errors.New("is no JSON object"))
	}
	skip := false
	for i, want := range d.names {
		name, err := d.from.ReadValue()
		if err != nil {
			return b, d.wrong(err)
		}
		if string(name) != want {
			return b, d.wrong(fmt.Errorf("has %s where %s is due", name, want))
		}
		value, err := d.from.ReadValue()
		if err != nil {
			return b, d.wrong(err)
		}
		if i > 0 {
			b = append(b, '\t')
		}
		from := len(b)
		if b, err = d.appendValue(b, value); err != nil {
			return b, d.wrong(err)
		}
		if i == d.position && d.skipBelow > 0 {
			at, err := strconv.ParseInt(string(b[from:]), 10, 64)
			if err != nil {
				return b, d.wrong(err)
			}
			skip = at < d.skipBelow
		}
	}
	if token, err = d.from.ReadToken(); err != nil || token.Kind() != '}' {
		return b, d.wrong(errors.Join(err, errors.New("has more columns than the manifest says")))
	}
	d.rows++
	if skip {
		d.skipped++
		return b[:began], nil
	}
	return append(b, '\n'), nil
}

func (d *rowDecoder) wrong(err error) error {
	return fmt.Errorf("row %d: %w", d.rows+1, err)
}

func (d *rowDecoder) appendValue(b []byte, value jsontext.Value) ([]byte, error) {
	if value.Kind() == 'n' {
		return append(b, `\N`...), nil
	}
	if value.Kind() != '"' {
		return appendCopy(b, value), nil
	}
	var err error
	if d.scratch, err = jsontext.AppendUnquote(d.scratch[:0], value); err != nil {
		return b, err //nolint:wrapcheck // the caller says where
	}
	return appendCopy(b, d.scratch), nil
}

// appendCopy appends a value in COPY's text format.
func appendCopy(b, s []byte) []byte {
	from := 0
	for i, c := range s {
		var escaped byte
		switch c {
		case '\\':
			escaped = '\\'
		case '\n':
			escaped = 'n'
		case '\r':
			escaped = 'r'
		case '\t':
			escaped = 't'
		default:
			continue
		}
		b = append(append(b, s[from:i]...), '\\', escaped)
		from = i + 1
	}
	return append(b, s[from:]...)
}
