package projections

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// tableKeys are the keys of the read tables: their rows are put in order and told apart
// by them.
var tableKeys = map[string][]string{
	"message_topics":        {"id"},
	"message_subscriptions": {"id"},
	"message_records":       {"message_id"},
	"consumption_records":   {"message_id", "id"},
	"topic_counts":          {"topic_id"},
	"topic_offsets":         {"topic_id", "partition_id"},
	"group_counts":          {"topic_id", "consumer_group"},
	"dead_letters":          {"topic_id", "consumer_group", "message_id", "attempt", "attempts_before"},
	"message_schedules":     {"id"},
}

// TableHash is the SHA-256, in hex, of a read table's rows: all columns, in the order of
// the table's key, as a binary COPY writes them. Equal rows have equal hashes in any
// database.
func TableHash(ctx context.Context, conn *pgx.Conn, table string) (string, error) {
	if tableKeys[table] == nil {
		return "", fmt.Errorf("hash: %q is no read table", table)
	}
	var schema string
	if err := conn.QueryRow(ctx, `SELECT quote_ident(current_schema())`).Scan(&schema); err != nil {
		return "", fmt.Errorf("hash of %s: %w", table, err)
	}
	return hashRows(ctx, conn.PgConn(), schema, table, "*", "")
}

// ReadTables are the names of the tables that events are folded into.
func ReadTables() []string { return slices.Clone(readTables) }

func hashRows(ctx context.Context, conn *pgconn.PgConn, schema, table, columns, where string) (string, error) {
	h := sha256.New()
	sql := fmt.Sprintf(`COPY (SELECT %s FROM %s.%s t%s ORDER BY %s) TO STDOUT (FORMAT binary)`, columns, schema, table, where, keyList(table, "t"))
	if _, err := conn.CopyTo(ctx, h, sql); err != nil {
		return "", fmt.Errorf("hash of %s.%s: %w", schema, table, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func keyList(table, alias string) string {
	return alias + "." + strings.Join(tableKeys[table], ", "+alias+".")
}
