-- Retention: what is past its time goes, in small batches, by one replica at a time.

-- name: lock_expired
-- Some responses whose time is over, the longest finished first, held until the transaction ends, and
-- how many chunks of each are to be deleted (no more than $3 are counted): none of what stays in a
-- partition that ends before $4, as in delete_expired. None of a response that somebody reads, or
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
SELECT response.id, response.stored, (
    SELECT count(*)
    FROM (
        SELECT FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = response.id AND NOT (
            response.stored AND EXISTS (
                SELECT FROM longrun.partitions AS part
                WHERE part.of_table = 'event_chunks' AND part.until <= $4
                    AND response.id >= part.first AND response.id < part.until
            )
        )
        ORDER BY chunk.last
        LIMIT $3
    ) AS counted
) AS chunks
FROM due
JOIN longrun.responses AS response ON response.id = due.id
WHERE (SELECT turn.taken FROM turn) AND (response.read_until IS NULL OR response.read_until < now())
ORDER BY response.finished_at
FOR UPDATE OF response SKIP LOCKED;

-- name: delete_expired
-- After lock_expired in the same transaction, as a statement of its own: so that it sees what whoever
-- held one of them before has written. Of those in $2, rows are left in partitions that end before $3,
-- which soon go as a whole; `left_at` says since when some are.
WITH going AS MATERIALIZED (
    SELECT of_table, first, until, left_at FROM longrun.partitions WHERE until <= $3
), noted AS (
    UPDATE longrun.partitions AS part SET left_at = now()
    FROM going
    WHERE part.of_table = going.of_table AND part.first = going.first AND going.left_at IS NULL
        AND part.left_at IS NULL AND EXISTS (
            SELECT FROM unnest($2::text[]) AS kept (id)
            WHERE kept.id >= going.first AND kept.id < going.until
        )
), chunks AS (
    DELETE FROM longrun.event_chunks WHERE response_id = ANY(ARRAY(
        SELECT expired.id FROM unnest($1::text[]) AS expired (id)
        WHERE expired.id <> ALL($2::text[]) OR NOT EXISTS (
            SELECT FROM going
            WHERE of_table = 'event_chunks' AND expired.id >= first AND expired.id < until
        )
    ))
), items AS (
    DELETE FROM longrun.items WHERE response_id = ANY(ARRAY(
        SELECT expired.id FROM unnest($1::text[]) AS expired (id)
        WHERE expired.id <> ALL($2::text[]) OR NOT EXISTS (
            SELECT FROM going
            WHERE of_table = 'items' AND expired.id >= first AND expired.id < until
        )
    ))
), steps AS (
    DELETE FROM longrun.steps WHERE response_id = ANY(ARRAY(
        SELECT expired.id FROM unnest($1::text[]) AS expired (id)
        WHERE expired.id <> ALL($2::text[]) OR NOT EXISTS (
            SELECT FROM going
            WHERE of_table = 'steps' AND expired.id >= first AND expired.id < until
        )
    ))
)
DELETE FROM longrun.responses WHERE id = ANY($1::text[]);

-- name: note_readers
-- These are read here: what would go soon stays for another minute.
UPDATE longrun.responses SET read_until = now() + interval '1 minute'
WHERE id = ANY($1::text[]) AND finished_at IS NOT NULL AND (
    NOT stored OR finished_at < now() - make_interval(secs => $2) + interval '5 minutes'
);

-- name: take_retention
-- Whether it is this replica's turn, until the transaction ends. $1 is the schema.
SELECT pg_try_advisory_xact_lock(hashtextextended('longrun retention ' || $1, 0)) AS taken;

-- name: find_unabridged
-- Responses that ended after $1 and longer than $2 seconds ago, in that order, whose logs are not
-- abridged: those have no chunk from number $3 on (store/abridged.py).
SELECT id, finished_at FROM longrun.responses AS response
WHERE finished_at > $1 AND finished_at < now() - make_interval(secs => $2) AND stored
    AND $3 > coalesce(
        (
            SELECT chunk.last FROM longrun.event_chunks AS chunk
            WHERE chunk.response_id = response.id ORDER BY chunk.last DESC LIMIT 1
        ),
        -1
    )
ORDER BY finished_at
FETCH FIRST 100 ROWS WITH TIES;

-- name: lock_unabridged
-- Nobody else writes to the log of this response until the transaction ends. No row: it is gone, or
-- being read, or somebody holds it just now. `length`: how many events there are.
SELECT (
    SELECT last + 1 FROM longrun.event_chunks WHERE response_id = $1 ORDER BY last DESC LIMIT 1
) AS length
FROM longrun.responses
WHERE id = $1 AND finished_at IS NOT NULL AND (read_until IS NULL OR read_until < now())
FOR NO KEY UPDATE SKIP LOCKED;

-- name: read_whole
-- Chunks of a log after a cursor, at least one if there is any, then as many as fit into $3 bytes.
SELECT page.first, page.last, page.attempt, page.data
FROM (
    SELECT chunk.first, chunk.last, chunk.attempt, chunk.data, octet_length(chunk.data) AS bytes,
        sum(octet_length(chunk.data)) OVER (ORDER BY chunk.last) AS bytes_through
    FROM longrun.event_chunks AS chunk
    WHERE chunk.response_id = $1 AND chunk.last > $2 AND chunk.last < $4
    ORDER BY chunk.last
    LIMIT (SELECT 1000)
) AS page
WHERE page.bytes_through - page.bytes < $3
ORDER BY page.last;

-- name: add_abridged
INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
VALUES ($1, $2, $3, $4, $5);

-- name: drop_whole
DELETE FROM longrun.event_chunks WHERE response_id = $1 AND last < $2;

-- name: get_reached
SELECT finished_at FROM longrun.reached WHERE work = $1;

-- name: note_reached
-- No further than a minute ago: an end may be committed some time after its own time.
INSERT INTO longrun.reached AS known (work, finished_at)
VALUES ($1, least($2, now() - interval '1 minute'))
ON CONFLICT (work) DO UPDATE SET finished_at = greatest(known.finished_at, excluded.finished_at);
