-- Partitions: ranges of ids, made ahead, dropped when all in them has expired. What changes a table is
-- a function of its owner's (migration 15).

-- name: look_at_partitions
SELECT of_table, ranges, ranges_until, rest_first, rest_last, rest_until, fits, seen_at
FROM longrun.look_at_partitions();

-- name: take_partitions
-- Whether it is this replica's turn to change partitions, until the transaction ends. $1 is the schema.
-- A statement after this has $2 milliseconds, 0: as long as it takes.
SELECT pg_try_advisory_xact_lock(hashtextextended('longrun partitions ' || $1, 0)) AS taken,
    set_config('statement_timeout', $2::integer::text, true);

-- name: add_partition
SELECT longrun.add_partition($1, $2);

-- name: begin_range
SELECT longrun.begin_range($1, $2);

-- name: validate_range
SELECT longrun.validate_range($1);

-- name: give_up_range
SELECT longrun.give_up_range($1);

-- name: finish_range
SELECT longrun.finish_range($1);

-- name: find_empty_partitions
-- Ranges that ended before $1, and of which no response is left.
SELECT part.of_table, part.first, part.until FROM longrun.partitions AS part
WHERE part.until < $1 AND NOT EXISTS (
    SELECT FROM longrun.responses AS response
    WHERE response.id >= part.first AND response.id < part.until
)
ORDER BY part.until, part.of_table;

-- name: drop_partition
SELECT longrun.drop_partition($1, $2);

-- name: find_misjudged
-- Tables that Postgres takes for much smaller than they are when it plans, since nobody has looked at
-- them for some time; and those that it knows to be empty, where that can be forgotten (migration 19):
-- what it would plan for these, and keep, reads all of them.
SELECT class.relname AS name
FROM pg_class AS class
CROSS JOIN LATERAL (
    SELECT pg_relation_size(class.oid) / current_setting('block_size')::integer AS pages
) AS now
WHERE class.relkind = 'r'
    AND class.relnamespace = (
        SELECT relnamespace FROM pg_class WHERE oid = 'longrun.responses'::regclass
    )
    AND (
        now.pages > 2 * class.relpages + 100
        OR now.pages = 0 AND class.reltuples = 0
            AND current_setting('server_version_num')::integer >= 180000
    )
ORDER BY class.relname;

-- name: renew_statistics
SELECT longrun.renew_statistics($1);

-- name: find_late_partitions
-- Ranges in which rows wait for more than $1 seconds for all of it to be dropped.
SELECT of_table, first, until, left_at FROM longrun.partitions
WHERE left_at < now() - make_interval(secs => $1)
ORDER BY until, of_table;

-- name: note_swept
-- Nothing waits in this range any more that did at $3, when it was first left there.
UPDATE longrun.partitions SET left_at = NULL WHERE of_table = $1 AND first = $2 AND left_at = $3;

-- name: sweep_chunks
-- The rows of responses that are gone, of up to 100 ids from $1 on and before $2. `next`: the id to go on
-- after; null: that was the last one.
WITH RECURSIVE walk AS (
    (
        SELECT response_id AS id, 1 AS n FROM longrun.event_chunks
        WHERE response_id >= $1 AND response_id < $2 ORDER BY response_id LIMIT 1
    )
    UNION ALL
    SELECT next.id, walk.n + 1
    FROM walk
    CROSS JOIN LATERAL (
        SELECT response_id AS id FROM longrun.event_chunks
        WHERE response_id > walk.id AND response_id < $2 ORDER BY response_id LIMIT 1
    ) AS next
    WHERE walk.n < 100
), gone AS (
    DELETE FROM longrun.event_chunks WHERE response_id = ANY(ARRAY(
        SELECT walk.id FROM walk
        WHERE NOT EXISTS (SELECT FROM longrun.responses WHERE id = walk.id)
    ))
)
SELECT max(id) AS next FROM walk HAVING count(*) = 100;

-- name: sweep_items
-- As sweep_chunks.
WITH RECURSIVE walk AS (
    (
        SELECT response_id AS id, 1 AS n FROM longrun.items
        WHERE response_id >= $1 AND response_id < $2 ORDER BY response_id LIMIT 1
    )
    UNION ALL
    SELECT next.id, walk.n + 1
    FROM walk
    CROSS JOIN LATERAL (
        SELECT response_id AS id FROM longrun.items
        WHERE response_id > walk.id AND response_id < $2 ORDER BY response_id LIMIT 1
    ) AS next
    WHERE walk.n < 100
), gone AS (
    DELETE FROM longrun.items WHERE response_id = ANY(ARRAY(
        SELECT walk.id FROM walk
        WHERE NOT EXISTS (SELECT FROM longrun.responses WHERE id = walk.id)
    ))
)
SELECT max(id) AS next FROM walk HAVING count(*) = 100;

-- name: sweep_steps
-- As sweep_chunks.
WITH RECURSIVE walk AS (
    (
        SELECT response_id AS id, 1 AS n FROM longrun.steps
        WHERE response_id >= $1 AND response_id < $2 ORDER BY response_id LIMIT 1
    )
    UNION ALL
    SELECT next.id, walk.n + 1
    FROM walk
    CROSS JOIN LATERAL (
        SELECT response_id AS id FROM longrun.steps
        WHERE response_id > walk.id AND response_id < $2 ORDER BY response_id LIMIT 1
    ) AS next
    WHERE walk.n < 100
), gone AS (
    DELETE FROM longrun.steps WHERE response_id = ANY(ARRAY(
        SELECT walk.id FROM walk
        WHERE NOT EXISTS (SELECT FROM longrun.responses WHERE id = walk.id)
    ))
)
SELECT max(id) AS next FROM walk HAVING count(*) = 100;
