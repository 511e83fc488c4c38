-- +goose Up

-- A public queue's consumers may be of several tenants, and a tenant's groups are its own.
ALTER TABLE message_subscriptions DROP CONSTRAINT message_subscriptions_topic_id_consumer_group_consumer_name_key;
ALTER TABLE message_subscriptions ADD CONSTRAINT message_subscriptions_member UNIQUE (topic_id, consumer_group, consumer_name, tenant_id);

-- Whether payload is encrypted.
ALTER TABLE message_records ADD COLUMN sealed BOOLEAN NOT NULL DEFAULT false;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION message_status_rank(status TEXT) RETURNS INT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE status WHEN 'published' THEN 1 WHEN 'failed' THEN 2 WHEN 'purged' THEN 3 WHEN 'consumed' THEN 4 WHEN 'dead_letter' THEN 5 ELSE 0 END $$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE message_records DROP COLUMN sealed;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION message_status_rank(status TEXT) RETURNS INT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE status WHEN 'published' THEN 1 WHEN 'failed' THEN 2 WHEN 'consumed' THEN 3 WHEN 'dead_letter' THEN 4 ELSE 0 END $$;
-- +goose StatementEnd
ALTER TABLE message_subscriptions DROP CONSTRAINT message_subscriptions_member;
ALTER TABLE message_subscriptions ADD UNIQUE (topic_id, consumer_group, consumer_name);
