-- name: hold_replica_lock
-- Tells the others at once when this process is gone: the lock goes with its connection.
SELECT pg_try_advisory_lock(hashtextextended('longrun replica ' || $1, 0));

-- name: renew_lease
-- Also brings the row back, if others took this replica for dead and removed it.
INSERT INTO longrun.replicas (id, hostname, pid, version, lease_until, agents)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), $6)
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until;

-- name: tell_room
-- Whether this replica would take more runs: one that has too much wakes only one that would.
UPDATE longrun.replicas SET has_room = $2 WHERE id = $1;

-- name: tell_draining
-- This replica takes nothing more.
UPDATE longrun.replicas SET has_room = false, draining = true WHERE id = $1;

-- name: find_takers
-- The other replicas that are alive, which their leases and their locks tell, and not draining: one of
-- them will take what waits; and whether each said that it has room.
SELECT replica.id, coalesce(replica.has_room, false) AS has_room FROM longrun.replicas AS replica
WHERE replica.id <> $1 AND NOT replica.draining AND replica.lease_until > now()
    AND hashtextextended('longrun replica ' || replica.id, 0) IN (
        SELECT held.classid::bigint << 32 | held.objid::bigint FROM pg_locks AS held
        WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
    );

-- name: find_replica
SELECT EXISTS (SELECT FROM longrun.replicas WHERE id = $1);

-- name: end_lease
UPDATE longrun.replicas SET lease_until = now() WHERE id = $1;

-- name: look_around
-- Everything that a replica has to notice, in one query: of the others that hold responses,
-- whose lease ran out and whose lock is free; what waits, what is overdue, what of its own is no
-- longer its own; which replicas are alive, and which others have room (`free`), as they said. `suspects`: one waits that was under way in two
-- deaths and runs alone, on the one replica that is `chosen` for these: which executes one, or
-- else has the fewest runs. `steady`: Postgres itself has been up for some time, so that leases
-- and locks mean something.
-- What it costs grows with the replicas and with the runs of this one, not with what is live.
WITH others AS MATERIALIZED (
    SELECT replica.id, replica.lease_until FROM longrun.replicas AS replica
    WHERE replica.id <> $1 AND replica.id = (
        -- Whether it has any, asked so that only the index by replicas can answer: the planner
        -- takes one replica's runs for as many as another's, and would look through all.
        SELECT response.replica_id FROM longrun.responses AS response
        WHERE response.status = 'in_progress' AND response.replica_id >= replica.id
        ORDER BY response.replica_id
        LIMIT 1
    )
), locks AS MATERIALIZED (
    SELECT held.classid::bigint << 32 | held.objid::bigint AS key FROM pg_locks AS held
    WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
), handed_over AS MATERIALIZED (
    -- Whether there are any, by the end of the same index, where those without a replica are.
    SELECT response.replica_id IS NULL AS some FROM longrun.responses AS response
    WHERE response.status = 'in_progress'
    ORDER BY response.replica_id DESC NULLS FIRST
    LIMIT 1
), orphans AS MATERIALIZED (
    SELECT agent, deaths, cancelled OR deadline_at < now() OR spent > $4 AS ends
    FROM longrun.responses
    WHERE status = 'in_progress' AND replica_id IS NULL AND (SELECT handed_over.some FROM handed_over)
), queued AS MATERIALIZED (
    SELECT id FROM longrun.responses WHERE status = 'queued' ORDER BY id LIMIT 1
)
SELECT
    ARRAY(SELECT replica.id FROM others AS replica WHERE replica.lease_until < now()) AS expired,
    ARRAY(
        SELECT replica.id FROM others AS replica
        WHERE hashtextextended('longrun replica ' || replica.id, 0) NOT IN (SELECT key FROM locks)
    ) AS unlocked,
    EXISTS (SELECT FROM queued) OR EXISTS (SELECT FROM orphans WHERE deaths < 2 OR ends) AS waiting,
    EXISTS (
        SELECT FROM orphans
        WHERE deaths >= 2 AND NOT ends AND ($3::text[] IS NULL OR agent = ANY($3))
    ) AS suspects,
    coalesce($1 = (
        SELECT replica.id
        FROM longrun.replicas AS replica
        LEFT JOIN longrun.responses AS response
            ON response.replica_id = replica.id AND response.status = 'in_progress'
        -- Nothing is counted as long as there is no suspect.
        WHERE replica.lease_until > now() AND NOT replica.draining
            AND EXISTS (SELECT FROM orphans WHERE deaths >= 2)
        GROUP BY replica.id
        ORDER BY bool_or(coalesce(response.deaths >= 2, false)) DESC, count(response.id), replica.id
        LIMIT 1
    ), false) AS chosen,
    ARRAY(
        SELECT response.id FROM longrun.responses AS response
        WHERE response.status IN ('queued', 'in_progress')
            AND response.deadline_at < now()  -- which the index knows
            AND response.deadline_at < now()
                - CASE WHEN response.replica_id <> $1 THEN interval '3 seconds' ELSE '0' END
            AND (response.ending_at IS NULL OR response.ending_at < now() - interval '1 minute')
        LIMIT 1000
    ) AS overdue,
    (
        SELECT count(*) || ' ' || coalesce(sum(own.attempt), 0)
        FROM longrun.responses AS own
        WHERE own.status = 'in_progress' AND own.replica_id = $1
    ) AS own,
    ARRAY(SELECT id FROM longrun.replicas WHERE lease_until > now()) AS alive,
    ARRAY(
        SELECT replica.id FROM longrun.replicas AS replica
        WHERE replica.id <> $1 AND replica.has_room AND replica.lease_until > now()
            AND hashtextextended('longrun replica ' || replica.id, 0) IN (SELECT key FROM locks)
    ) AS free,
    (SELECT has_room FROM longrun.replicas WHERE id = $1) AS said_room,
    now() - pg_postmaster_start_time() > make_interval(secs => $2) AS steady;

