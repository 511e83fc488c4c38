package projections

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The new tables have the names of the live ones, in a schema of their own beside
// theirs. What they look like is read from the catalogue, so that a migration changes
// one definition and not two.

// shadowSuffix makes the name of the schema in which new tables are made.
const shadowSuffix = "_rebuild"

// identifierMax is the longest name that PostgreSQL keeps whole, in bytes.
const identifierMax = 63

// insertOnly are tables that a fold only ever adds to. Their keys too are made after
// the bulk of their rows.
var insertOnly = []string{"consumption_records"}

// shadow is where the new tables are.
type shadow struct {
	// live and own are schemas, quoted.
	live, own string
	// ownName is own, not quoted.
	ownName string
}

func newShadow(ctx context.Context, conn *pgx.Conn) (shadow, error) {
	var schema string
	if err := conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return shadow{}, fmt.Errorf("rebuild: %w", err)
	}
	name := schema + shadowSuffix
	if len(name) > identifierMax {
		return shadow{}, fmt.Errorf("rebuild: the name of schema %q is longer than %d bytes", schema, identifierMax-len(shadowSuffix))
	}
	return shadow{live: pgx.Identifier{schema}.Sanitize(), own: pgx.Identifier{name}.Sanitize(), ownName: name}, nil
}

// index is an index or a key of a table.
type index struct {
	table, name string
	// sql makes it, where unqualified names are the new tables'.
	sql string
	// isLate says that it is made after the bulk of the rows.
	isLate bool
}

// definition is what the read tables look like.
type definition struct {
	// tables make the tables, without partitions; rest is what follows them: foreign
	// keys, row security, policies, grants.
	tables, rest []string
	indexes      []index
}

