-- Claims: how a replica becomes the one that executes a response. Each grows the attempt by one,
-- which fences every writer before it; each waits for an append that is under way.

-- name: claim_queued
-- The oldest that wait, fair between principals: who has fewer runs and is earlier in the line
-- of its own comes first. What it costs depends neither on how many wait nor on how many run: of the
-- lines it looks at those of the oldest that wait, and at as many more from a principal on ($5; any
-- will do), so that nobody is hidden by one with a long line. Of each it looks at no more than can
-- be wanted, and at $4 besides, for those that other replicas are claiming at this moment; and of
-- those that run, at no more than 50 of a principal. With up to 40 lines all are looked at. Of the
-- responses on one conversation only the first is looked at that has not ended: its turn was
-- committed before those after it were given theirs, so whoever sees a turn sees all before it.
WITH RECURSIVE oldest AS MATERIALIZED (
    SELECT response.principal, response.id FROM longrun.responses AS response
    WHERE response.status = 'queued' AND ($3::text[] IS NULL OR response.agent = ANY($3))
    ORDER BY response.id
    LIMIT 40
), onward AS (
    (
        SELECT response.principal, response.id, 1 AS n FROM longrun.responses AS response
        WHERE response.status = 'queued' AND response.principal >= $5
            AND ($3::text[] IS NULL OR response.agent = ANY($3))
        ORDER BY response.principal, response.id
        LIMIT 1
    )
    UNION ALL
    SELECT next.principal, next.id, onward.n + 1
    FROM onward
    CROSS JOIN LATERAL (
        SELECT response.principal, response.id FROM longrun.responses AS response
        WHERE response.status = 'queued' AND response.principal > onward.principal
            AND ($3::text[] IS NULL OR response.agent = ANY($3))
        ORDER BY response.principal, response.id
        LIMIT 1
    ) AS next
    WHERE onward.n < 40
), around AS (
    -- Past the last principal it goes on with the first.
    (
        SELECT response.principal, response.id, 1 AS n FROM longrun.responses AS response
        WHERE response.status = 'queued' AND response.principal < $5
            AND ($3::text[] IS NULL OR response.agent = ANY($3))
            AND (SELECT count(*) FROM onward) < 40
        ORDER BY response.principal, response.id
        LIMIT 1
    )
    UNION ALL
    SELECT next.principal, next.id, around.n + 1
    FROM around
    CROSS JOIN LATERAL (
        SELECT response.principal, response.id FROM longrun.responses AS response
        WHERE response.status = 'queued'
            AND response.principal > around.principal AND response.principal < $5
            AND ($3::text[] IS NULL OR response.agent = ANY($3))
        ORDER BY response.principal, response.id
        LIMIT 1
    ) AS next
    WHERE around.n < 40 - (SELECT count(*) FROM onward)
), near AS (
    SELECT first.principal, busy.runs
    FROM (
        SELECT principal, min(id) AS id FROM (
            SELECT principal, id FROM oldest
            UNION ALL
            SELECT principal, id FROM onward
            UNION ALL
            SELECT principal, id FROM around
        ) AS found
        GROUP BY principal
    ) AS first
    CROSS JOIN LATERAL (
        SELECT count(*) AS runs FROM (
            SELECT FROM longrun.responses AS running
            WHERE running.status = 'in_progress' AND running.principal = first.principal
            LIMIT 50
        ) AS counted
    ) AS busy
    ORDER BY busy.runs, first.id
    LIMIT $2::bigint + $4::bigint
), line AS (
    SELECT queued.id, queued.place + near.runs AS turn
    FROM near
    CROSS JOIN LATERAL (
        SELECT response.id, row_number() OVER (ORDER BY response.id) AS place
        FROM longrun.responses AS response
        WHERE response.status = 'queued' AND response.principal = near.principal
            AND ($3::text[] IS NULL OR response.agent = ANY($3))
            AND (response.conversation_id IS NULL OR NOT EXISTS (
                SELECT FROM longrun.responses AS earlier
                WHERE earlier.conversation_id = response.conversation_id
                    AND earlier.turn < response.turn
                    AND earlier.status IN ('queued', 'in_progress')
            ))
        ORDER BY response.id
        LIMIT $2::bigint + $4::bigint
    ) AS queued
    ORDER BY turn, queued.id
    LIMIT $2::bigint + $4::bigint
), next AS (
    SELECT response.id
    FROM line
    JOIN longrun.responses AS response ON response.id = line.id
    WHERE response.status = 'queued'
    ORDER BY line.turn, response.id
    LIMIT $2
    FOR UPDATE OF response SKIP LOCKED
)
UPDATE longrun.responses AS response
SET status = 'in_progress', attempt = response.attempt + 1, spent = response.spent + 1,
    replica_id = $1,
    context_end = (
        SELECT length FROM longrun.conversations WHERE id = response.conversation_id
    )
