-- +goose Up

-- Which Redis process a shard was read from: a projector moves the checkpoint only while it
-- reads from the one that was found to have what the one before had. Whoever lets another
-- process in writes its run id here first, and so waits for the transaction under way and
-- sees how far it came.
ALTER TABLE projection_checkpoints ADD COLUMN log_run TEXT NOT NULL DEFAULT '';

-- A program that does not say which run it folds from does not fold any more.
DROP FUNCTION advance_checkpoint(TEXT, SMALLINT, BIGINT, BIGINT, INT);
DROP FUNCTION advance_checkpoint(TEXT, SMALLINT, BIGINT, BIGINT);
-- +goose StatementBegin
CREATE FUNCTION advance_checkpoint(p_projection TEXT, p_shard SMALLINT, p_from BIGINT, p_to BIGINT, p_version INT, p_run TEXT) RETURNS VOID
LANGUAGE plpgsql AS $$
DECLARE
    stored INT;
BEGIN
    UPDATE projection_checkpoints SET position = p_to, updated_at = now()
     WHERE projection = p_projection AND shard = p_shard AND position = p_from AND log_run = p_run;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint of %/% is not at %, or the log is another Redis process''s', p_projection, p_shard, p_from
              USING ERRCODE = 'serialization_failure';
    END IF;
    SELECT version INTO stored FROM projection_versions WHERE projection = p_projection;
    IF stored > p_version THEN
        RAISE EXCEPTION 'projection % is of version % in this database, this program folds version %', p_projection, stored, p_version
              USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END $$;
-- +goose StatementEnd

-- What the log was and is known by: one name from one loss of Redis' data to the next. A Redis
-- that has a name that is not among them is another store's.
CREATE TABLE log_epochs (
    epoch    TEXT PRIMARY KEY,
    began_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    reason   TEXT NOT NULL
);
INSERT INTO log_epochs (epoch, reason) SELECT value, 'first use' FROM store_settings WHERE name = 'log_epoch';

-- Which Redis process instances see the log in, and when they last did: one that finds it
-- missing elsewhere does not put it back there while others have it.
CREATE TABLE log_seen (
    process TEXT PRIMARY KEY,
    seen_at TIMESTAMPTZ NOT NULL
);

-- The offset that each partition gives next: for a log that has to be put back after
-- retention has dropped what was published.
CREATE TABLE topic_offsets (
    topic_id     UUID NOT NULL,
    partition_id INT NOT NULL,
    next_offset  BIGINT NOT NULL,
    PRIMARY KEY (topic_id, partition_id)
) WITH (fillfactor = 50);
INSERT INTO topic_offsets (topic_id, partition_id, next_offset)
SELECT m.topic_id, m.partition_id, max(m.offset_value) + 1 FROM message_records m JOIN message_topics t ON t.id = m.topic_id
WHERE t.status <> 'archived' AND m.partition_id IS NOT NULL AND m.offset_value IS NOT NULL GROUP BY m.topic_id, m.partition_id;

-- +goose Down
DROP TABLE topic_offsets;
DROP TABLE log_epochs, log_seen;
DROP FUNCTION advance_checkpoint(TEXT, SMALLINT, BIGINT, BIGINT, INT, TEXT);
-- +goose StatementBegin
CREATE FUNCTION advance_checkpoint(p_projection TEXT, p_shard SMALLINT, p_from BIGINT, p_to BIGINT) RETURNS VOID
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE projection_checkpoints SET position = p_to, updated_at = now()
     WHERE projection = p_projection AND shard = p_shard AND position = p_from;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint of %/% is not at %', p_projection, p_shard, p_from
              USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
-- +goose StatementEnd
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
ALTER TABLE projection_checkpoints DROP COLUMN log_run;
