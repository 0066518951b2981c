-- Idempotency keys: create_response and create_responses (responses.sql) claim them.

-- name: find_by_key
-- The response that a principal created with a key, by its hashes, in the last $3 seconds; `status` is
-- null where that response is gone. A hash may have been claimed for a response that was not created:
-- by a replica with another ring, in a race for the key that it lost.
SELECT key.response_id, response.status, response.body_hash
FROM longrun.idempotency_keys AS key
LEFT JOIN longrun.responses AS response ON response.id = key.response_id AND response.principal = $1
WHERE key.principal = $1 AND key.hash = ANY($2::bytea[])
    AND key.created_at > now() - make_interval(secs => $3)
ORDER BY response.id IS NULL
LIMIT 1;

-- name: change_awaited
-- $4 more connections wait for the response that was created with a key, or fewer.
UPDATE longrun.idempotency_keys SET awaited = awaited + $4
WHERE principal = $1 AND hash = ANY($2::bytea[]) AND response_id = $3;

-- name: is_awaited
SELECT FROM longrun.idempotency_keys
WHERE principal = $1 AND hash = ANY($2::bytea[]) AND response_id = $3 AND awaited > 0;

-- name: forget_keys
-- Keys that were used longer ago than $1 seconds, the oldest first.
DELETE FROM longrun.idempotency_keys AS key
USING (
    SELECT principal, hash FROM longrun.idempotency_keys
    WHERE created_at < now() - make_interval(secs => $1)
    ORDER BY created_at
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
) AS old
WHERE key.principal = old.principal AND key.hash = old.hash
    AND key.created_at < now() - make_interval(secs => $1)
RETURNING key.response_id;
