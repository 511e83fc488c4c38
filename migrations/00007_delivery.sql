-- +goose Up

-- What a webhook answered to an attempt.
ALTER TABLE consumption_records ADD COLUMN status_code INT;

-- How many messages each topic was ever given, and how many of them wait to be released.
-- With group_counts it is the ledger: for every consumer group, at every commit,
-- published - base + replayed = consumed + dead + filtered + expired + purged + what is not settled.
CREATE TABLE topic_counts (
    topic_id  UUID PRIMARY KEY,
    published BIGINT NOT NULL,
    scheduled BIGINT NOT NULL
) WITH (fillfactor = 50);

-- base is what a topic's published was when the group began, less what the group began
-- with. replayed, and purged where a group went forward, are of seeks and replays.
-- dead are dead letters that were not redriven.
CREATE TABLE group_counts (
    topic_id       UUID NOT NULL,
    consumer_group VARCHAR(300) COLLATE "C" NOT NULL,
    base           BIGINT NOT NULL,
    replayed       BIGINT NOT NULL,
    consumed       BIGINT NOT NULL,
    dead           BIGINT NOT NULL,
    filtered       BIGINT NOT NULL,
    expired        BIGINT NOT NULL,
    purged         BIGINT NOT NULL,
    PRIMARY KEY (topic_id, consumer_group)
) WITH (fillfactor = 50);

-- Dead letters that were not redriven.
CREATE TABLE dead_letters (
    topic_id        UUID NOT NULL,
    consumer_group  VARCHAR(300) COLLATE "C" NOT NULL,
    message_id      VARCHAR(200) COLLATE "C" NOT NULL,
    attempt         INT NOT NULL,
    attempts_before INT NOT NULL,
    subscription_id UUID NOT NULL,
    tenant_id       UUID NOT NULL,
    partition_id    INT NOT NULL,
    offset_value    BIGINT NOT NULL,
    reason          VARCHAR(50) NOT NULL,
    error_message   TEXT,
    status_code     INT,
    dead_at         TIMESTAMPTZ NOT NULL,
    position        BIGINT NOT NULL,
    PRIMARY KEY (topic_id, consumer_group, message_id, attempt, attempts_before)
);
CREATE INDEX dead_letters_position ON dead_letters (topic_id, consumer_group, position);

CREATE TABLE message_schedules (
    id             UUID PRIMARY KEY,
    topic_id       UUID NOT NULL REFERENCES message_topics (id) ON DELETE CASCADE,
    tenant_id      UUID NOT NULL,
    name           VARCHAR(200) NOT NULL,
    cron           VARCHAR(200) NOT NULL,
    time_zone      VARCHAR(100) NOT NULL,
    message_key    VARCHAR(500),
    headers        JSONB NOT NULL DEFAULT '{}',
    content_type   VARCHAR(100),
    correlation_id VARCHAR(200),
    ttl_ms         BIGINT,
    payload        JSONB NOT NULL,
    sealed         BOOLEAN NOT NULL,
    status         VARCHAR(20) NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL,
    updated_at     TIMESTAMPTZ NOT NULL,
    version        BIGINT NOT NULL
);
CREATE INDEX message_schedules_tenant ON message_schedules (tenant_id, id);

-- Work that takes a while: redriving, replaying. It is not folded from history: what a
-- job does is, message by message. A runner holds a job by its lease.
CREATE TABLE delivery_jobs (
    id           UUID PRIMARY KEY,
    tenant_id    UUID NOT NULL,
    kind         VARCHAR(20) NOT NULL,
    spec         JSONB NOT NULL,
    status       VARCHAR(20) NOT NULL,
    done         BIGINT NOT NULL DEFAULT 0,
    failed       BIGINT NOT NULL DEFAULT 0,
    total        BIGINT,
    state        JSONB NOT NULL DEFAULT '{}',
    error        TEXT,
    created_by   VARCHAR(200) NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL,
    finished_at  TIMESTAMPTZ,
    leased_until TIMESTAMPTZ,
    -- What was asked for under a key, a second time the same is the same job.
    idempotency_key VARCHAR(255),
    fingerprint     TEXT
);
CREATE UNIQUE INDEX delivery_jobs_key ON delivery_jobs (tenant_id, kind, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX delivery_jobs_tenant ON delivery_jobs (tenant_id, id);
CREATE INDEX delivery_jobs_open ON delivery_jobs (id) WHERE status IN ('waiting', 'running');

ALTER TABLE group_counts ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON group_counts FOR SELECT TO tallymq_reader
    USING ((SELECT tallymq_every_tenant())
           OR EXISTS (SELECT FROM message_subscriptions s WHERE s.topic_id = group_counts.topic_id AND s.tenant_id = (SELECT tallymq_tenant())));
ALTER TABLE topic_counts ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON topic_counts FOR SELECT TO tallymq_reader
    USING ((SELECT tallymq_every_tenant())
           OR EXISTS (SELECT FROM message_subscriptions s WHERE s.topic_id = topic_counts.topic_id AND s.tenant_id = (SELECT tallymq_tenant())));
ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON dead_letters FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));
ALTER TABLE message_schedules ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON message_schedules FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));
ALTER TABLE delivery_jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence ON delivery_jobs FOR SELECT TO tallymq_reader
    USING (tenant_id = (SELECT tallymq_tenant()) OR (SELECT tallymq_every_tenant()));
GRANT SELECT ON topic_counts, group_counts, dead_letters, message_schedules, delivery_jobs TO tallymq_reader;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION message_status_rank(status TEXT) RETURNS INT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE status WHEN 'scheduled' THEN 1 WHEN 'published' THEN 2 WHEN 'failed' THEN 3 WHEN 'purged' THEN 4 WHEN 'cancelled' THEN 5
    WHEN 'expired' THEN 6 WHEN 'consumed' THEN 7 WHEN 'dead_letter' THEN 8 ELSE 0 END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION message_status_rank(status TEXT) RETURNS INT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE status WHEN 'published' THEN 1 WHEN 'failed' THEN 2 WHEN 'purged' THEN 3 WHEN 'consumed' THEN 4 WHEN 'dead_letter' THEN 5 ELSE 0 END $$;
-- +goose StatementEnd
DROP TABLE delivery_jobs, message_schedules, dead_letters, group_counts, topic_counts;
ALTER TABLE consumption_records DROP COLUMN status_code;
