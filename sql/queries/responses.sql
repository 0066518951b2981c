-- name: create_response
-- The response and the first events of its log, in one commit. Nothing is inserted when it
-- would have to wait and :max_queued wait already.
WITH created AS (
    INSERT INTO longrun.responses
        (id, principal, agent, status, background, stored, attempt, spent, replica_id,
         document, input, request, deadline_at)
    SELECT :id, :principal, :agent, :status, :background, :stored, :attempt::integer, :attempt,
        :replica_id, :document, :input, :request, now() + make_interval(secs => :run_timeout)
    WHERE :status <> 'queued' OR :max_queued > (
        SELECT count(*)
        FROM (SELECT FROM longrun.responses WHERE status = 'queued' LIMIT :max_queued) AS waiting
    )
    RETURNING id, attempt
)
INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
SELECT id, 0, :last, attempt, :events FROM created
RETURNING response_id;

-- name: get_response
SELECT id, agent, status, background, document,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id
        ORDER BY item.output_index
    ) AS output
FROM longrun.responses AS response
WHERE id = $1 AND principal = $2 AND stored;

-- name: get_response_unscoped
SELECT id, agent, status, background, document,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id
        ORDER BY item.output_index
    ) AS output
FROM longrun.responses AS response
WHERE id = $1;

-- name: get_exchange
-- What a next response continues: everything that this one was given and gave.
SELECT status, input,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id
        ORDER BY item.output_index
    ) AS output
FROM longrun.responses AS response
WHERE id = $1 AND principal = $2 AND stored;

-- name: lock_response_unscoped
SELECT status FROM longrun.responses WHERE id = $1 FOR UPDATE;

-- name: lock_response_of
SELECT status FROM longrun.responses WHERE id = $1 AND principal = $2 AND stored FOR UPDATE;

-- name: delete_response
-- After lock_response_of or lock_response_unscoped in the same transaction, so that no append
-- can come in between.
WITH chunks AS (
    DELETE FROM longrun.event_chunks WHERE response_id = $1
), items AS (
    DELETE FROM longrun.items WHERE response_id = $1
), steps AS (
    DELETE FROM longrun.steps WHERE response_id = $1
)
DELETE FROM longrun.responses WHERE id = $1;

-- name: find_expired
SELECT id FROM longrun.responses
WHERE finished_at < now() - make_interval(secs => $1)
    OR (NOT stored AND finished_at < now() - interval '1 minute')
ORDER BY finished_at
LIMIT 100;
