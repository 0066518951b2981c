-- name: append_log
-- One commit for everything that is pending: events, items, steps and ends of many runs.
-- A run's rows are written only while its attempt is the current one: `held` checks that and
-- locks the response against a claim, in the same statement as the writes. A claim in turn
-- makes this wait and then find nothing. Returns the responses that were held; all rows of the
-- others are refused.
WITH held AS MATERIALIZED (
    SELECT response.id, response.attempt
    FROM unnest(:response_ids::text[], :attempts::integer[]) AS run (response_id, attempt)
    JOIN longrun.responses AS response
        ON response.id = run.response_id AND response.attempt = run.attempt
    WHERE response.status = 'in_progress'
    ORDER BY response.id
    FOR SHARE OF response
), new_chunks AS (
    INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
    SELECT chunk.response_id, chunk.first, chunk.last, held.attempt, chunk.data
    FROM unnest(
        :chunk_response_ids::text[], :chunk_firsts::bigint[], :chunk_lasts::bigint[],
        :chunk_data::bytea[]
    ) AS chunk (response_id, first, last, data)
    JOIN held ON held.id = chunk.response_id
), new_items AS (
    INSERT INTO longrun.items (response_id, output_index, item)
    SELECT item.response_id, item.output_index, item.item
    FROM unnest(:item_response_ids::text[], :item_indexes::integer[], :items::text[])
        AS item (response_id, output_index, item)
    JOIN held ON held.id = item.response_id
), new_steps AS (
    INSERT INTO longrun.steps (response_id, scope, kind, key, attempt, fingerprint, result)
    SELECT step.response_id, step.scope, step.kind, step.key, held.attempt,
        step.fingerprint, step.result
    FROM unnest(
        :step_response_ids::text[], :step_scopes::text[], :step_kinds::text[],
        :step_keys::text[], :step_fingerprints::text[], :step_results::text[]
    ) AS step (response_id, scope, kind, key, fingerprint, result)
    JOIN held ON held.id = step.response_id
), ended AS (
    UPDATE longrun.responses AS response
    SET status = ending.status, document = ending.document, finished_at = now(),
        replica_id = NULL
    FROM unnest(:ending_response_ids::text[], :ending_statuses::text[], :ending_documents::text[])
        AS ending (response_id, status, document)
    JOIN held ON held.id = ending.response_id
    WHERE response.id = ending.response_id
)
SELECT id FROM held;

-- name: find_chunks
-- Which of these chunks are in the log, written by these very attempts. Asked when it is not
-- known whether an append committed.
SELECT chunk.response_id
FROM unnest($1::text[], $2::bigint[], $3::integer[]) AS wanted (response_id, last, attempt)
JOIN longrun.event_chunks AS chunk
    ON chunk.response_id = wanted.response_id
    AND chunk.last = wanted.last
    AND chunk.attempt = wanted.attempt;

-- name: find_steps
-- The same for appends that brought only steps.
SELECT step.response_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[])
    AS wanted (response_id, scope, kind, key, attempt)
JOIN longrun.steps AS step
    ON step.response_id = wanted.response_id
    AND step.scope = wanted.scope
    AND step.kind = wanted.kind
    AND step.key = wanted.key
    AND step.attempt = wanted.attempt;

-- name: read_page
-- Chunks after a cursor, at least one if there is any, then as many as fit into $3 bytes.
SELECT page.first, page.last, page.data
FROM (
    SELECT chunk.first, chunk.last, chunk.data,
        sum(octet_length(chunk.data)) OVER (ORDER BY chunk.last) AS bytes_through,
        octet_length(chunk.data) AS bytes
    FROM longrun.event_chunks AS chunk
    WHERE chunk.response_id = $1 AND chunk.last > $2
    ORDER BY chunk.last
    LIMIT 2000
) AS page
WHERE page.bytes_through - page.bytes < $3
ORDER BY page.last;

-- name: read_item_page
-- Chunks after a cursor, as read_page has them, but only those in which an item begins or ends; at least one if there is any, then
-- as many as fit into $3 bytes.
SELECT page.first, page.last, page.data
FROM (
    SELECT chunk.first, chunk.last, chunk.data,
        sum(octet_length(chunk.data)) OVER (ORDER BY chunk.last) AS bytes_through,
        octet_length(chunk.data) AS bytes
    FROM longrun.event_chunks AS chunk
    WHERE chunk.response_id = $1 AND chunk.last > $2
        AND position('{"type":"response.output_item.'::bytea IN chunk.data) > 0
    ORDER BY chunk.last
    LIMIT 2000
) AS page
WHERE page.bytes_through - page.bytes < $3
ORDER BY page.last;

-- name: read_end
SELECT first, last, data FROM longrun.event_chunks
WHERE response_id = $1 ORDER BY last DESC LIMIT 1;

-- name: read_news
-- The chunks after a position of each of many responses, $3 bytes of each; `deleted` for one
-- that no longer exists.
SELECT wanted.response_id, response.id IS NULL AS deleted, news.first, news.last, news.data
FROM unnest($1::text[], $2::bigint[]) AS wanted (response_id, after)
LEFT JOIN longrun.responses AS response ON response.id = wanted.response_id
LEFT JOIN LATERAL (
    SELECT page.first, page.last, page.data
    FROM (
        SELECT chunk.first, chunk.last, chunk.data,
            sum(octet_length(chunk.data)) OVER (ORDER BY chunk.last) AS bytes_through,
            octet_length(chunk.data) AS bytes
        FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = wanted.response_id AND chunk.last > wanted.after
        ORDER BY chunk.last
        LIMIT 2000
    ) AS page
    WHERE page.bytes_through - page.bytes < $3
    ORDER BY page.last
) AS news ON true
ORDER BY wanted.response_id, news.last;

-- name: announce
-- Each text is one message. Never in the transaction of an append: a notifying commit holds a
-- lock that is one for the whole cluster.
SELECT pg_notify(channel, message) FROM unnest($1::text[], $2::text[]) AS told (channel, message);
