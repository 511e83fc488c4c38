-- +goose Up

-- What a store is once and for all (number of shards, log epoch), and how far
-- retention has dropped.
CREATE TABLE store_settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Keys that every instance shares: they sign ack tokens and cursors.
CREATE TABLE service_keys (
    name       TEXT PRIMARY KEY,
    secret     BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- How far each shard's log is folded. The row moves in the transaction that
-- writes what was folded.
CREATE TABLE projection_checkpoints (
    projection TEXT NOT NULL,
    shard      SMALLINT NOT NULL,
    position   BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, shard)
) WITH (fillfactor = 50);

-- Moves a checkpoint from where the caller believes it to be; anywhere else it
-- raises, so that nothing is ever folded twice.
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

-- Every event, for ever for topics and subscriptions, as long as retention says
-- for messages. data is the event's JSON as the log had it, byte for byte.
CREATE TABLE event_history (
    shard           SMALLINT NOT NULL,
    position        BIGINT NOT NULL,
    scope           TEXT NOT NULL,
    event_id        UUID NOT NULL,
    kind            TEXT NOT NULL,
    tenant_id       UUID NOT NULL,
    topic_id        UUID,
    subscription_id UUID,
    message_id      VARCHAR(200) COLLATE "C",
    version         BIGINT NOT NULL,
    occurred_at     TIMESTAMPTZ NOT NULL,
    metadata        JSONB NOT NULL,
    data            JSON NOT NULL,
    PRIMARY KEY (shard, position, scope)
) PARTITION BY LIST (scope);

CREATE TABLE event_history_admin PARTITION OF event_history FOR VALUES IN ('admin');
CREATE INDEX ON event_history_admin (topic_id, position);
CREATE INDEX ON event_history_admin (subscription_id, position) WHERE subscription_id IS NOT NULL;

-- A position is ms<<20, so a day is a range of it.
CREATE TABLE event_history_message PARTITION OF event_history FOR VALUES IN ('message') PARTITION BY RANGE (position);
CREATE INDEX ON event_history_message (message_id, position);
CREATE TABLE event_history_message_default PARTITION OF event_history_message DEFAULT;

CREATE TABLE message_topics (
    id                 UUID PRIMARY KEY,
    name               VARCHAR(200) NOT NULL,
    display_name       VARCHAR(200),
    description        TEXT,
    topic_type         VARCHAR(50) NOT NULL,
    partition_count    INT NOT NULL DEFAULT 1,
    replication_factor INT NOT NULL DEFAULT 1,
    retention_ms       BIGINT NOT NULL DEFAULT 604800000,
    message_format     VARCHAR(50) NOT NULL DEFAULT 'json',
    schema_definition  JSONB,
    compression_type   VARCHAR(20) NOT NULL DEFAULT 'none',
    tenant_id          UUID NOT NULL,
    is_public          BOOLEAN NOT NULL DEFAULT false,
    allowed_producers  JSONB NOT NULL DEFAULT '[]',
    allowed_consumers  JSONB NOT NULL DEFAULT '[]',
    status             VARCHAR(20) NOT NULL DEFAULT 'active',
    created_at         TIMESTAMPTZ NOT NULL,
    updated_at         TIMESTAMPTZ NOT NULL,
    version            BIGINT NOT NULL,
    shard              SMALLINT NOT NULL
);
-- One name at a time per tenant. Archived topics give their name back.
CREATE UNIQUE INDEX message_topics_name ON message_topics (tenant_id, name COLLATE "C") WHERE status <> 'archived';