// sum tells whether two definitions are the same.
func (d definition) sum() string {
	h := sha256.New()
	for _, sql := range slices.Concat(d.tables, d.rest) {
		fmt.Fprintf(h, "%s\n", sql)
	}
	for _, i := range d.indexes {
		fmt.Fprintf(h, "%s\n", i.sql)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// strings of a query of one column.
func texts(ctx context.Context, q Querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	return out, nil
}

// The catalogue is asked with the live schema first in the search path: so the names
// that it gives back for the read tables are unqualified, and mean the new ones where the
// new ones come first.

const tablesSQL = `
SELECT format('CREATE TABLE %I (LIKE %s.%I INCLUDING ALL EXCLUDING INDEXES)%s%s', c.relname, $2::text, c.relname,
    CASE WHEN c.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE '' END,
    CASE WHEN c.reloptions IS NULL THEN '' ELSE ' WITH (' || array_to_string(c.reloptions, ', ') || ')' END)
FROM pg_class c JOIN unnest($1::text[]) WITH ORDINALITY AS u(name, n) ON c.oid = u.name::regclass ORDER BY u.n`

const indexesSQL = `
SELECT c.relname, i.relname, CASE WHEN k.oid IS NULL THEN replace(pg_get_indexdef(i.oid, 0, true), ' ON ONLY ', ' ON ')
    ELSE format('ALTER TABLE %I ADD CONSTRAINT %I %s', c.relname, k.conname, pg_get_constraintdef(k.oid)) END, k.oid IS NOT NULL
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
WHERE c.oid = ANY (SELECT name::regclass FROM unnest($1::text[]) AS u(name)) ORDER BY c.relname, k.oid IS NULL, i.relname`

const restSQL = `
WITH t AS (SELECT c.* FROM pg_class c WHERE c.oid = ANY (SELECT name::regclass FROM unnest($1::text[]) AS u(name)))
SELECT sql FROM (
    SELECT 1 AS part, format('ALTER TABLE %I ADD CONSTRAINT %I %s', t.relname, k.conname, pg_get_constraintdef(k.oid)) AS sql
    FROM t JOIN pg_constraint k ON k.conrelid = t.oid WHERE k.contype = 'f' AND k.conparentid = 0
UNION ALL
    SELECT 2, format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t.relname) FROM t WHERE t.relrowsecurity
UNION ALL
    SELECT 3, format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t.relname) FROM t WHERE t.relforcerowsecurity
UNION ALL
    SELECT 4, format('CREATE POLICY %I ON %I AS %s FOR %s TO %s%s%s', p.polname, t.relname, CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ') FROM unnest(p.polroles) AS r),
        coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ''), coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''))
    FROM t JOIN pg_policy p ON p.polrelid = t.oid
UNION ALL
    SELECT 5, format('GRANT %s ON %I TO %s%s', a.privilege_type, t.relname, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM t CROSS JOIN LATERAL aclexplode(t.relacl) a WHERE a.grantee <> t.relowner
UNION ALL
    SELECT 6, format('GRANT %s (%I) ON %I TO %s%s', a.privilege_type, c.attname, t.relname, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM t JOIN pg_attribute c ON c.attrelid = t.oid CROSS JOIN LATERAL aclexplode(c.attacl) a WHERE NOT c.attisdropped
UNION ALL
    SELECT 7, format('ALTER TABLE %I OWNER TO %I', t.relname, pg_get_userbyid(t.relowner)) FROM t WHERE t.relowner <> current_user::regrole
) x ORDER BY part, sql`

// define reads what the live tables look like.
func define(ctx context.Context, q Querier, s shadow) (definition, error) {
	var d definition
	var err error
	if d.tables, err = texts(ctx, q, tablesSQL, readTables, s.live); err != nil {
		return d, err
	}
	if d.rest, err = texts(ctx, q, restSQL, readTables); err != nil {
		return d, err
	}
	rows, err := q.Query(ctx, indexesSQL, readTables)
	if err != nil {
		return d, fmt.Errorf("read the catalogue: %w", err)
	}
	var i index
	var isKey bool
	_, err = pgx.ForEachRow(rows, []any{&i.table, &i.name, &i.sql, &isKey}, func() error {
		large := slices.ContainsFunc(largeTables, func(t string) bool { return t == i.table })
		i.isLate = large && (!isKey || slices.Contains(insertOnly, i.table))
		d.indexes = append(d.indexes, i)
		return nil
	})
	if err != nil {
		return d, fmt.Errorf("read the catalogue: %w", err)
	}
	return d, nil
}

// largeTables are those that have a row for every message, or more.
var largeTables = []string{"message_records", "consumption_records"}

// dependents are what the swap could not take along: what is not a read table's own and
// stands on one.
const dependentsSQL = `
WITH RECURSIVE t AS (
    SELECT name::regclass::oid AS oid FROM unnest($1::text[]) AS u(name)
    UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN t ON t.oid = i.inhparent
)
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM t) AND d.deptype = 'n'
  AND NOT (d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT oid FROM pg_constraint WHERE conrelid IN (SELECT oid FROM t)))
  AND NOT (d.classid = 'pg_policy'::regclass AND d.objid IN (SELECT oid FROM pg_policy WHERE polrelid IN (SELECT oid FROM t)))
UNION ALL
SELECT 'trigger ' || g.tgname || ' on ' || g.tgrelid::regclass FROM pg_trigger g WHERE NOT g.tgisinternal AND g.tgrelid IN (SELECT oid FROM t)
ORDER BY 1`

func checkDependents(ctx context.Context, q Querier) error {
	found, err := texts(ctx, q, dependentsSQL, readTables)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("rebuild: read tables cannot be replaced while there is: %s", strings.Join(found, "; "))
	}
	return nil
}

// partition is a partition of a read table.
type partition struct{ table, name, sql string }

const partitionsSQL = `
SELECT p.relname, c.relname, format('CREATE TABLE %I PARTITION OF %I %s%s', c.relname, p.relname, pg_get_expr(c.relpartbound, c.oid),
    CASE WHEN c.reloptions IS NULL THEN '' ELSE ' WITH (' || array_to_string(c.reloptions, ', ') || ')' END)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
WHERE p.relnamespace = to_regnamespace($2) AND p.relname = ANY ($1::text[]) ORDER BY c.relname`

// partitions of the read tables of a schema, quoted.
func partitions(ctx context.Context, q Querier, schema string) ([]partition, error) {
	rows, err := q.Query(ctx, partitionsSQL, readTables, schema)
	if err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p partition, err error) {
		err = row.Scan(&p.table, &p.name, &p.sql)
		return p, err //nolint:wrapcheck // wrapped below
	})
	if err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	return out, nil
}