-- name: forget_replicas
-- Replicas that are long gone and hold nothing.
DELETE FROM longrun.replicas AS replica
WHERE replica.lease_until < now() - interval '10 minutes' AND NOT EXISTS (
    SELECT FROM longrun.responses AS response
    WHERE response.status = 'in_progress' AND response.replica_id = replica.id
);

-- name: plan_once
-- Statements of this session are planned for any values, and so once.
SELECT set_config('plan_cache_mode', 'force_generic_plan', false);

-- name: greet
-- On every new connection. Postgres is to notice a peer that is dead, and which locks rows or
-- reads no notifications; by its settings it would do so after hours.
SELECT pg_backend_pid() AS pid,
    set_config('tcp_keepalives_idle', $1, false),
    set_config('tcp_keepalives_interval', $2, false),
    set_config('tcp_keepalives_count', $3, false),
    set_config('tcp_user_timeout', $4, false);

-- name: beat
SELECT true;

-- name: exchange_parcel_keys
-- Tells the key of this replica's parcels, and which there are; and how full the notification queue
-- is. The replica's row may have been removed, and with it its key.
WITH told AS (
    INSERT INTO longrun.parcel_keys (replica_id, key)
    SELECT replica.id, $2 FROM longrun.replicas AS replica WHERE replica.id = $1
    ON CONFLICT (replica_id) DO NOTHING
    RETURNING replica_id, key
)
SELECT known.replica_id, known.key, pg_notification_queue_usage() AS usage
FROM (
    SELECT replica_id, key FROM longrun.parcel_keys
    UNION ALL
    SELECT replica_id, key FROM told
) AS known;

-- name: find_working
-- Which of these processes are at work on a statement. (A state that is not shown may be any.)
SELECT pid FROM pg_stat_activity WHERE pid = ANY($1::integer[]) AND state IS DISTINCT FROM 'idle';

-- name: sample_cluster
-- For the metrics: what waits (of no more than the oldest 100,000) and how long the first of it has, the
-- replicas that are alive, and how much of the notification queue is in use. `unserved`: the agents
-- that something waits for and no replica serves that is alive and takes work, by how much waits for
-- each (`counts`), what was handed over included; and for how many seconds the first of it (`ages`). None as long as one
-- of them does not say what it serves. `first`: of those replicas this one comes first.
WITH queued AS MATERIALIZED (
    SELECT oldest.agent, count(*) AS waiting, min(oldest.id) AS first
    FROM (
        -- Of one index alone.
        SELECT agent, id FROM longrun.responses WHERE status = 'queued' ORDER BY id LIMIT 100000
    ) AS oldest
    GROUP BY oldest.agent
), last AS MATERIALIZED (
    -- Whether any were handed over, as in look_around.
    SELECT response.replica_id IS NULL AS handed_over FROM longrun.responses AS response
    WHERE response.status = 'in_progress'
    ORDER BY response.replica_id DESC NULLS FIRST
    LIMIT 1
), handed_over AS MATERIALIZED (
    SELECT agent, id FROM longrun.responses
    WHERE status = 'in_progress' AND replica_id IS NULL AND NOT cancelled
        AND (SELECT last.handed_over FROM last)
    LIMIT 10000
), takers AS MATERIALIZED (
    SELECT id, agents FROM longrun.replicas WHERE lease_until > now() AND NOT draining
), unserved AS MATERIALIZED (
    SELECT waits.agent, sum(waits.waiting)::bigint AS waiting, min(waits.first) AS first
    FROM (
        SELECT agent, waiting, first FROM queued
        UNION ALL
        SELECT agent, count(*), min(id) FROM handed_over GROUP BY agent
    ) AS waits
    WHERE NOT EXISTS (SELECT FROM takers WHERE takers.agents IS NULL)
        AND waits.agent NOT IN (SELECT served.agent FROM takers, unnest(takers.agents) AS served (agent))
    GROUP BY waits.agent
    ORDER BY min(waits.first)
    LIMIT 20
)
SELECT coalesce((SELECT sum(waiting) FROM queued), 0)::bigint AS waiting,
    coalesce((
        SELECT extract(epoch FROM now() - response.created_at)
        FROM longrun.responses AS response WHERE response.id = (SELECT min(first) FROM queued)
    ), 0)::double precision AS oldest,
    pg_notification_queue_usage() AS notifications,
    (SELECT count(*) FROM longrun.replicas WHERE lease_until > now()) AS replicas,
    ARRAY(SELECT agent FROM unserved ORDER BY first) AS unserved,
    ARRAY(SELECT waiting FROM unserved ORDER BY first) AS counts,
    ARRAY(
        SELECT extract(epoch FROM now() - response.created_at)::double precision
        FROM unserved JOIN longrun.responses AS response ON response.id = unserved.first
        ORDER BY unserved.first
    ) AS ages,
    coalesce($1 = (SELECT min(id) FROM takers), false) AS first;
