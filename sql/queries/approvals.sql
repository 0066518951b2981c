-- name: find_requests
-- Of these places in a principal's responses, those that hold a request for an approval: of which
-- agent, who can read what waits for it, on which conversation it was asked, whether anything was
-- said there since, which response went on, and whether with an answer to this request.
SELECT wanted.response_id, wanted.output_index, response.agent, response.conversation_id,
    EXISTS (
        SELECT FROM longrun.conversation_items AS item
        WHERE item.conversation_id = response.conversation_id AND item.position > (
            SELECT max(said.position) FROM longrun.conversation_items AS said
            WHERE said.response_id = response.id
        )
    ) AS passed,
    parked.format, parked.written_by, answer.answered_by,
    coalesce(wanted.output_index = ANY(answer.requests), false) AS answered
FROM unnest($1::text[], $2::integer[]) AS wanted (response_id, output_index)
JOIN longrun.responses AS response ON response.id = wanted.response_id
    AND response.principal = $3 AND response.stored
JOIN longrun.parked AS parked ON parked.response_id = wanted.response_id
    AND wanted.output_index = ANY(parked.requests)
LEFT JOIN longrun.answers AS answer ON answer.response_id = wanted.response_id;

-- name: read_parked
-- What a response goes on from.
SELECT requests, format, written_by, state FROM longrun.parked WHERE response_id = $1;

-- name: read_request
-- What a principal's response was asked, to make again the context that it had.
SELECT id, principal, agent, background, stored, document, input, request, previous_id,
    conversation_id
FROM longrun.responses
WHERE id = $1 AND principal = $2;
