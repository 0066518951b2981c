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

-- name: get_course
-- When the events of a principal's response were committed, in milliseconds after its creation, by
-- the last event of each commit, of the first so many commits. Which event an attempt
-- begins with, and who executed those that are over. A commit after the response has ended is none of its
-- run's: its chunks were rewritten.
WITH chunks AS MATERIALIZED (
    SELECT chunk.first, chunk.last, chunk.attempt,
        CASE WHEN chunk.committed_at < response.finished_at + interval '10 seconds'
            OR response.finished_at IS NULL
            THEN extract(epoch FROM chunk.committed_at - response.created_at) * 1000 END AS ms
    FROM longrun.responses AS response
    JOIN longrun.event_chunks AS chunk ON chunk.response_id = response.id
    WHERE response.id = $1 AND response.principal = $2 AND response.stored
    ORDER BY chunk.last
    LIMIT $3
)
SELECT
    ARRAY(SELECT last FROM chunks ORDER BY last) AS lasts,
    ARRAY(SELECT round(ms)::bigint FROM chunks ORDER BY last) AS times,
    ARRAY(SELECT attempt FROM chunks GROUP BY attempt ORDER BY attempt) AS attempts,
    ARRAY(SELECT min(first) FROM chunks GROUP BY attempt ORDER BY attempt) AS firsts,
    (SELECT ran_on FROM longrun.responses WHERE id = $1 AND principal = $2 AND stored) AS ran_on;

-- name: list_replicas_unscoped
-- All that are known, those without a lease included until they are forgotten. `locked`: its lock is
-- held, so its process lives. `agents`: those that it serves; null: it does not say.
SELECT replica.id, replica.hostname, replica.pid, replica.version, replica.has_room,
    replica.draining, replica.agents,
    extract(epoch FROM replica.started_at)::double precision AS started_at,
    extract(epoch FROM replica.lease_until - now())::double precision AS lease_seconds,
    hashtextextended('longrun replica ' || replica.id, 0) IN (
        SELECT held.classid::bigint << 32 | held.objid::bigint FROM pg_locks AS held
        WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
    ) AS locked,
    (
        SELECT count(*) FROM longrun.responses AS response
        WHERE response.status = 'in_progress' AND response.replica_id = replica.id
    ) AS runs
FROM longrun.replicas AS replica
ORDER BY replica.started_at, replica.id;

-- name: count_queue_unscoped
-- What waits, by agent and principal, the longest lines first; of no more than 20,000. `served`: whether
-- a replica serves that agent which is alive and takes work; null: one of them does not say what it serves.
SELECT waiting.agent AS model, waiting.principal, count(*) AS waiting,
    extract(epoch FROM now() - min(waiting.created_at))::double precision AS oldest_seconds,
    (
        SELECT CASE
            WHEN coalesce(bool_or(waiting.agent = ANY(replica.agents)), false) THEN true
            WHEN coalesce(bool_or(replica.agents IS NULL), false) THEN NULL
            ELSE false END
        FROM longrun.replicas AS replica
        WHERE replica.lease_until > now() AND NOT replica.draining
    ) AS served
FROM (
    SELECT agent, principal, created_at FROM longrun.responses
    WHERE status = 'queued' ORDER BY id LIMIT 20000
) AS waiting
GROUP BY waiting.agent, waiting.principal
ORDER BY count(*) DESC, min(waiting.created_at)
LIMIT 100;

-- name: measure_unscoped
-- Figures of the whole, each of a bounded look: what runs and waits, how many of the newest 20,000
-- that ended in the last hour had more than one attempt, and how full the queue of NOTIFY is, from 0 to 1.
SELECT
    (
        SELECT count(*) FROM (
            SELECT FROM longrun.responses WHERE status = 'in_progress' LIMIT 100000
        ) AS live
    ) AS live,
    (
        SELECT count(*) FROM (
            SELECT FROM longrun.responses WHERE status = 'queued' LIMIT 100000
        ) AS queued
    ) AS waiting,
    (
        SELECT count(*) FROM (
            SELECT attempt FROM longrun.responses
            WHERE finished_at > now() - interval '1 hour' ORDER BY finished_at DESC LIMIT 20000
        ) AS ended
        WHERE ended.attempt > 1
    ) AS taken_over,
    pg_notification_queue_usage() AS notifications;

-- name: measure_rates_unscoped
-- How many events a second were committed in the last five, by replica, of 1,000 responses that run
-- and 1,000 that have ended since. Of each no more than its newest 200 commits are looked at: where
-- these are all of that time, they say how fast it was meanwhile.
WITH recent AS MATERIALIZED (
    (
        SELECT id, replica_id FROM longrun.responses WHERE status = 'in_progress' LIMIT 1000
    ) UNION ALL (
        SELECT id, split_part(ran_on[array_upper(ran_on, 1)], ' ', 2) FROM longrun.responses
        WHERE finished_at > now() - interval '5 seconds' ORDER BY finished_at DESC LIMIT 1000
    )
)
SELECT recent.replica_id, sum(
    committed.events / CASE WHEN committed.commits < 200 THEN 5
        ELSE greatest(committed.seconds, 0.001) END
)::double precision AS rate
FROM recent
CROSS JOIN LATERAL (
    SELECT coalesce(sum(newest.last - newest.first + 1), 0) AS events, count(*) AS commits,
        extract(epoch FROM now() - min(newest.committed_at)) AS seconds
    FROM (
        SELECT chunk.first, chunk.last, chunk.committed_at FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = recent.id ORDER BY chunk.last DESC LIMIT 200
    ) AS newest
    WHERE newest.committed_at > now() - interval '5 seconds'
) AS committed
GROUP BY recent.replica_id;

-- name: size_tables
SELECT class.relname AS name, pg_total_relation_size(class.oid) AS bytes,
    greatest(class.reltuples, 0)::bigint AS rows
FROM pg_class AS class
WHERE class.relkind IN ('r', 'p') AND class.relnamespace = (
    SELECT relnamespace FROM pg_class WHERE oid = 'longrun.responses'::regclass
)
ORDER BY 2 DESC, 1;
