package backup

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
)

// pasted undoes appendCopy, as Postgres does (COPY, "Text Format").
func pasted(t testing.TB, field string) (value string, isNull bool) {
	t.Helper()
	if field == `\N` {
		return "", true
	}
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] != '\\' {
			b.WriteByte(field[i])
			continue
		}
		i++
		require.Less(t, i, len(field))
		b.WriteByte(map[byte]byte{'\\': '\\', 'n': '\n', 'r': '\r', 't': '\t'}[field[i]])
	}
	return b.String(), false
}

// Whatever text a column has, the line is JSON and the way back has the same text.
func FuzzRowsComeBack(f *testing.F) {
	for _, s := range []string{"", `\N`, `\.`, "a\tb\nc\rd\\e\"f", "\x01\x1f\x7f", "é😀\u2028", `{"a": 1.50,  "b":"\u0000"}`} {
		f.Add(s, s)
	}
	fields := []pgconn.FieldDescription{
		{Name: "n", DataTypeOID: pgtype.Int8OID},
		{Name: `na"me`, DataTypeOID: pgtype.TextOID},
		{Name: "is", DataTypeOID: pgtype.BoolOID},
		{Name: "none", DataTypeOID: pgtype.TextOID},
		{Name: "b", DataTypeOID: pgtype.JSONBOID},
		{Name: "data", DataTypeOID: pgtype.JSONOID},
	}
	columns := make([]string, 0, len(fields))
	for _, field := range fields {
		columns = append(columns, field.Name)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if !utf8.ValidString(a) || !utf8.ValidString(b) || strings.Contains(a+b, "\x00") {
			return // Postgres has no such text
		}
		doc, err := json.Marshal(map[string]string{"a": a})
		require.NoError(t, err)
		row := [][]byte{[]byte("-42"), []byte(a), []byte("t"), nil, doc, []byte(b)}
		line := newRowEncoder(fields).appendRow(nil, row)
		require.True(t, json.Valid(line), "%s", line)
		require.Equal(t, 1, bytes.Count(line, []byte("\n")))
		d := newRowDecoder(bytes.NewReader(append(line, line...)), columns, 0)
		for range 2 {
			text, err := d.appendRow(nil)
			require.NoError(t, err)
			got := strings.Split(strings.TrimSuffix(string(text), "\n"), "\t")
			require.Len(t, got, len(row))
			for i, value := range row {
				back, isNull := pasted(t, got[i])
				require.Equal(t, value == nil, isNull)
				if want := string(value); i == 2 {
					require.Equal(t, "true", back)
				} else {
					require.Equal(t, want, back)
				}
			}
		}
		_, err = d.appendRow(nil)
		require.ErrorIs(t, err, io.EOF)
	})
}

// Whatever a file has, it is read to its end or to an error that says where.
func FuzzReadingRows(f *testing.F) {
	for _, s := range []string{"", "{}", `{"a":1,"b":"x"}`, `{"a":1,"b":"x"`, `[1]`, `{"a":1,"b":{"c":[1]}}{"a"`, `{"b":1}`, "{\"a\":\"\xff\"}"} {
		f.Add([]byte(s), int64(0))
	}
	f.Fuzz(func(t *testing.T, text []byte, below int64) {
		d := newRowDecoder(bytes.NewReader(text), []string{"a", "position"}, below)
		for {
			row, err := d.appendRow(nil)
			if err == io.EOF { //nolint:errorlint // a bare one is the end
				return
			}
			if err != nil {
				require.ErrorContains(t, err, "row ")
				return
			}
			if len(row) > 0 {
				require.Equal(t, 1, strings.Count(string(row), "\t"))
				require.True(t, strings.HasSuffix(string(row), "\n"))
			}
		}
	})
}
