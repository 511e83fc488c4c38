package postgres

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/migrations"
)

// fenceVersion is the migration that sets up the fence.
const fenceVersion = 5

// server is a Postgres on which the reader's role was never made.
func server(t *testing.T) (admin *pgxpool.Pool, at func(user, database, schema string) *pgxpool.Pool) {
	t.Helper()
	p, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{Dir: devstack.TestDir(t)})
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	at = func(user, database, schema string) *pgxpool.Pool {
		u, err := url.Parse(p.URL())
		require.NoError(t, err)
		u.User, u.Path = url.User(user), "/"+database
		q := u.Query()
		q.Set("search_path", schema)
		u.RawQuery = q.Encode()
		pool, err := Open(t.Context(), u.String())
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return pool
	}
	admin, err = Open(t.Context(), p.URL())
	require.NoError(t, err)
	t.Cleanup(admin.Close)
	return admin, at
}

// exec runs statements one by one.
func exec(t *testing.T, pool *pgxpool.Pool, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

var remedy = regexp.MustCompile(`(?s)an administrator run in database (\w+): (.*;) \(SQLSTATE 42501\)`)

// requireRemedy checks that a user's migration fails without a trace, and returns
// what its error says is to be run.
func requireRemedy(t *testing.T, pool *pgxpool.Pool, database string) string {
	t.Helper()
	err := Migrate(t.Context(), pool, silent)
	require.Error(t, err)
	found := remedy.FindStringSubmatch(err.Error())
	require.Len(t, found, 3, err.Error())
	require.Equal(t, database, found[1])
	require.Equal(t, []string{"0 0"}, texts(t, pool, `SELECT (SELECT count(*) FROM pg_class WHERE relrowsecurity) || ' ' || (SELECT count(*) FROM pg_policy)`))
	return found[2]
}

func TestWithoutTheRightToMakeRolesTheMigrationSaysWhatToRun(t *testing.T) {
	t.Parallel()
	admin, at := server(t)
	exec(t, admin, `CREATE ROLE "ap'p" LOGIN`, `CREATE DATABASE owned OWNER "ap'p"`, `CREATE DATABASE lent`)
	lent := at("tallymq", "lent", "public")
	exec(t, lent, `CREATE SCHEMA s`, `GRANT CREATE, USAGE ON SCHEMA s TO "ap'p"`, `GRANT CREATE ON DATABASE lent TO "ap'p"`)

	// nothing is there
	pool := at("ap'p", "owned", "public")
	sql := requireRemedy(t, pool, "owned")
	require.Equal(t, `CREATE ROLE tallymq_reader NOLOGIN; GRANT tallymq_reader TO "ap'p"; GRANT USAGE ON SCHEMA public TO tallymq_reader;`, sql)
	require.Equal(t, []string{"0"}, texts(t, admin, `SELECT count(*)::text FROM pg_roles WHERE rolname = 'tallymq_reader'`))

	// the role is there, and is another's
	exec(t, admin, `CREATE ROLE tallymq_reader SUPERUSER`)
	require.Equal(t, `ALTER ROLE tallymq_reader NOSUPERUSER NOBYPASSRLS; GRANT tallymq_reader TO "ap'p";`, requireRemedy(t, pool, "owned"))
	exec(t, admin, `DROP ROLE tallymq_reader`)

	// what the message says is enough, and the user needs no more to be fenced in
	exec(t, at("tallymq", "owned", "public"), sql)
	require.NoError(t, Migrate(t.Context(), pool, silent))
	addTenant(t, pool, tenantA)
	addTenant(t, pool, tenantB)
	require.Equal(t, []string{tenantA}, texts(t, ForTenant(pool, tenantA), `SELECT tenant_id::text FROM message_records`))
	require.Len(t, texts(t, pool, `SELECT tenant_id::text FROM message_records`), 2)

	// the schema is another's
	pool = at("ap'p", "lent", "s")
	sql = requireRemedy(t, pool, "lent")
	require.Equal(t, `GRANT USAGE ON SCHEMA s TO tallymq_reader;`, sql)
	exec(t, lent, sql)
	require.NoError(t, Migrate(t.Context(), pool, silent))
}

func TestTheReaderIsMadeOnceHoweverManyDatabasesMigrate(t *testing.T) {
	t.Parallel()
	admin, at := server(t)
	const databases = 4
	var wg sync.WaitGroup
	errs := make(chan error, databases)
	exec(t, admin, `CREATE ROLE app LOGIN CREATEROLE`)
	for n := range databases {
		name := fmt.Sprint("db", n)
		exec(t, admin, `CREATE DATABASE `+name+` OWNER app`)
		pool := at("app", name, "public")
		wg.Go(func() { errs <- Migrate(context.Background(), pool, silent) })
	}
	wg.Wait()
	for range databases {
		require.NoError(t, <-errs)
	}
}

func TestAMigrationLooksAgainForARoleThatWasJustMade(t *testing.T) {
	t.Parallel()
	_, at := server(t)
	pool := at("tallymq", "tallymq", "public")
	// a sequence counts on when its transaction is rolled back
	exec(t, pool, `CREATE SCHEMA late`, `CREATE SEQUENCE late.looks`, `CREATE TABLE late.until AS SELECT 3 AS looks`,
		`CREATE FUNCTION late.look() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('late.looks') < (SELECT looks FROM late.until) THEN
				RAISE undefined_object USING MESSAGE = 'role "tallymq_reader" does not exist';
			END IF;
		END $$`,
		`CREATE EVENT TRIGGER late ON ddl_command_start WHEN TAG IN ('CREATE POLICY') EXECUTE FUNCTION late.look()`)
	require.NoError(t, Migrate(t.Context(), pool, silent))

	// one that never comes is an error, and soon
	exec(t, pool, `DROP OWNED BY tallymq_reader`, `DROP SCHEMA public CASCADE`, `CREATE SCHEMA public`, `UPDATE late.until SET looks = 1000`, `ALTER SEQUENCE late.looks RESTART`)
	require.ErrorContains(t, Migrate(t.Context(), pool, silent), "tallymq_reader")
	require.Equal(t, []string{fmt.Sprint(roleTries)}, texts(t, pool, `SELECT last_value::text FROM late.looks`))
}

func TestTheFenceCanBeTakenDownAndPutUpAgain(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	require.NoError(t, err)
	_, err = provider.DownTo(t.Context(), fenceVersion-1)
	require.NoError(t, err)
	_, err = tryTexts(t.Context(), AllTenants(pool), `SELECT tenant_id::text FROM message_records`)
	require.Error(t, err)
	require.Equal(t, []string{"0 0"}, texts(t, pool, `SELECT (SELECT count(*) FROM pg_class WHERE relrowsecurity AND relnamespace = current_schema()::regnamespace) || ' ' ||
		(SELECT count(*) FROM pg_policies WHERE schemaname = current_schema())`))
	require.NoError(t, Migrate(t.Context(), pool, silent))
	require.Equal(t, []string{tenantA}, texts(t, ForTenant(pool, tenantA), `SELECT tenant_id::text FROM message_records`))
}