FROM next
WHERE response.id = next.id
RETURNING response.id, response.attempt,
    coalesce((SELECT max(principal) FROM around), (SELECT max(principal) FROM onward)) AS onward;

-- name: count_deaths
-- Runs of replicas that are gone are handed over, and each death is counted for each of them. It
-- uses up an attempt only of a run that was alone: of several, one may have taken the others
-- along. An attempt that recorded a step got on: what it died of is not what others died of.
-- One that dies alone explains its earlier deaths, too: the others that were under way in those,
-- and wait, are suspected of them no longer. Watchers may share the runs of a dead replica among
-- them: who gets its first run has `dead` and how many it had, and logs its death.
WITH firsts AS MATERIALIZED (
    SELECT response.replica_id, min(response.id) AS id, count(*) AS runs
    FROM longrun.responses AS response
    WHERE response.status = 'in_progress' AND response.replica_id = ANY($1::text[])
    GROUP BY response.replica_id
), lost AS MATERIALIZED (
    SELECT response.id, response.replica_id, response.deaths, response.died_on,
        NOT response.cancelled AND response.deadline_at > now() AS ran,
        EXISTS (
            SELECT FROM longrun.steps AS step
            WHERE step.response_id = response.id AND step.attempt = response.attempt
        ) AS got_on
    FROM longrun.responses AS response
    WHERE response.status = 'in_progress' AND response.replica_id = ANY($1::text[])
    ORDER BY response.id
    FOR UPDATE OF response SKIP LOCKED
), company AS (
    -- With those that were counted before: one that was locked then comes late.
    SELECT dead.id, count(*) AS runs
    FROM unnest($1::text[]) AS dead (id)
    JOIN longrun.responses AS response
        ON response.status = 'in_progress'
            AND NOT response.cancelled AND response.deadline_at > now()
            AND (response.replica_id = dead.id OR dead.id = ANY(response.died_on))
    GROUP BY dead.id
), counted AS (
    SELECT lost.id, lost.ran AND company.runs = 1 AS alone,
        CASE WHEN lost.got_on THEN 1 ELSE lost.deaths + 1 END AS deaths,
        CASE WHEN lost.got_on THEN NULL ELSE lost.died_on END || lost.replica_id AS died_on
    FROM lost
    LEFT JOIN company ON company.id = lost.replica_id
), explained AS MATERIALIZED (
    SELECT coalesce(array_agg(death), '{}') AS deaths
    FROM counted, unnest(counted.died_on) AS death
    WHERE counted.alone
), waiting AS (
    SELECT response.id, response.deaths, response.died_on
    FROM longrun.responses AS response, explained
    WHERE response.status = 'in_progress' AND response.replica_id IS NULL
        AND response.died_on && explained.deaths
    ORDER BY response.id
    FOR UPDATE OF response SKIP LOCKED
), others AS (
    SELECT suspected.id, suspected.deaths - cardinality(suspected.died_on) AS unnamed,
        ARRAY(
            SELECT death FROM unnest(suspected.died_on) AS death
            WHERE death <> ALL(explained.deaths)
        ) AS died_on
    FROM (
        SELECT id, deaths, died_on FROM counted WHERE alone IS NOT true
        UNION ALL
        SELECT id, deaths, died_on FROM waiting
    ) AS suspected, explained
), judged AS (
    SELECT id, deaths, died_on, 1 + deaths AS spent FROM counted WHERE alone
    UNION ALL
    SELECT id, unnamed + cardinality(died_on), died_on, NULL FROM others
)
UPDATE longrun.responses AS response
SET replica_id = NULL, ending_at = NULL, deaths = judged.deaths, died_on = judged.died_on,
    spent = coalesce(judged.spent, response.spent),
    active_at = coalesce(
        (SELECT max(recorded_at) FROM longrun.steps WHERE response_id = response.id),
        response.created_at
    )
FROM judged
LEFT JOIN firsts ON firsts.id = judged.id
WHERE response.id = judged.id
RETURNING firsts.replica_id AS dead, firsts.runs;

