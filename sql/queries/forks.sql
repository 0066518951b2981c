-- name: read_source
-- What a principal's response was asked, for a fork of it: also how it stands, and what it reads of
-- the conversation that it is on.
SELECT id, principal, agent, background, stored, document, input, request, previous_id,
    conversation_id, status,
    coalesce(conversation_id, forked_conversation_id) AS reads_on,
    coalesce(forked_context_end, context_end) AS reads_until
FROM longrun.responses
WHERE id = $1 AND principal = $2 AND stored;

-- name: read_source_steps
-- The recorded steps of a principal's response, those that it began with as a fork among them, and
-- when each was recorded.
SELECT step.scope, step.kind, step.key, step.fingerprint, step.result,
    extract(epoch FROM step.recorded_at)::double precision AS at
FROM longrun.responses AS response
JOIN longrun.steps AS step ON step.response_id = response.id
WHERE response.id = $1 AND response.principal = $2 AND response.stored;

-- name: read_source_items
-- What these steps refer to.
SELECT item.output_index, item.item
FROM longrun.responses AS response
JOIN longrun.items AS item ON item.response_id = response.id
WHERE response.id = $1 AND response.principal = $2 AND response.stored;
