-- +goose Up

-- The lifecycle feed reads one tenant's events of a shard in order. Every partition
-- has it, those to come too. All tenants' events are read by the primary key.
CREATE INDEX event_history_feed ON event_history (tenant_id, shard, position);

-- How far each shard is folded, for readers that may not read the checkpoints
-- themselves. It sees the snapshot of the query that calls it.
-- +goose StatementBegin
CREATE FUNCTION feed_heads() RETURNS TABLE (shard SMALLINT, "position" BIGINT)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER ROWS 64
BEGIN ATOMIC
    SELECT c.shard, c.position FROM projection_checkpoints c WHERE c.projection = 'read';
END;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION feed_heads();
DROP INDEX event_history_feed;
