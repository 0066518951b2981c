-- Claims: how a replica becomes the one that executes a response. Each grows the attempt by one,
-- which fences every writer before it; each waits for an append that is under way.

-- name: claim_queued
-- The oldest that wait, fair between principals: who has fewer runs and is earlier in the line
-- of its own comes first.
WITH busy AS (
    SELECT principal, count(*) AS runs FROM longrun.responses
    WHERE status = 'in_progress' GROUP BY principal
), line AS (
    SELECT queued.id,
        row_number() OVER (PARTITION BY queued.principal ORDER BY queued.id)
            + coalesce(busy.runs, 0) AS turn
    FROM longrun.responses AS queued
    LEFT JOIN busy ON busy.principal = queued.principal
    WHERE queued.status = 'queued' AND ($3::text[] IS NULL OR queued.agent = ANY($3))
), next AS (
    SELECT response.id
    FROM longrun.responses AS response
    JOIN line ON line.id = response.id
    WHERE response.status = 'queued'
    ORDER BY line.turn, response.id
    LIMIT $2
    FOR UPDATE OF response SKIP LOCKED
)
UPDATE longrun.responses AS response
SET status = 'in_progress', attempt = response.attempt + 1, spent = response.spent + 1,
    replica_id = $1
FROM next
WHERE response.id = next.id
RETURNING response.id, response.attempt;

-- name: claim_orphans
-- Runs of replicas that are gone, and runs that were handed over, which uses up no attempt.
-- Of agents that are served here: while a new version is rolled out, not all serve the same.
WITH next AS (
    SELECT id, replica_id FROM longrun.responses
    WHERE status = 'in_progress' AND (replica_id = ANY($2::text[]) OR replica_id IS NULL)
        AND ($4::text[] IS NULL OR agent = ANY($4) OR cancelled)
    ORDER BY id
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE longrun.responses AS response
SET attempt = response.attempt + 1, replica_id = $1,
    spent = response.spent + CASE WHEN next.replica_id IS NULL THEN 0 ELSE 1 END
FROM next
WHERE response.id = next.id
RETURNING response.id, response.attempt;

-- name: claim_to_end
-- One response, whoever holds it, in order to end it. Decides between its own end and this.
UPDATE longrun.responses AS response
SET status = 'in_progress', attempt = response.attempt + 1, replica_id = $1,
    cancelled = response.cancelled OR $3
WHERE response.id = $2 AND response.status IN ('queued', 'in_progress')
RETURNING response.id, response.attempt;

-- name: claim_to_end_attempt
-- One response from the attempt that executes it here, and has broken off.
UPDATE longrun.responses AS response
SET attempt = response.attempt + 1, replica_id = $1
WHERE response.id = $2 AND response.attempt = $3 AND response.status = 'in_progress'
RETURNING response.id, response.attempt;

-- name: get_claims
-- What was claimed, as long as it is held as this attempt.
SELECT response.id, response.principal, response.agent, response.background, response.stored,
    response.document, response.input, response.request, response.previous_id,
    response.attempt, response.spent, response.cancelled, response.deadline_at < now() AS overdue
FROM unnest($1::text[], $2::integer[]) WITH ORDINALITY AS claim (id, attempt, place)
JOIN longrun.responses AS response
    ON response.id = claim.id AND response.attempt = claim.attempt
ORDER BY claim.place;

-- name: release
-- Hand runs over: whoever is free goes on, with the next attempt.
UPDATE longrun.responses AS response
SET replica_id = NULL
FROM unnest($1::text[], $2::integer[]) AS run (id, attempt)
WHERE response.id = run.id AND response.attempt = run.attempt
    AND response.status = 'in_progress';

-- name: list_own
SELECT id, attempt FROM longrun.responses
WHERE status = 'in_progress' AND replica_id = $1;

-- name: list_items
SELECT output_index, item FROM longrun.items WHERE response_id = $1 ORDER BY output_index;

-- name: list_steps
SELECT scope, kind, key, fingerprint, result FROM longrun.steps WHERE response_id = $1;

-- name: drop_items
-- Items of a turn that was not finished: it is asked again.
DELETE FROM longrun.items AS item
USING longrun.responses AS response
WHERE item.response_id = $1 AND item.output_index = ANY($3::integer[])
    AND response.id = $1 AND response.attempt = $2;
