-- Encryption at rest: which keys there are, and what is not yet encrypted as it should be. A value
-- is as it should be when it begins with :prefix, if that is :wanted, and else when it does not; a
-- chunk by the bytes with its key's id (store/sealing.py).

-- name: list_encryption_keys
SELECT id, check_value FROM longrun.encryption_keys ORDER BY id;

-- name: note_encryption_key
-- A replica encrypts with this key.
INSERT INTO longrun.encryption_keys AS known (id, check_value) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET used_at = now() WHERE known.check_value = excluded.check_value;

-- name: forget_encryption_key
DELETE FROM longrun.encryption_keys WHERE id = $1 RETURNING id;

-- name: forget_unused_keys
-- Nothing is encrypted with another key than this one (null: with any), but by replicas that are
-- about to.
DELETE FROM longrun.encryption_keys
WHERE id IS DISTINCT FROM $1 AND used_at < now() - interval '1 minute'
RETURNING id;

-- name: find_other_responses
SELECT id, document, input, request, reason FROM longrun.responses
WHERE id > :after_id AND (
    starts_with(document, :prefix) <> :wanted OR starts_with(input, :prefix) <> :wanted
    OR starts_with(request, :prefix) <> :wanted OR starts_with(reason, :prefix) <> :wanted
)
ORDER BY id
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_response
UPDATE longrun.responses
SET document = $2, input = $3, request = $4, reason = $5, metadata_hashes = $6::bigint[]
WHERE id = $1;

-- name: find_other_chunks
SELECT response_id, last, first, data FROM longrun.event_chunks
WHERE (response_id, last) > (:after_id, :after_last::bigint) AND (
    get_byte(substring(data FOR 1), 0) = 1
    AND substring(data FROM 7 FOR octet_length(:key_id::bytea)) = :key_id
) <> :wanted
ORDER BY response_id, last
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_chunk
UPDATE longrun.event_chunks SET data = $3 WHERE response_id = $1 AND last = $2;

-- name: find_other_digests
SELECT response_id, last, first, data FROM longrun.digests
WHERE (response_id, last) > (:after_id, :after_last::bigint) AND (
    get_byte(substring(data FOR 1), 0) = 1
    AND substring(data FROM 7 FOR octet_length(:key_id::bytea)) = :key_id
) <> :wanted
ORDER BY response_id, last
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_digest
UPDATE longrun.digests SET data = $3 WHERE response_id = $1 AND last = $2;

-- name: find_other_items
SELECT response_id, output_index, item, model FROM longrun.items
WHERE (response_id, output_index) > (:after_id, :after_index::integer)
    AND (starts_with(item, :prefix) <> :wanted OR starts_with(model, :prefix) <> :wanted)
ORDER BY response_id, output_index
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_item
UPDATE longrun.items SET item = $3, model = $4 WHERE response_id = $1 AND output_index = $2;

-- name: find_other_steps
SELECT response_id, scope, kind, key, fingerprint, result FROM longrun.steps
WHERE (response_id, scope, kind, key) > (:after_id, :after_scope, :after_kind, :after_key)
    AND (starts_with(fingerprint, :prefix) <> :wanted OR starts_with(result, :prefix) <> :wanted)
ORDER BY response_id, scope, kind, key
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_step
UPDATE longrun.steps SET fingerprint = $5, result = $6
WHERE response_id = $1 AND scope = $2 AND kind = $3 AND key = $4;

-- name: find_other_parked
SELECT response_id, state FROM longrun.parked
WHERE response_id > :after_id AND starts_with(state, :prefix) <> :wanted
ORDER BY response_id
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_parked
UPDATE longrun.parked SET state = $2 WHERE response_id = $1;

-- name: find_other_steers
SELECT response_id, number, item FROM longrun.steers
WHERE (response_id, number) > (:after_id, :after_number::integer)
    AND starts_with(item, :prefix) <> :wanted
ORDER BY response_id, number
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_steer
UPDATE longrun.steers SET item = $3 WHERE response_id = $1 AND number = $2;

-- name: find_other_conversations
SELECT id, metadata FROM longrun.conversations
WHERE id > :after_id AND starts_with(metadata, :prefix) <> :wanted
ORDER BY id
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_conversation
UPDATE longrun.conversations SET metadata = $2 WHERE id = $1;

-- name: find_other_conversation_items
SELECT conversation_id, position, id, item, model FROM longrun.conversation_items
WHERE (conversation_id, position) > (:after_id, :after_position::bigint)
    AND (starts_with(item, :prefix) <> :wanted OR starts_with(model, :prefix) <> :wanted)
ORDER BY conversation_id, position
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_conversation_item
UPDATE longrun.conversation_items SET item = $3, model = $4
WHERE conversation_id = $1 AND position = $2;

-- name: find_other_webhook_endpoints
SELECT id, document FROM longrun.webhook_endpoints
WHERE id > :after_id AND starts_with(document, :prefix) <> :wanted
ORDER BY id
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: rewrite_webhook_endpoint
UPDATE longrun.webhook_endpoints SET document = $2 WHERE id = $1;
