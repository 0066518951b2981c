-- name: create_conversation
WITH created AS (
    INSERT INTO longrun.conversations (id, principal, metadata, length)
    VALUES ($1, $2, $3, cardinality($4::text[]))
    RETURNING id, metadata, extract(epoch FROM created_at)::bigint AS created_at
), added AS (
    INSERT INTO longrun.conversation_items (conversation_id, position, id, item)
    SELECT created.id, given.place - 1, given.id, given.item
    FROM created
    CROSS JOIN unnest($4::text[], $5::text[]) WITH ORDINALITY AS given (id, item, place)
), durable AS MATERIALIZED (
    -- As in append_log.
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
)
SELECT created.id, created.metadata, created.created_at FROM durable CROSS JOIN created;

-- name: get_conversation_owner_unscoped
SELECT principal FROM longrun.conversations WHERE id = $1;

-- name: get_conversation
SELECT id, metadata, extract(epoch FROM created_at)::bigint AS created_at
FROM longrun.conversations
WHERE id = $1 AND principal = $2;

-- name: update_conversation
UPDATE longrun.conversations
SET metadata = $3, used_at = now()
WHERE id = $1 AND principal = $2
RETURNING id, metadata, extract(epoch FROM created_at)::bigint AS created_at;

-- name: delete_conversation
-- With its items, also those that are being added: the foreign key sees them.
DELETE FROM longrun.conversations WHERE id = $1 AND principal = $2 RETURNING id;

-- name: add_conversation_items
WITH conversation AS (
    UPDATE longrun.conversations
    SET used_at = now(), length = length + cardinality($3::text[])
    WHERE id = $1 AND principal = $2
    RETURNING id, length - cardinality($3::text[]) AS first
), added AS (
    INSERT INTO longrun.conversation_items (conversation_id, position, id, item)
    SELECT conversation.id, conversation.first + given.place - 1, given.id, given.item
    FROM conversation
    CROSS JOIN unnest($3::text[], $4::text[]) WITH ORDINALITY AS given (id, item, place)
), durable AS MATERIALIZED (
    -- As in append_log.
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
)
SELECT conversation.id FROM durable CROSS JOIN conversation;

-- name: find_conversation_item
-- One item of a principal's conversation, and its position.
SELECT item.id, item.item, item.position
FROM longrun.conversations AS conversation
JOIN longrun.conversation_items AS item ON item.conversation_id = conversation.id
WHERE conversation.id = $1 AND conversation.principal = $2 AND item.id = $3;

-- name: list_conversation_items_oldest
-- Which a page of a conversation's items has, the oldest first, how many bytes each of them has, and the
-- short ones themselves.
SELECT item.id, octet_length(item.item) AS bytes,
    CASE WHEN octet_length(item.item) <= :short THEN item.item END AS item
FROM longrun.conversations AS conversation
JOIN longrun.conversation_items AS item ON item.conversation_id = conversation.id
WHERE conversation.id = :conversation_id AND conversation.principal = :principal
    AND item.position > :after -- optional
ORDER BY item.position
LIMIT :limit;

-- name: list_conversation_items_newest
-- Which a page of a conversation's items has, the newest first, how many bytes each of them has, and the
-- short ones themselves.
SELECT item.id, octet_length(item.item) AS bytes,
    CASE WHEN octet_length(item.item) <= :short THEN item.item END AS item
FROM longrun.conversations AS conversation
JOIN longrun.conversation_items AS item ON item.conversation_id = conversation.id
WHERE conversation.id = :conversation_id AND conversation.principal = :principal
    AND item.position < :after -- optional
ORDER BY item.position DESC
LIMIT :limit;

-- name: get_conversation_items
-- Some of the items of a principal's conversation.
SELECT item.id, item.item
FROM longrun.conversations AS conversation
JOIN longrun.conversation_items AS item ON item.conversation_id = conversation.id
WHERE conversation.id = $1 AND conversation.principal = $2 AND item.id = ANY($3::text[]);

-- name: measure_conversation_items
-- Of some of the items of a principal's conversation, how many bytes each of them has.
SELECT item.id, octet_length(item.item) AS bytes
FROM longrun.conversations AS conversation
JOIN longrun.conversation_items AS item ON item.conversation_id = conversation.id
WHERE conversation.id = $1 AND conversation.principal = $2 AND item.id = ANY($3::text[]);

-- name: read_conversation
-- What a principal's response reads of its conversation: what was said when it began, and is still
-- there. A fork reads what the one that it was forked from did.
SELECT item.conversation_id, item.id, item.item, item.model
FROM longrun.responses AS response
JOIN longrun.conversation_items AS item
    ON item.conversation_id = coalesce(response.conversation_id, response.forked_conversation_id)
    AND item.position < coalesce(response.forked_context_end, response.context_end)
WHERE response.id = $1 AND response.principal = $2
ORDER BY item.position;

-- name: read_whole_conversation
SELECT item.conversation_id, item.id, item.item, item.model
FROM longrun.conversations AS conversation
JOIN longrun.conversation_items AS item ON item.conversation_id = conversation.id
WHERE conversation.id = $1 AND conversation.principal = $2
ORDER BY item.position;

-- name: delete_conversation_item
DELETE FROM longrun.conversation_items AS item
USING longrun.conversations AS conversation
WHERE conversation.id = $1 AND conversation.principal = $2
    AND item.conversation_id = conversation.id AND item.id = $3
RETURNING item.id;

-- name: expire_conversations
-- Some that nothing was done with for so many seconds, and that no live response is on.
DELETE FROM longrun.conversations
WHERE id IN (
    SELECT conversation.id FROM longrun.conversations AS conversation
    WHERE conversation.used_at < now() - make_interval(secs => $1)
        AND NOT EXISTS (
            SELECT FROM longrun.responses AS response
            WHERE response.conversation_id = conversation.id
                AND response.status IN ('queued', 'in_progress')
        )
    ORDER BY conversation.used_at
    LIMIT 100
    FOR UPDATE SKIP LOCKED
)
RETURNING id;
