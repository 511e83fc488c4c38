-- +goose Up

-- When a message's payload was erased. payload is NULL since, payload_size stays.
ALTER TABLE message_records ADD COLUMN erased_at TIMESTAMPTZ;

-- What events.Erase makes of an event's data, byte for byte. The log writes a payload
-- last but for the offset (and the time of release), so it is found from the end, whatever
-- keys and headers look like.
-- +goose StatementBegin
CREATE FUNCTION erase_payload(kind TEXT, data JSON) RETURNS JSON LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    whole   CONSTANT TEXT := data::text;
    payload CONSTANT TEXT := (data -> 'payload')::text;
    tail    CONSTANT TEXT := ',"offset":' || (data ->> 'offset')
        || CASE WHEN kind = 'message.scheduled' THEN ',"releaseAtMs":' || (data ->> 'releaseAtMs') ELSE '' END || '}';
    sum     CONSTANT TEXT := encode(sha256(convert_to(payload, 'UTF8')), 'hex');
    upto    TEXT;
    head    TEXT;
BEGIN
    IF kind NOT IN ('message.published', 'message.scheduled') OR payload IS NULL OR data -> 'erasedSha256' IS NOT NULL THEN
        RETURN data;
    END IF;
    upto := rtrim(left(whole, length(whole) - length(tail)), E' \t\n\r');
    head := left(upto, length(upto) - length(payload));
    IF whole LIKE '%}' AND right(whole, length(tail)) = tail AND right(upto, length(payload)) = payload
       AND right(rtrim(head, E' \t\n\r'), 10) = '"payload":' THEN
        RETURN (head || 'null,"erasedSha256":"' || sum || '"' || substr(whole, length(upto) + 1))::json;
    END IF;
    -- Nothing that the log has written. It is erased all the same.
    RETURN (data::jsonb || jsonb_build_object('payload', NULL, 'erasedSha256', sum))::json;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION erase_payload(TEXT, JSON);
ALTER TABLE message_records DROP COLUMN erased_at;
