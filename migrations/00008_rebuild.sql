-- +goose Up

-- Which version of a projection's code the read tables were folded with.
CREATE TABLE projection_versions (
    projection TEXT PRIMARY KEY,
    version    INT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO projection_versions (projection, version) VALUES ('read', 1);

-- As before, and only for code that is not older than the tables: rows of two versions
-- are never mixed, whatever is still running somewhere.
-- +goose StatementBegin
CREATE FUNCTION advance_checkpoint(p_projection TEXT, p_shard SMALLINT, p_from BIGINT, p_to BIGINT, p_version INT) RETURNS VOID
LANGUAGE plpgsql AS $$
DECLARE
    stored INT;
BEGIN
    PERFORM advance_checkpoint(p_projection, p_shard, p_from, p_to);
    SELECT version INTO stored FROM projection_versions WHERE projection = p_projection;
    IF stored > p_version THEN
        RAISE EXCEPTION 'projection % is of version % in this database, this program folds version %', p_projection, stored, p_version
              USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END $$;
-- +goose StatementEnd

-- Rebuilds of projections: one at a time is asked for or under way, and whoever holds the
-- lock works on it, from where the last one stopped.
CREATE TABLE projection_rebuilds (
    id           UUID PRIMARY KEY,
    projection   TEXT NOT NULL,
    version      INT NOT NULL,
    reason       VARCHAR(20) NOT NULL,
    status       VARCHAR(20) NOT NULL DEFAULT 'waiting',
    phase        VARCHAR(20) NOT NULL DEFAULT 'waiting',
    -- How many events there were when it began, and what the read tables looked like.
    total        BIGINT,
    definition   TEXT,
    error        TEXT,
    tables       JSONB,
    requested_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at   TIMESTAMPTZ,
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    finished_at  TIMESTAMPTZ
);
CREATE UNIQUE INDEX projection_rebuilds_open ON projection_rebuilds (projection) WHERE status IN ('waiting', 'running');
CREATE INDEX projection_rebuilds_last ON projection_rebuilds (projection, requested_at);

-- How far each shard's history is folded into the new tables. The row moves in the
-- transaction that writes what was folded.
CREATE TABLE projection_rebuild_positions (
    rebuild_id UUID NOT NULL REFERENCES projection_rebuilds (id) ON DELETE CASCADE,
    shard      SMALLINT NOT NULL,
    position   BIGINT NOT NULL,
    events     BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (rebuild_id, shard)
) WITH (fillfactor = 50);

-- +goose StatementBegin
CREATE FUNCTION advance_rebuild(p_rebuild UUID, p_shard SMALLINT, p_from BIGINT, p_to BIGINT, p_events BIGINT) RETURNS VOID
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE projection_rebuild_positions SET position = p_to, events = events + p_events, updated_at = now()
     WHERE rebuild_id = p_rebuild AND shard = p_shard AND position = p_from;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'rebuild % of shard % is not at %', p_rebuild, p_shard, p_from USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE projection_rebuild_positions, projection_rebuilds, projection_versions;
DROP FUNCTION advance_rebuild(UUID, SMALLINT, BIGINT, BIGINT, BIGINT);
DROP FUNCTION advance_checkpoint(TEXT, SMALLINT, BIGINT, BIGINT, INT);
