-- Compaction: the small chunks of finished responses become large ones. What a reader is given, by any
-- query of events.sql, is the same before and after: each asks for chunks that end after a number.

-- name: find_uncompacted
-- The longest finished first; none that is deleted soon anyhow.
SELECT id FROM longrun.responses
WHERE finished_at < now() - make_interval(secs => $1) AND compacted_at IS NULL AND stored
ORDER BY finished_at
LIMIT $2;

-- name: lock_uncompacted
-- Nobody else compacts it, and it is not deleted, until this transaction ends. No row: somebody does
-- so just now, or has. A finished log gets no more events, and is not taken over.
SELECT id FROM longrun.responses
WHERE id = $1 AND finished_at IS NOT NULL AND compacted_at IS NULL
FOR NO KEY UPDATE SKIP LOCKED;

-- name: read_chunks
-- As read_page, with the attempts, as they are stored.
SELECT page.first, page.last, page.attempt, page.data
FROM (
    SELECT chunk.first, chunk.last, chunk.attempt, chunk.data, octet_length(chunk.data) AS bytes,
        sum(octet_length(chunk.data)) OVER (ORDER BY chunk.last) AS bytes_through
    FROM longrun.event_chunks AS chunk
    WHERE chunk.response_id = $1 AND chunk.last > $2
    ORDER BY chunk.last
    LIMIT (SELECT 1000)
) AS page
WHERE page.bytes_through - page.bytes < $3
ORDER BY page.last;

-- name: merge_chunks
-- Each of these takes the place of `count` chunks, which end at `first` to `last`. One that is not
-- returned found others there: the transaction must not be committed. It is of many commits, so that
-- there is no time at which its events came.
WITH gone AS (
    DELETE FROM longrun.event_chunks AS chunk
    USING unnest(:firsts::bigint[], :lasts::bigint[]) AS merged (first, last)
    WHERE chunk.response_id = :response_id AND chunk.last BETWEEN merged.first AND merged.last
    RETURNING merged.last AS into_last
), counted AS (
    SELECT gone.into_last, count(*) FROM gone GROUP BY gone.into_last
)
INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data, committed_at)
SELECT :response_id, merged.first, merged.last, merged.attempt, merged.data, NULL
FROM unnest(
    :firsts::bigint[], :lasts::bigint[], :attempts::integer[], :counts::bigint[], :data::bytea[]
) AS merged (first, last, attempt, count, data)
JOIN counted ON counted.into_last = merged.last AND counted.count = merged.count
RETURNING last;

-- name: note_compacted
UPDATE longrun.responses SET compacted_at = now() WHERE id = $1;
