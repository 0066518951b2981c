-- Digests: what stretches of live logs say, with their deltas merged (store/digesting.py).

-- name: find_digested
-- How far the digests of a live response reach; null: it has none. No row: it is not live.
SELECT (
    SELECT digest.last FROM longrun.digests AS digest
    WHERE digest.response_id = response.id ORDER BY digest.last DESC LIMIT 1
) AS last
FROM longrun.responses AS response
WHERE response.id = $1 AND response.status = 'in_progress';

-- name: add_digest
-- In the transaction in which its stretch was read: so a server that has lost the end of the log does not get it.
INSERT INTO longrun.digests (response_id, first, last, data)
SELECT id, $2, $3, $4 FROM longrun.responses WHERE id = $1 AND status = 'in_progress'
ON CONFLICT DO NOTHING;

-- name: read_digests
-- The last digests, of those that end before :before if that is given, at least one if there is any, then as
-- many as fit into :limit bytes; the newest first.
SELECT page.first, page.last, page.data
FROM (
    SELECT digest.first, digest.last, digest.data, octet_length(digest.data) AS bytes,
        sum(octet_length(digest.data)) OVER (ORDER BY digest.last DESC) AS bytes_from
    FROM longrun.digests AS digest
    WHERE digest.response_id = :response_id
        AND digest.last < :before -- optional
    ORDER BY digest.last DESC
    LIMIT (SELECT 2000)
) AS page
WHERE page.bytes_from - page.bytes < :limit
ORDER BY page.last DESC;

-- name: drop_digests
-- Of responses that have ended.
DELETE FROM longrun.digests AS digest
USING longrun.responses AS response
WHERE digest.response_id = ANY($1::text[]) AND response.id = digest.response_id
    AND response.finished_at IS NOT NULL;