CREATE TABLE message_subscriptions (
    id                    UUID PRIMARY KEY,
    topic_id              UUID NOT NULL REFERENCES message_topics (id) ON DELETE CASCADE,
    consumer_group        VARCHAR(200) NOT NULL,
    consumer_name         VARCHAR(200) NOT NULL,
    subscription_type     VARCHAR(50) NOT NULL,
    offset_reset_policy   VARCHAR(20) NOT NULL DEFAULT 'latest',
    max_poll_records      INT NOT NULL DEFAULT 500,
    session_timeout_ms    INT NOT NULL DEFAULT 30000,
    heartbeat_interval_ms INT NOT NULL DEFAULT 3000,
    handler_config        JSONB NOT NULL,
    dead_letter_queue     VARCHAR(200),
    max_retry_attempts    INT NOT NULL DEFAULT 3,
    retry_delay_ms        INT NOT NULL DEFAULT 1000,
    message_filter        JSONB,
    status                VARCHAR(20) NOT NULL DEFAULT 'active',
    tenant_id             UUID NOT NULL,
    created_at            TIMESTAMPTZ NOT NULL,
    updated_at            TIMESTAMPTZ NOT NULL,
    last_consumed_at      TIMESTAMPTZ,
    version               BIGINT NOT NULL,
    UNIQUE (topic_id, consumer_group, consumer_name)
) WITH (fillfactor = 70);
CREATE INDEX message_subscriptions_tenant ON message_subscriptions (tenant_id, id);

-- Messages. A message_id is a UUIDv7, whose text begins with its time, so a day is
-- a range of it. No index names a column that a message's later life changes:
-- updates stay within their page (HOT), for which the fill factor leaves room.
CREATE TABLE message_records (
    id             UUID NOT NULL,
    topic_id       UUID NOT NULL,
    message_key    VARCHAR(500),
    message_id     VARCHAR(200) COLLATE "C" NOT NULL,
    correlation_id VARCHAR(200),
    headers        JSONB NOT NULL DEFAULT '{}',
    payload        JSONB,
    payload_size   INT,
    content_type   VARCHAR(100) NOT NULL DEFAULT 'application/json',
    partition_id   INT,
    offset_value   BIGINT,
    status         VARCHAR(20) NOT NULL DEFAULT 'published',
    retry_count    INT NOT NULL DEFAULT 0,
    published_at   TIMESTAMPTZ,
    scheduled_at   TIMESTAMPTZ,
    consumed_at    TIMESTAMPTZ,
    expires_at     TIMESTAMPTZ,
    producer_id    VARCHAR(200),
    tenant_id      UUID NOT NULL,
    trace_id       VARCHAR(100),
    shard          SMALLINT NOT NULL,
    position       BIGINT NOT NULL,
    PRIMARY KEY (message_id)
) PARTITION BY RANGE (message_id);
CREATE INDEX message_records_topic ON message_records (tenant_id, topic_id, message_id);
CREATE INDEX message_records_key ON message_records (topic_id, message_key, message_id) WHERE message_key IS NOT NULL;
CREATE TABLE message_records_default PARTITION OF message_records DEFAULT WITH (fillfactor = 65);

-- One row per attempt to have a message processed.
CREATE TABLE consumption_records (
    id                 UUID NOT NULL,
    subscription_id    UUID NOT NULL,
    message_id         VARCHAR(200) COLLATE "C" NOT NULL,
    consumer_instance  VARCHAR(200) NOT NULL,
    partition_id       INT,
    offset_value       BIGINT,
    status             VARCHAR(20) NOT NULL,
    processing_time_ms INT,
    error_message      TEXT,
    retry_count        INT NOT NULL DEFAULT 0,
    consumed_at        TIMESTAMPTZ,
    processed_at       TIMESTAMPTZ,
    next_retry_at      TIMESTAMPTZ,
    tenant_id          UUID NOT NULL,
    attempt            INT NOT NULL,
    reason             VARCHAR(50),
    PRIMARY KEY (message_id, id)
) PARTITION BY RANGE (message_id);
CREATE TABLE consumption_records_default PARTITION OF consumption_records DEFAULT;

-- The order of a message's states. They only ever rise, whichever consumer group
-- comes first, so folding is the same in any batch.
CREATE FUNCTION message_status_rank(status TEXT) RETURNS INT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE status WHEN 'published' THEN 1 WHEN 'failed' THEN 2 WHEN 'consumed' THEN 3 WHEN 'dead_letter' THEN 4 ELSE 0 END $$;

-- +goose Down
DROP TABLE consumption_records, message_records, message_subscriptions, message_topics, event_history,
           projection_checkpoints, service_keys, store_settings;
DROP FUNCTION message_status_rank(TEXT);
DROP FUNCTION advance_checkpoint(TEXT, SMALLINT, BIGINT, BIGINT);
