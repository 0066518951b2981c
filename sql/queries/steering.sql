-- name: look_to_steer
-- A principal's response as it stands, for messages to be put into it: how many there are, how many of
-- them wait, and whether it is being ended already (`ending`). With $3 also one that is not stored.
SELECT response.agent, response.status, response.steered,
    response.ending_at IS NOT NULL OR response.cancelled AS ending,
    (
        SELECT count(*) FROM longrun.steers AS steer
        WHERE steer.response_id = response.id AND steer.output_index IS NULL
    ) AS waiting
FROM longrun.responses AS response
WHERE response.id = $1 AND response.principal = $2 AND (response.stored OR $3::boolean);

-- name: find_steer
-- The messages that a request with this key ($3) has put into a principal's response; or else those of
-- the last request, if it came within $4 seconds.
SELECT steer.number, steer.item, extract(epoch FROM steer.given_at)::bigint AS given_at
FROM longrun.responses AS response
JOIN longrun.steers AS steer ON steer.response_id = response.id AND steer.first = (
    SELECT last.first FROM longrun.steers AS last
    WHERE last.response_id = response.id
        AND CASE WHEN $3::text IS NULL THEN last.given_at > now() - make_interval(secs => $4)
            ELSE last.key = $3 END
    ORDER BY last.number DESC
    LIMIT 1
)
WHERE response.id = $1 AND response.principal = $2
ORDER BY steer.number;

-- name: add_steers
-- Messages for a live run, from :first on, which is how many there were: nothing is inserted if there
-- are more by now, or it has ended. A key that another request has used fails all of it. One statement,
-- which waits for an append of the run that is under way, and holds up the next one no longer than it
-- takes itself: a replica that freezes in a transaction would.
WITH counted AS (
    UPDATE longrun.responses AS response
    SET steered = :first + cardinality(:items::text[])
    WHERE response.id = :id AND response.principal = :principal AND response.steered = :first
        AND response.status IN ('queued', 'in_progress')
        AND response.ending_at IS NULL AND NOT response.cancelled
    RETURNING response.id
)
INSERT INTO longrun.steers (response_id, number, first, key, item)
SELECT counted.id, :first::integer + steer.n::integer - 1, :first,
    CASE WHEN steer.n = 1 THEN :key::text END, steer.item
FROM counted
CROSS JOIN unnest(:items::text[]) WITH ORDINALITY AS steer (item, n)
RETURNING extract(epoch FROM given_at)::bigint AS given_at;

-- name: list_steers
-- The messages of a response from a number on, in order.
SELECT number, item, output_index, turn FROM longrun.steers
WHERE response_id = $1 AND number >= $2
ORDER BY number;

-- name: list_waiting_steers
-- The numbers of those messages of a principal's response that its run has not taken. Also of one that is
-- not stored.
SELECT steer.number
FROM longrun.responses AS response
JOIN longrun.steers AS steer ON steer.response_id = response.id
WHERE response.id = $1 AND response.principal = $2 AND steer.output_index IS NULL;

-- name: list_steers_of
-- The messages of a principal's response, in order.
SELECT steer.number, steer.item, steer.output_index, steer.turn
FROM longrun.responses AS response
JOIN longrun.steers AS steer ON steer.response_id = response.id
WHERE response.id = $1 AND response.principal = $2 AND response.stored AND response.steered > 0
ORDER BY steer.number;