// insufficientPrivilege is PostgreSQL's SQLSTATE for what one may not do (appendix A).
const insufficientPrivilege = "42501"

// ensureSchema makes the schema of the new tables. It stays, empty, for the next time.
func (s shadow) ensureSchema(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, s.own).Scan(&there); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	if there {
		return nil
	}
	_, err := conn.Exec(ctx, `CREATE SCHEMA `+s.own)
	if cause, ok := errors.AsType[*pgconn.PgError](err); ok && cause.Code == insufficientPrivilege {
		return fmt.Errorf("rebuild: user %s may not make the schema of the new tables; have an administrator run in this database: CREATE SCHEMA %s AUTHORIZATION %s: %w",
			conn.Config().User, s.own, pgx.Identifier{conn.Config().User}.Sanitize(), err)
	}
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

// first makes unqualified names mean the new tables, for a transaction or a session.
func (s shadow) first(ctx context.Context, db DB, local string) error {
	if _, err := db.Exec(ctx, `SET `+local+` search_path TO `+s.own+`, `+s.live); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

// drop drops whatever the schema has.
func (s shadow) drop(ctx context.Context, tx pgx.Tx) error {
	tables, err := texts(ctx, tx, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition`, s.ownName)
	if err != nil || len(tables) == 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `DROP TABLE `+strings.Join(tables, ", ")); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

// create makes the new tables, with all that is not made later.
func (s shadow) create(ctx context.Context, tx pgx.Tx, d definition) error {
	days, err := partitions(ctx, tx, s.live)
	if err != nil {
		return err
	}
	if err := s.first(ctx, tx, "LOCAL"); err != nil {
		return err
	}
	statements := slices.Clone(d.tables)
	for _, p := range days {
		statements = append(statements, p.sql)
	}
	for _, i := range d.indexes {
		if !i.isLate {
			statements = append(statements, i.sql)
		}
	}
	for _, sql := range append(statements, d.rest...) {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("rebuild: %s: %w", sql, err)
		}
	}
	return nil
}

// missingIndexes are those that are to be made yet.
func (s shadow) missingIndexes(ctx context.Context, q Querier, d definition) ([]index, error) {
	there, err := texts(ctx, q, `SELECT i.relname FROM pg_class i JOIN pg_namespace n ON n.oid = i.relnamespace WHERE n.nspname = $1 AND i.relkind IN ('i', 'I')`, s.ownName)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(d.indexes), func(i index) bool { return slices.Contains(there, i.name) }), nil
}

// syncPartitions makes the partitions that the live tables have got meanwhile and drops
// those that retention has. It returns how many it changed.
func (s shadow) syncPartitions(ctx context.Context, tx pgx.Tx) (changed int, err error) {
	live, err := partitions(ctx, tx, s.live)
	if err != nil {
		return 0, err
	}
	own, err := partitions(ctx, tx, s.own)
	if err != nil {
		return 0, err
	}
	if err := s.first(ctx, tx, "LOCAL"); err != nil {
		return 0, err
	}
	has := func(list []partition, name string) bool {
		return slices.ContainsFunc(list, func(p partition) bool { return p.name == name })
	}
	var statements []string
	for _, p := range own {
		if !has(live, p.name) {
			statements = append(statements, `DROP TABLE `+s.own+`.`+pgx.Identifier{p.name}.Sanitize())
		}
	}
	for _, p := range live {
		if !has(own, p.name) {
			statements = append(statements, p.sql)
		}
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return 0, fmt.Errorf("rebuild: %s: %w", sql, err)
		}
	}
	return len(statements), nil
}
