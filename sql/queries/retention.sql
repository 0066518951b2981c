-- Retention: what is past its time goes, in small batches, by one replica at a time.

-- name: lock_expired
-- Some responses whose time is over, the longest finished first, held until the transaction ends, and
-- how many chunks each has (no more than $3 are counted). None of a response that somebody reads, or
-- that is locked just now; none at all while another replica is at it ($2 is the schema). Two lookups,
-- each by an index of its own: what this costs does not grow with what is stored.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended('longrun retention ' || $2, 0)) AS taken
), due AS (
    (
        SELECT id FROM longrun.responses
        WHERE finished_at < now() - make_interval(secs => $1)
            AND (read_until IS NULL OR read_until < now())
        ORDER BY finished_at
        LIMIT 100
    ) UNION (
        SELECT id FROM longrun.responses
        WHERE NOT stored AND finished_at IS NOT NULL AND finished_at < now() - interval '1 minute'
            AND (read_until IS NULL OR read_until < now())
        ORDER BY finished_at
        LIMIT 100
    )
)
SELECT response.id, (
    SELECT count(*)
    FROM (SELECT FROM longrun.event_chunks WHERE response_id = response.id LIMIT $3) AS counted
) AS chunks
FROM due
JOIN longrun.responses AS response ON response.id = due.id
WHERE (SELECT turn.taken FROM turn) AND (response.read_until IS NULL OR response.read_until < now())
ORDER BY response.finished_at
FOR UPDATE OF response SKIP LOCKED;

-- name: delete_expired
-- After lock_expired in the same transaction, as a statement of its own: so that it sees what whoever
-- held one of them before has written.
WITH chunks AS (
    DELETE FROM longrun.event_chunks WHERE response_id = ANY($1::text[])
), items AS (
    DELETE FROM longrun.items WHERE response_id = ANY($1::text[])
), steps AS (
    DELETE FROM longrun.steps WHERE response_id = ANY($1::text[])
)
DELETE FROM longrun.responses WHERE id = ANY($1::text[]);

-- name: note_readers
-- These are read here: what would go soon stays for another minute.
UPDATE longrun.responses SET read_until = now() + interval '1 minute'
WHERE id = ANY($1::text[]) AND finished_at IS NOT NULL AND (
    NOT stored OR finished_at < now() - make_interval(secs => $2) + interval '5 minutes'
);
