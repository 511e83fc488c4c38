-- +goose Up

-- The keys that tenants' payloads are sealed with, each wrapped by a master key that
-- is not in any store. Only what reads and writes payloads may see them: the role that
-- tenants' queries run as has no grant. Of instances that make a tenant's next key at
-- the same moment, the primary key lets one succeed. A destroyed key leaves its row, so
-- that no generation comes twice. Re-wrapping changes master_id and wrapped together and
-- nothing else.
CREATE TABLE tenant_keys (
    tenant_id    UUID NOT NULL,
    generation   INT NOT NULL CHECK (generation > 0),
    key_id       VARCHAR(22) COLLATE "C" NOT NULL UNIQUE,
    master_id    VARCHAR(32) COLLATE "C" NOT NULL,
    wrapped      BYTEA,
    created_at   TIMESTAMPTZ NOT NULL,
    destroyed_at TIMESTAMPTZ,
    PRIMARY KEY (tenant_id, generation),
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);
-- Which masters are still needed, and what one of them has wrapped.
CREATE INDEX tenant_keys_master ON tenant_keys (master_id, tenant_id, generation) WHERE wrapped IS NOT NULL;

-- +goose Down
-- Without its key a payload is lost for ever: that is not a migration's to do.
-- +goose StatementBegin
DO $$ BEGIN
    IF EXISTS (SELECT FROM tenant_keys WHERE wrapped IS NOT NULL) THEN
        RAISE EXCEPTION 'tenant_keys has keys: what was sealed with them could never be read again';
    END IF;
END $$;
-- +goose StatementEnd
DROP TABLE tenant_keys;
