-- +goose Up

-- The fence behind the queries: what a tenant causes is read as tallymq_reader, which
-- may only read, and only rows of the tenant that tallymq.tenant names, whatever the
-- query says. The tables' owner (projectors, verify, migrations) is not fenced in.

-- Roles belong to the whole server: another database's migration may make this one at
-- the same moment. Where we may not make it, nothing is changed and the error has what
-- an administrator has to run.
-- +goose StatementBegin
DO $$
DECLARE
    -- Since version 16, becoming a role is a right of its own.
    may_become CONSTANT TEXT := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
    there      CONSTANT BOOLEAN := EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallymq_reader');
    grant_role CONSTANT TEXT := format('GRANT tallymq_reader TO %I', current_user);
    grant_use  CONSTANT TEXT := format('GRANT USAGE ON SCHEMA %I TO tallymq_reader', current_schema());
    needed     TEXT[] := '{}';
    statement  TEXT;
BEGIN
    IF NOT there THEN
        needed := ARRAY['CREATE ROLE tallymq_reader NOLOGIN', grant_role, grant_use];
    ELSE
        IF (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = 'tallymq_reader') THEN
            needed := needed || 'ALTER ROLE tallymq_reader NOSUPERUSER NOBYPASSRLS'::text;
        END IF;
        IF NOT pg_has_role(current_user, 'tallymq_reader', may_become) THEN
            needed := needed || grant_role;
        END IF;
        IF NOT has_schema_privilege('tallymq_reader', current_schema(), 'USAGE') THEN
            needed := needed || grant_use;
        END IF;
    END IF;
    FOREACH statement IN ARRAY needed LOOP
        BEGIN
            EXECUTE statement;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another was first
        END;
    END LOOP;
    -- Postgres only warns where a schema is another's.
    IF NOT has_schema_privilege('tallymq_reader', current_schema(), 'USAGE') THEN
        RAISE insufficient_privilege;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'user % may not set up the role that tenants'' queries run as; have an administrator run in database %: %;',
          quote_ident(current_user), quote_ident(current_database()), array_to_string(needed, '; ')
          USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd

-- The tenant whose rows may be read; null, which equals nothing, where none is set.
CREATE FUNCTION tallymq_tenant() RETURNS UUID LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN current_setting('tallymq.tenant', true) <> '*' THEN nullif(current_setting('tallymq.tenant', true), '')::uuid END;

-- Whether all rows may be read: the platform's own callers set '*'.
CREATE FUNCTION tallymq_every_tenant() RETURNS BOOLEAN LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(current_setting('tallymq.tenant', true) = '*', false);

GRANT EXECUTE ON FUNCTION tallymq_tenant(), tallymq_every_tenant() TO tallymq_reader;

-- In a policy, a sub-select is evaluated once and not for each row. Tables are in the
-- order in which projectors lock them, so that the two do not lock each other out.
-- Partitions are read through their parent, by its policy: without a grant of their
-- own, the reader cannot read them directly.
ALTER TABLE event_history ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON event_history FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));

-- Public topics are shown to every tenant.
ALTER TABLE message_topics ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON message_topics FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant())
           OR (is_public AND status <> 'archived' AND (SELECT tallymq_tenant()) IS NOT NULL));

ALTER TABLE message_subscriptions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON message_subscriptions FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));

ALTER TABLE message_records ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON message_records FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));

ALTER TABLE consumption_records ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON consumption_records FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));

GRANT SELECT ON event_history, message_topics, message_subscriptions, message_records, consumption_records TO tallymq_reader;

-- +goose Down
-- The role stays: other databases of the server may use it.
REVOKE SELECT ON event_history, message_topics, message_subscriptions, message_records, consumption_records FROM tallymq_reader;
-- +goose StatementBegin
DO $$ BEGIN
    EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM tallymq_reader', current_schema());
END $$;
-- +goose StatementEnd
DROP POLICY tenant_fence ON event_history;
DROP POLICY tenant_fence ON message_topics;
DROP POLICY tenant_fence ON message_subscriptions;
DROP POLICY tenant_fence ON message_records;
DROP POLICY tenant_fence ON consumption_records;
ALTER TABLE event_history DISABLE ROW LEVEL SECURITY;
ALTER TABLE message_topics DISABLE ROW LEVEL SECURITY;
ALTER TABLE message_subscriptions DISABLE ROW LEVEL SECURITY;
ALTER TABLE message_records DISABLE ROW LEVEL SECURITY;
ALTER TABLE consumption_records DISABLE ROW LEVEL SECURITY;
DROP FUNCTION tallymq_tenant();
DROP FUNCTION tallymq_every_tenant();
