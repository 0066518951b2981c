-- name: find_runs
-- A page of a principal's responses, the newest first, by the traits of its list, and which text
-- their inputs have: looked for in no more than :scan of them, and in the first 20,000 characters
-- of each. `scanned` is the last that was looked at, null where there are no more. Each status
-- is asked for by itself, so that the index by status answers in order.
WITH scanned AS MATERIALIZED (
    SELECT found.id
    FROM
-- optional :statuses
    unnest(:statuses::text[]) AS wanted (status) CROSS JOIN LATERAL
-- end
    (
        SELECT response.id FROM longrun.responses AS response
        WHERE response.principal = :principal AND response.stored
-- optional :statuses
            AND response.status = wanted.status
-- end
            AND response.id < :after -- optional
            AND response.id >= :from_id -- optional
            AND response.id <= :to_id -- optional
            AND response.agent = :agent -- optional
-- optional :sought_hashes
            AND response.metadata_hashes && :any_hashes::bigint[]
            AND EXISTS (
                SELECT FROM unnest(:sought_hashes::text[]) AS sought (hashes)
                WHERE response.metadata_hashes @> sought.hashes::bigint[]
            )
-- end
        ORDER BY response.id DESC
        LIMIT :scan
    ) AS found
    ORDER BY found.id DESC
    LIMIT :scan
)
SELECT
    ARRAY(
        SELECT scanned.id FROM scanned
-- optional :text
        JOIN longrun.responses AS response ON response.id = scanned.id
            AND position(lower(:text) IN lower(left(response.input, 20000))) > 0
-- end
        ORDER BY scanned.id DESC
        LIMIT :limit
    ) AS ids,
    (SELECT min(scanned.id) FROM scanned HAVING count(*) = :scan) AS scanned;

-- name: find_runs_unscoped
-- As find_runs, whoever's they are: for admins.
WITH scanned AS MATERIALIZED (
    SELECT found.id
    FROM
-- optional :statuses
    unnest(:statuses::text[]) AS wanted (status) CROSS JOIN LATERAL
-- end
    (
        SELECT response.id FROM longrun.responses AS response
        WHERE response.stored
-- optional :statuses
            AND response.status = wanted.status
-- end
            AND response.id < :after -- optional
            AND response.id >= :from_id -- optional
            AND response.id <= :to_id -- optional
            AND response.agent = :agent -- optional
-- optional :sought_hashes
            AND response.metadata_hashes && :any_hashes::bigint[]
            AND EXISTS (
                SELECT FROM unnest(:sought_hashes::text[]) AS sought (hashes)
                WHERE response.metadata_hashes @> sought.hashes::bigint[]
            )
-- end
        ORDER BY response.id DESC
        LIMIT :scan
    ) AS found
    ORDER BY found.id DESC
    LIMIT :scan
)
SELECT
    ARRAY(
        SELECT scanned.id FROM scanned
-- optional :text
        JOIN longrun.responses AS response ON response.id = scanned.id
            AND position(lower(:text) IN lower(left(response.input, 20000))) > 0
-- end
        ORDER BY scanned.id DESC
        LIMIT :limit
    ) AS ids,
    (SELECT min(scanned.id) FROM scanned HAVING count(*) = :scan) AS scanned;

-- name: get_runs
-- How these responses were run, the newest first, as long as they are there and theirs. Of a long
-- input only its beginning, which cannot be opened where it is encrypted. `cut`: it is one.
SELECT response.id, response.principal, response.agent, response.status, response.background,
    response.attempt, response.spent, response.deaths, response.handovers, response.replica_id,
    response.previous_id, response.conversation_id, response.document,
    CASE WHEN octet_length(response.input) <= 16384 THEN response.input
        WHEN left(response.input, 7) <> 'sealed:' THEN left(response.input, 4096) END AS input,
    octet_length(response.input) > 16384 AS cut,
    extract(epoch FROM response.created_at)::double precision AS created_at,
    extract(epoch FROM response.finished_at)::double precision AS finished_at,
    coalesce((
        SELECT chunk.last + 1 FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = response.id ORDER BY chunk.last DESC LIMIT 1
    ), 0) AS events,
    EXISTS (
        SELECT FROM longrun.parked WHERE parked.response_id = response.id AND NOT EXISTS (
            SELECT FROM longrun.answers WHERE answers.response_id = parked.response_id
        )
    ) AS waits
FROM longrun.responses AS response
WHERE response.id = ANY($1::text[]) AND response.stored
    AND response.principal = $2
ORDER BY response.id DESC;

-- name: get_runs_unscoped
-- As get_runs, whoever's they are: for admins.
SELECT response.id, response.principal, response.agent, response.status, response.background,
    response.attempt, response.spent, response.deaths, response.handovers, response.replica_id,
    response.previous_id, response.conversation_id, response.document,
    CASE WHEN octet_length(response.input) <= 16384 THEN response.input
        WHEN left(response.input, 7) <> 'sealed:' THEN left(response.input, 4096) END AS input,
    octet_length(response.input) > 16384 AS cut,
    extract(epoch FROM response.created_at)::double precision AS created_at,
    extract(epoch FROM response.finished_at)::double precision AS finished_at,
    coalesce((
        SELECT chunk.last + 1 FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = response.id ORDER BY chunk.last DESC LIMIT 1
    ), 0) AS events,
    EXISTS (
        SELECT FROM longrun.parked WHERE parked.response_id = response.id AND NOT EXISTS (
            SELECT FROM longrun.answers WHERE answers.response_id = parked.response_id
        )
    ) AS waits
FROM longrun.responses AS response
WHERE response.id = ANY($1::text[]) AND response.stored
ORDER BY response.id DESC;
