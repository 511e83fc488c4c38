-- +goose Up

-- How far each shard's events are handed on to another service. The row moves after the
-- service has taken them, from where the one who moves it believes it to be.
CREATE TABLE handover_checkpoints (
    name       TEXT NOT NULL,
    shard      SMALLINT NOT NULL,
    position   BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (name, shard)
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE handover_checkpoints;
