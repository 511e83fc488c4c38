-- +goose Up

-- What makes history provable. Each tenant has a log per shard (RFC 6962: a Merkle tree
-- that only ever grows), and a transaction that writes events of the tenant to history
-- appends records to it: seals, each the Merkle root of what it writes of one scope and
-- one day. So retention, which drops whole days of messages, drops whole seals' events.
CREATE TABLE history_seals (
    tenant_id      UUID NOT NULL,
    shard          SMALLINT NOT NULL,
    -- The record's number in the log, from 0.
    n              BIGINT NOT NULL,
    scope          TEXT NOT NULL,
    first_position BIGINT NOT NULL,
    last_position  BIGINT NOT NULL,
    events         INT NOT NULL,
    root           BYTEA NOT NULL,
    PRIMARY KEY (tenant_id, shard, n)
);
-- Which seal an event is of.
CREATE UNIQUE INDEX history_seals_position ON history_seals (tenant_id, shard, scope, first_position);

-- The hashes of the logs' complete subtrees, in the order in which they become complete
-- (golang.org/x/mod/sumdb/tlog, StoredHashIndex).
CREATE TABLE history_hashes (
    tenant_id UUID NOT NULL,
    shard     SMALLINT NOT NULL,
    idx       BIGINT NOT NULL,
    hash      BYTEA NOT NULL,
    PRIMARY KEY (tenant_id, shard, idx)
);

-- The position after which a shard's history is sealed; what stands before it was
-- written before there were seals.
CREATE TABLE history_seal_origins (
    shard    SMALLINT PRIMARY KEY,
    position BIGINT NOT NULL
);

-- Where the hash of the nth complete subtree of 2^level records stands.
CREATE FUNCTION stored_hash_index(level INT, n BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 2 * (((n + 1) << level) - 1) - bit_count((((n + 1) << level) - 1)::bit(64)) + level;

-- The complete subtrees that a log of a size consists of, largest first: all that is
-- needed to go on with it, and to know its root.
-- +goose StatementBegin
CREATE FUNCTION history_edge(p_tenant UUID, p_shard SMALLINT, p_size BIGINT) RETURNS TABLE (level INT, hash BYTEA)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 8
BEGIN ATOMIC
    SELECT l.level, h.hash FROM generate_series(0, 62) AS l(level)
      JOIN history_hashes h ON h.tenant_id = p_tenant AND h.shard = p_shard AND h.idx = stored_hash_index(l.level, (p_size >> l.level) - 1)
     WHERE (p_size >> l.level) & 1 = 1 ORDER BY l.level DESC;
END;
-- +goose StatementEnd

ALTER TABLE history_seals ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON history_seals FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));
ALTER TABLE history_hashes ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON history_hashes FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));
GRANT SELECT ON history_seals, history_hashes TO tallymq_reader;
GRANT EXECUTE ON FUNCTION stored_hash_index(INT, BIGINT), history_edge(UUID, SMALLINT, BIGINT) TO tallymq_reader;

-- +goose Down
-- What was proved stays proved; nothing new can be, of what stands here.
DROP FUNCTION history_edge(UUID, SMALLINT, BIGINT);
DROP FUNCTION stored_hash_index(INT, BIGINT);
DROP TABLE history_seal_origins, history_hashes, history_seals;
