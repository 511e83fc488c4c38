-- +goose Up

-- Reading the past finds what is there no more: a tenant's topics by name, deleted ones
-- too, and its subscriptions, whose rows are gone, by the events that created them.
CREATE INDEX message_topics_ever ON message_topics (tenant_id, name COLLATE "C", id);
CREATE INDEX event_history_subscriptions ON event_history_admin (tenant_id, subscription_id) WHERE kind = 'subscription.created';
-- A topic's own events, without those of its subscriptions in between.
CREATE INDEX event_history_topics ON event_history_admin (topic_id, position) WHERE subscription_id IS NULL;

-- +goose Down
DROP INDEX event_history_topics;
DROP INDEX event_history_subscriptions;
DROP INDEX message_topics_ever;
