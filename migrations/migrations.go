// Package migrations holds the Postgres schema as goose migrations. Names are
// unqualified: the connection's search_path chooses the schema. A migration that
// was released is never changed; the next one is added.
package migrations

import "embed"

// FS holds the migrations.
//
//go:embed *.sql
var FS embed.FS