-- name: claim_orphans
-- Runs that were handed over, of agents that are served here: while a new version is rolled out,
-- not all serve the same. Not those that were under way in two deaths (claim_suspect), unless
-- they are only to be ended. First come those that got on most recently. Where $5 is true, only
-- this replica's share of them: each replica that is alive, which its lease and its lock tell, and
-- not draining, has the runs whose id's hash falls to its place among them, whatever others have
-- taken since.
WITH alive AS MATERIALIZED (
    SELECT greatest(count(*), 1) AS replicas, count(*) FILTER (WHERE replica.id < $1) AS place
    FROM longrun.replicas AS replica
    WHERE $5::boolean AND replica.lease_until > now() AND NOT replica.draining AND (
        replica.id = $1 OR hashtextextended('longrun replica ' || replica.id, 0) IN (
            SELECT held.classid::bigint << 32 | held.objid::bigint FROM pg_locks AS held
            WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
        )
    )
), next AS (
    SELECT id FROM longrun.responses
    WHERE status = 'in_progress' AND replica_id IS NULL
        AND ($3::text[] IS NULL OR agent = ANY($3) OR cancelled)
        AND (deaths < 2 OR cancelled OR deadline_at < now() OR spent > $4)
        AND (NOT $5::boolean OR (hashtextextended(id, 0) & 65535) % (SELECT replicas FROM alive)
            = (SELECT place % replicas FROM alive))
    ORDER BY active_at DESC NULLS LAST, id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE longrun.responses AS response
SET attempt = response.attempt + 1, replica_id = $1
FROM next
WHERE response.id = next.id
RETURNING response.id, response.attempt;

-- name: claim_suspect
-- One that was under way in two deaths. Whoever claims it executes nothing else meanwhile. The
-- likeliest comes first, since its death clears the others: what was in more deaths, then what
-- was in code of its agent, which is after a model turn rather than in one.
WITH next AS (
    SELECT response.id FROM longrun.responses AS response
    WHERE response.status = 'in_progress' AND response.replica_id IS NULL
        AND response.deaths >= 2
        AND NOT (response.cancelled OR response.deadline_at < now() OR response.spent > $3)
        AND ($2::text[] IS NULL OR response.agent = ANY($2))
    ORDER BY response.deaths DESC, (
            SELECT step.kind IN ('model', 'start') FROM longrun.steps AS step
            WHERE step.response_id = response.id
            ORDER BY step.recorded_at DESC
            LIMIT 1
        ) DESC NULLS LAST,
        response.id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE longrun.responses AS response
SET attempt = response.attempt + 1, replica_id = $1
FROM next
WHERE response.id = next.id
RETURNING response.id, response.attempt;

-- name: claim_to_cancel
-- One response of a principal's, whoever executes it, in order to end it. Decides between its
-- own end and this. Not if it is being ended already.
UPDATE longrun.responses AS response
SET status = 'in_progress', attempt = response.attempt + 1, replica_id = $1,
    cancelled = true, ending_at = now()
WHERE response.id = $2 AND response.principal = $3
    AND response.status IN ('queued', 'in_progress')
    AND (response.ending_at IS NULL OR response.ending_at < now() - interval '1 minute')
RETURNING response.id, response.attempt;

-- name: claim_overdue
-- Those of some responses whose time is over, whoever's they are, in order to end them. Not what
-- is being ended already.
WITH next AS (
    SELECT id FROM longrun.responses
    WHERE id = ANY($2::text[]) AND status IN ('queued', 'in_progress') AND deadline_at < now()
        AND (ending_at IS NULL OR ending_at < now() - interval '1 minute')
    ORDER BY id
    FOR UPDATE
)
UPDATE longrun.responses AS response
SET status = 'in_progress', attempt = response.attempt + 1, replica_id = $1, ending_at = now()
FROM next
WHERE response.id = next.id
RETURNING response.id, response.attempt;

-- name: claim_to_fail
-- One response from the attempt that executes it here, and has broken off.
UPDATE longrun.responses AS response
SET attempt = response.attempt + 1, replica_id = $1, ending_at = now()
WHERE response.id = $2 AND response.attempt = $3 AND response.status = 'in_progress'
RETURNING response.id, response.attempt;

-- name: get_claims
-- What was claimed, as long as it is held as this attempt. What is only to be ended needs no input,
-- unless that goes into a conversation.
SELECT response.id, response.principal, response.agent, response.background, response.stored,
    response.document, response.request, response.previous_id,
    response.conversation_id,
    CASE
        WHEN response.conversation_id IS NULL
            AND (response.cancelled OR response.deadline_at < now()) THEN '[]'
        ELSE response.input
    END AS input,
    response.attempt, response.spent, response.handovers, response.cancelled,
    response.deadline_at < now() AS overdue, response.steered
FROM unnest($1::text[], $2::integer[]) WITH ORDINALITY AS claim (id, attempt, place)
JOIN longrun.responses AS response
    ON response.id = claim.id AND response.attempt = claim.attempt
ORDER BY response.active_at DESC NULLS LAST, claim.place;

-- name: release
-- Hand runs over: whoever has room resumes them, with the next attempt. One that recorded a step
-- got on: it is suspected of no death.
UPDATE longrun.responses AS response
SET replica_id = NULL, ending_at = NULL,
    active_at = coalesce(run.active_at, response.created_at),
    handovers = CASE WHEN run.got_on THEN 1 ELSE response.handovers + 1 END,
    deaths = CASE WHEN run.got_on THEN 0 ELSE response.deaths END,
    died_on = CASE WHEN run.got_on THEN NULL ELSE response.died_on END
FROM (
    SELECT run.id, run.attempt, coalesce(recorded.got_on, false) AS got_on, recorded.active_at
    FROM unnest($1::text[], $2::integer[]) AS run (id, attempt)
    CROSS JOIN LATERAL (
        SELECT bool_or(step.attempt = run.attempt) AS got_on, max(step.recorded_at) AS active_at
        FROM longrun.steps AS step WHERE step.response_id = run.id
    ) AS recorded
) AS run
WHERE response.id = run.id AND response.attempt = run.attempt
    AND response.status = 'in_progress'
RETURNING response.id, response.attempt, response.agent;

-- name: list_own
SELECT id, attempt FROM longrun.responses
WHERE status = 'in_progress' AND replica_id = $1;

-- name: read_journals
-- What earlier attempts left of these responses, in one query: steps, finished items, the chunks in
-- which items begin or end ($3 occurs in them, or they begin with the byte $4 and say so after it,
-- as in read_page), and the end of each log. Of a response that has more
-- than $2 bytes there is no row: it is read by itself, in pages.
WITH whole AS MATERIALIZED (
    SELECT wanted.id FROM unnest($1::text[]) AS wanted (id)
    WHERE $2 >= (
        SELECT coalesce(sum(octet_length(fingerprint) + octet_length(result)), 0)
        FROM longrun.steps WHERE response_id = wanted.id
    ) + (
        SELECT coalesce(sum(octet_length(item)), 0)
        FROM longrun.items WHERE response_id = wanted.id
    ) + (
        SELECT coalesce(sum(octet_length(data)), 0)
        FROM longrun.event_chunks WHERE response_id = wanted.id
    )
)
SELECT whole.id, 'end' AS part, log.last AS number, NULL::bigint AS last, NULL::bytea AS data,
    NULL::text AS scope, NULL::text AS kind, NULL::text AS key, NULL::text AS fingerprint,
    NULL::text AS result
FROM whole
LEFT JOIN LATERAL (
    SELECT chunk.last FROM longrun.event_chunks AS chunk
    WHERE chunk.response_id = whole.id ORDER BY chunk.last DESC LIMIT 1
) AS log ON true
UNION ALL
SELECT whole.id, 'step', NULL, NULL, NULL, scope, kind, key, fingerprint, result
FROM whole
CROSS JOIN LATERAL (
    SELECT scope, kind, key, fingerprint, result FROM longrun.steps
    WHERE response_id = whole.id ORDER BY scope, kind, key
) AS step
UNION ALL
SELECT whole.id, 'item', output_index, NULL, NULL, NULL, NULL, NULL, NULL, item
FROM whole
CROSS JOIN LATERAL (
    SELECT output_index, item FROM longrun.items
    WHERE response_id = whole.id ORDER BY output_index
) AS item
UNION ALL
SELECT whole.id, 'chunk', page.first, page.last, page.data, NULL, NULL, NULL, NULL, NULL
FROM whole
CROSS JOIN LATERAL (
    SELECT first, last, data FROM longrun.event_chunks AS chunk
    WHERE chunk.response_id = whole.id AND (
        position($3 IN chunk.data) > 0
        OR get_byte(substring(chunk.data FOR 1), 0) = $4::integer
            AND get_byte(substring(chunk.data FROM 2 FOR 1), 0) & 2 > 0
    )
    ORDER BY chunk.last
) AS page;

-- name: list_items
SELECT output_index, item FROM longrun.items WHERE response_id = $1 ORDER BY output_index;

-- name: list_steps
SELECT scope, kind, key, fingerprint, result FROM longrun.steps WHERE response_id = $1;

-- name: list_model_turns
SELECT scope, kind, key, fingerprint, result FROM longrun.steps
WHERE response_id = $1 AND kind = 'model';

-- name: drop_items
-- Items of a turn that was not finished: it is asked again.
DELETE FROM longrun.items AS item
USING longrun.responses AS response
WHERE item.response_id = $1 AND item.output_index = ANY($3::integer[])
    AND response.id = $1 AND response.attempt = $2;

-- name: drop_all_items
-- Items that cannot be decrypted, of a response that is ended without them.
DELETE FROM longrun.items AS item
USING longrun.responses AS response
WHERE item.response_id = $1 AND response.id = $1 AND response.attempt = $2;
