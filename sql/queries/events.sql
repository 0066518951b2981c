-- name: append_log
-- One commit for everything that is pending: events, items, steps and ends of many runs, each a
-- number in the batch that its rows name, so that two attempts at one response are never mixed.
-- A run's rows are written only while its attempt is the current one: `held` checks that and
-- locks the response against a claim, in the same statement as the writes. A claim in turn
-- makes this wait and then find nothing. And they are written only where they follow the log
-- (`follows`): each chunk begins where the one before it ended, the first of them at the end of
-- what is committed. With :server that is known: whoever holds the attempt has written so far itself,
-- and had it confirmed by this very server, as its start tells; and all logs follow, or none, if it is
-- another one by now. Returns the runs that were held; all rows of the others are refused, and
-- all rows of those that do not follow. An item that stands in a chunk of the batch is cut out of
-- it, by bytes, and does not come as a text besides. With the end of a response its tokens are
-- counted (`spent`). With the end of a response on a conversation
-- comes what it leaves there: each part by its place, an output index, or -1, -2, … in the
-- response's own input, or from -4194305 on a message that was put into it. No text is sent for it
-- that Postgres has already, and can read. With the end
-- of one that asks for approvals comes what waits for them; one whose end was lost in a failover ends
-- again. An end says how many messages the run has taken, if it could still take some: where more
-- were put into it by then (`early`), nothing is written, and the run goes on. That number is in the
-- row that is locked, which is the newest: what another table has is as old as the statement.
WITH held AS MATERIALIZED (
    SELECT run.n, response.id, response.attempt, response.steered
    FROM (
        -- In one order everywhere, so that two of these never wait for each other. The condition
        -- is always true, and makes the planner expect one run: it then keeps its plan instead of
        -- making a new one each time, which takes as long as a small append.
        SELECT run.n, run.response_id, run.attempt
        FROM unnest(:response_ids::text[], :attempts::integer[])
            WITH ORDINALITY AS run (response_id, attempt, n)
        WHERE run.n % 1 = 0
        ORDER BY run.response_id COLLATE "C"
    ) AS run
    CROSS JOIN LATERAL (
        -- By its key for each: a join would rather read all that are in progress, many times.
        SELECT response.id, response.attempt, response.steered
        FROM longrun.responses AS response
        WHERE response.id = run.response_id AND response.attempt = run.attempt
            AND response.status = 'in_progress'
        FOR SHARE
    ) AS response
), torn AS (
    SELECT chunk.run
    FROM unnest(:chunk_runs::integer[], :chunk_firsts::bigint[], :chunk_lasts::bigint[])
        WITH ORDINALITY AS chunk (run, first, last, n)
    WHERE chunk.run = (:chunk_runs::integer[])[chunk.n - 1]
        AND chunk.first <> (:chunk_lasts::bigint[])[chunk.n - 1] + 1
), looked AS MATERIALIZED (
    SELECT held.n, held.id, held.attempt, held.steered,
        false
-- optional :ending_runs
        OR CASE WHEN held.steered > 0 THEN EXISTS (
            SELECT FROM unnest(:ending_runs::integer[], :ending_steered::integer[])
                AS ending (run, steered)
            WHERE ending.run = held.n AND ending.steered < held.steered
        ) ELSE false END
-- end
        AS early,
-- optional :server
        pg_postmaster_start_time() = :server::timestamptz AND
-- end
-- optional :looked
        :looked::boolean AND (:firsts::bigint[])[held.n] = 1 + coalesce(
            (
                SELECT chunk.last FROM longrun.event_chunks AS chunk
                WHERE chunk.response_id = held.id ORDER BY chunk.last DESC LIMIT 1
            ),
            -1
        ) AND
-- end
        held.n NOT IN (SELECT torn.run FROM torn) AS follows
    FROM held
), checked AS MATERIALIZED (
    SELECT n, id, attempt, steered, follows AND early AS early, follows AND NOT early AS follows
    FROM looked
), new_chunks AS (
    INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
    SELECT run.id, chunk.first, chunk.last, run.attempt, chunk.data
    FROM unnest(
        :chunk_runs::integer[], :chunk_firsts::bigint[], :chunk_lasts::bigint[],
        :chunk_data::bytea[]
    ) AS chunk (run, first, last, data)
    JOIN checked AS run ON run.n = chunk.run AND run.follows
-- optional :item_runs
), new_items AS (
    INSERT INTO longrun.items (response_id, output_index, item, model)
    SELECT run.id, item.output_index,
        coalesce(
            item.item,
            convert_from(
                substring((:chunk_data::bytea[])[item.chunk] FROM item.start FOR item.length),
                'UTF8'
            )
        ),
        item.model
    FROM unnest(
        :item_runs::integer[], :item_indexes::integer[], :items::text[], :item_models::text[],
        :item_chunks::integer[], :item_starts::integer[], :item_lengths::integer[]
    ) AS item (run, output_index, item, model, chunk, start, length)
    JOIN checked AS run ON run.n = item.run AND run.follows
-- end
-- optional :said_runs
    RETURNING response_id, output_index, item, model
-- end
-- optional :step_runs
), new_steps AS (
    INSERT INTO longrun.steps (response_id, scope, kind, key, attempt, fingerprint, result)
    SELECT run.id, step.scope, step.kind, step.key, run.attempt, step.fingerprint, step.result
    FROM unnest(
        :step_runs::integer[], :step_scopes::text[], :step_kinds::text[], :step_keys::text[],
        :step_fingerprints::text[], :step_results::text[]
    ) AS step (run, scope, kind, key, fingerprint, result)
    JOIN checked AS run ON run.n = step.run AND run.follows
-- end
-- optional :ending_runs
), ended AS (
    UPDATE longrun.responses AS response
    SET status = ending.status, document = ending.document, reason = ending.reason,
        finished_at = now(), replica_id = NULL
-- end
-- optional :input_refused_runs
        , input_refused = ending.n = ANY(:input_refused_runs::integer[])
-- end
-- optional :unkept_runs
        , unkept = (
            SELECT array_agg(item.output_index)
            FROM unnest(:unkept_runs::integer[], :unkept_indexes::integer[])
                AS item (run, output_index)
            WHERE item.run = ending.n
        )
-- end
-- optional :ending_runs
    FROM (
        SELECT run.n, run.id, ending.status, ending.document, ending.reason
        FROM unnest(
            :ending_runs::integer[], :ending_statuses::text[], :ending_documents::text[],
            :ending_reasons::text[]
        ) AS ending (run, status, document, reason)
        JOIN checked AS run ON run.n = ending.run AND run.follows
        OFFSET 0  -- few: found first, and not by looking at every response of the batch
    ) AS ending
    WHERE response.id = ending.id
    RETURNING ending.n, response.id, response.principal, response.account,
        response.conversation_id, response.turn, response.input
-- end
-- optional :spent_runs
), spent AS (
    INSERT INTO longrun.tokens_spent AS known (principal, day, session, tokens)
    SELECT counted.principal, (now() AT TIME ZONE 'UTC')::date, pg_backend_pid(),
        sum(counted.tokens)
    FROM (
        SELECT whose.principal, spending.tokens
        FROM unnest(:spent_runs::integer[], :spent_tokens::bigint[]) AS spending (run, tokens)
        JOIN ended ON ended.n = spending.run
        CROSS JOIN LATERAL (SELECT ended.principal UNION SELECT ended.account) AS whose (principal)
        WHERE whose.principal IS NOT NULL
    ) AS counted
    GROUP BY counted.principal
    ON CONFLICT (principal, day, session) DO UPDATE SET tokens = known.tokens + excluded.tokens
-- end
-- optional :said_runs
), part AS MATERIALIZED (
    SELECT ended.n AS run, ended.id AS response_id, ended.conversation_id, ended.turn,
        given.n, given.place, given.id, given.unkept, given.sent
    FROM unnest(
        :said_runs::integer[], :said_places::integer[], :said_ids::text[],
        :said_unkept::boolean[], :said_items::text[]
    ) WITH ORDINALITY AS given (run, place, id, unkept, sent, n)
    JOIN ended ON ended.n = given.run
), said AS MATERIALIZED (
    SELECT found.*, row_number() OVER (
        PARTITION BY found.conversation_id ORDER BY found.turn, found.n
    ) AS number
    FROM (
        SELECT part.*, element.item::text AS item, NULL::text AS model
        FROM ended
        CROSS JOIN LATERAL json_array_elements(
            CASE WHEN :said_items::text[] IS NULL THEN ended.input ELSE '[]' END::json
        ) WITH ORDINALITY AS element (item, n)
        JOIN part ON part.run = ended.n AND part.place = -element.n
        UNION ALL
        SELECT part.*, part.sent, NULL FROM part WHERE part.place < 0 AND part.sent IS NOT NULL
        UNION ALL
        SELECT part.*, steer.item, NULL
        FROM part
        JOIN longrun.steers AS steer
            ON steer.response_id = part.response_id AND steer.number = -4194305 - part.place
        WHERE part.place < -4194304 -- as ids.py numbers them
        UNION ALL
        SELECT part.*, coalesce(new.item, item.item),
            CASE WHEN NOT part.unkept THEN coalesce(new.model, item.model) END
        FROM part
        LEFT JOIN new_items AS new
            ON new.response_id = part.response_id AND new.output_index = part.place
        LEFT JOIN longrun.items AS item
            ON item.response_id = part.response_id AND item.output_index = part.place
        WHERE part.place >= 0
    ) AS found
), locked AS MATERIALIZED (
    -- In one order everywhere, as above.
    SELECT conversation.id, added.count
    FROM (
        SELECT conversation_id, count(*) FROM said GROUP BY conversation_id ORDER BY conversation_id
    ) AS added
    CROSS JOIN LATERAL (
        SELECT conversation.id FROM longrun.conversations AS conversation
        WHERE conversation.id = added.conversation_id
        FOR UPDATE
    ) AS conversation
), grown AS (
    UPDATE longrun.conversations AS conversation
    SET used_at = now(), length = conversation.length + locked.count
    FROM locked
    WHERE conversation.id = locked.id
    RETURNING conversation.id, conversation.length - locked.count AS first
), spoken AS (
    INSERT INTO longrun.conversation_items
        (conversation_id, position, id, response_id, item, model)
    SELECT grown.id, grown.first + said.number - 1, said.id, said.response_id, said.item, said.model
    FROM said
    JOIN grown ON grown.id = said.conversation_id
-- end
-- optional :refused_runs
), refused AS (
    -- Committed before: what this statement inserts, it does not see.
    DELETE FROM longrun.items AS item
    USING unnest(:refused_runs::integer[], :refused_indexes::integer[])
        AS refused (run, output_index)
    JOIN checked AS run ON run.n = refused.run AND run.follows
    WHERE item.response_id = run.id AND item.output_index = refused.output_index
-- end
-- optional :taken_runs
), taken AS (
    UPDATE longrun.steers AS steer
    SET output_index = taken.output_index, turn = taken.turn
    FROM unnest(
        :taken_runs::integer[], :taken_firsts::integer[], :taken_counts::integer[],
        :taken_indexes::integer[], :taken_turns::integer[]
    ) AS taken (run, first, count, output_index, turn)
    JOIN checked AS run ON run.n = taken.run AND run.follows
    WHERE steer.response_id = run.id
        AND steer.number >= taken.first AND steer.number < taken.first + taken.count
-- end
-- optional :parked_runs
), waiting AS (
    INSERT INTO longrun.parked (response_id, requests, format, written_by, state)
    SELECT run.id, ARRAY(SELECT json_array_elements_text(parked.requests::json)::integer),
        parked.format, parked.written_by, parked.state
    FROM unnest(
        :parked_runs::integer[], :parked_requests::text[], :parked_formats::integer[],
        :parked_written_by::text[], :parked_states::text[]
    ) AS parked (run, requests, format, written_by, state)
    JOIN checked AS run ON run.n = parked.run AND run.follows
    ON CONFLICT (response_id) DO UPDATE
        SET requests = excluded.requests, format = excluded.format,
            written_by = excluded.written_by, state = excluded.state
-- end
-- optional :told_runs
), told AS MATERIALIZED (
    -- How far these logs reach: sent when it is committed. Such a commit holds a lock that is one for
    -- the whole cluster (store/announcer.py).
    -- The parcel holds chunks of all of them.
    SELECT pg_notify(
        :events_channel::text,
        string_agg(run.id || ':' || reached.last, ',')
            || CASE WHEN count(*) = cardinality(:told_runs::integer[]) THEN :parcel::text ELSE '' END
    )
    FROM unnest(:told_runs::integer[], :told_lasts::bigint[]) AS reached (run, last)
    JOIN checked AS run ON run.n = reached.run AND run.follows
    HAVING count(*) > 0
-- end
), durable AS MATERIALIZED (
    -- What is acknowledged must not be lost, whatever the server's default is.
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
)
SELECT checked.n, checked.follows, checked.early, checked.steered
-- optional :looked
    , pg_postmaster_start_time() AS server
-- end
FROM durable CROSS JOIN checked
-- optional :told_runs
LEFT JOIN told ON true
-- end
;

-- name: append_events
-- As append_log, of runs that bring one chunk each and nothing else, as most appends do at a human
-- pace: in a third of the time less. What is held, and what follows, is the same there. The runs come
-- in the order of their ids, by bytes, and are locked in that order.
WITH checked AS MATERIALIZED (
    SELECT run.n, run.first, run.last, run.data, response.id, response.attempt, response.steered,
-- optional :server
        pg_postmaster_start_time() = :server::timestamptz AND
-- end
-- optional :looked
        :looked::boolean AND run.first = 1 + coalesce(
            (
                SELECT chunk.last FROM longrun.event_chunks AS chunk
                WHERE chunk.response_id = response.id ORDER BY chunk.last DESC LIMIT 1
            ),
            -1
        ) AND
-- end
        true AS follows
    FROM (
        SELECT run.n, run.response_id, run.attempt, run.first, run.last, run.data
        FROM unnest(
            :response_ids::text[], :attempts::integer[], :firsts::bigint[], :lasts::bigint[],
            :data::bytea[]
        ) WITH ORDINALITY AS run (response_id, attempt, first, last, data, n)
        WHERE run.n % 1 = 0
    ) AS run
    CROSS JOIN LATERAL (
        SELECT response.id, response.attempt, response.steered
        FROM longrun.responses AS response
        WHERE response.id = run.response_id AND response.attempt = run.attempt
            AND response.status = 'in_progress'
        FOR SHARE
    ) AS response
), new_chunks AS (
    INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
    SELECT id, first, last, attempt, data FROM checked WHERE follows
-- optional :told_runs
), told AS MATERIALIZED (
    SELECT pg_notify(
        :events_channel::text,
        string_agg(id || ':' || last, ',')
            || CASE WHEN count(*) = cardinality(:told_runs::bigint[]) THEN :parcel::text ELSE '' END
    )
    FROM checked
    WHERE follows AND n = ANY(:told_runs::bigint[])
    HAVING count(*) > 0
-- end
)
SELECT checked.n, checked.follows, false AS early, checked.steered,
    -- As `durable` in append_log.
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END AS durable
-- optional :looked
    , pg_postmaster_start_time() AS server
-- end
FROM checked
-- optional :told_runs
LEFT JOIN told ON true
-- end
;

-- name: append_chunk
-- As append_events, of one run whose log this server has confirmed so far: the commonest append of
-- all at a human pace, without arrays in a fourth of the time less. Nothing is written, and nothing
-- returned, where its attempt does not hold the response, or this is another server by now;
-- append_events then tells which of the two it is. :server is in seconds, which cost less to send
-- than a time, and are exact to the microsecond until the year 2106.
WITH held AS MATERIALIZED (
    SELECT response.id, response.attempt, response.steered
    FROM longrun.responses AS response
    WHERE response.id = :response_id::text AND response.attempt = :attempt::integer
        AND response.status = 'in_progress'
        AND pg_postmaster_start_time() = to_timestamp(:server::double precision)
    FOR SHARE
), new_chunk AS (
    INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
    SELECT id, :first::bigint, :last::bigint, attempt, :data::bytea FROM held
)
SELECT held.steered,
-- optional :told
    pg_notify(:channel::text, :told::text) AS told,
-- end
    -- As `durable` in append_log.
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END AS durable
FROM held;

-- name: find_chunks
-- Which of these chunks are in the log, written by these very attempts. Asked when it is not
-- known whether an append committed. Each is looked for by its key: a join would rather read the whole
-- of a partition that was empty when the statement was planned (sql/README.md).
SELECT chunk.response_id, chunk.attempt
FROM unnest($1::text[], $2::bigint[], $3::integer[]) AS wanted (response_id, last, attempt)
CROSS JOIN LATERAL (
    SELECT found.response_id, found.attempt FROM longrun.event_chunks AS found
    WHERE found.response_id = wanted.response_id AND found.last = wanted.last
    LIMIT 1
) AS chunk
WHERE chunk.attempt = wanted.attempt;

-- name: find_steps
-- Which of these steps are recorded, by these very attempts: for appends without events. As in
-- find_chunks, each by its key.
SELECT step.response_id, step.attempt
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[])
    AS wanted (response_id, scope, kind, key, attempt)
CROSS JOIN LATERAL (
    SELECT found.response_id, found.attempt FROM longrun.steps AS found
    WHERE found.response_id = wanted.response_id
        AND found.scope = wanted.scope
        AND found.kind = wanted.kind
        AND found.key = wanted.key
    LIMIT 1
) AS step
WHERE step.attempt = wanted.attempt;

-- name: read_page
-- Chunks after a cursor, at least one if there is any, then as many as fit into :limit bytes. Where
-- :having is given, only those in which it occurs. A chunk that begins with the byte :sealed says
-- after it, in plain, whether an item begins or ends in it, and how large it is once it is opened
-- (store/sealing.py).
SELECT page.first, page.last, page.data
FROM (
    SELECT chunk.first, chunk.last, chunk.data, chunk.bytes,
        sum(chunk.bytes) OVER (ORDER BY chunk.last) AS bytes_through
    FROM (
        SELECT chunk.first, chunk.last, chunk.data, octet_length(chunk.data)
-- optional :sealed
            + CASE WHEN get_byte(substring(chunk.data FOR 1), 0) = :sealed
                THEN ('x' || encode(substring(chunk.data FROM 3 FOR 4), 'hex'))::bit(32)::integer
                    - octet_length(chunk.data)
                ELSE 0 END
-- end
            AS bytes
        FROM longrun.event_chunks AS chunk
        -- Asked for, so that Postgres does not plan each page for its values: after ANALYZE it would,
        -- and take three times as long for that as for the page.
        WHERE chunk.response_id = (SELECT :response_id::text)
            AND chunk.last > (SELECT :cursor::bigint)
            AND (:having::bytea IS NULL OR position(:having IN chunk.data) > 0
-- optional :sealed
                OR get_byte(substring(chunk.data FOR 1), 0) = :sealed
                    AND get_byte(substring(chunk.data FROM 2 FOR 1), 0) & 2 > 0
-- end
            )
    ) AS chunk
    ORDER BY chunk.last
    LIMIT (SELECT 2000)
) AS page
WHERE page.bytes_through - page.bytes < :limit
ORDER BY page.last;

-- name: read_back
-- The last chunks, before a number if there is one, at least one if there is any, then as many as fit into :limit
-- bytes; none that is before the end of the newest digest there. :sealed as in read_page.
SELECT page.first, page.last, page.data
FROM (
    SELECT chunk.first, chunk.last, chunk.data, chunk.bytes,
        sum(chunk.bytes) OVER (ORDER BY chunk.last DESC) AS bytes_from
    FROM (
        SELECT chunk.first, chunk.last, chunk.data, octet_length(chunk.data)
-- optional :sealed
            + CASE WHEN get_byte(substring(chunk.data FOR 1), 0) = :sealed
                THEN ('x' || encode(substring(chunk.data FROM 3 FOR 4), 'hex'))::bit(32)::integer
                    - octet_length(chunk.data)
                ELSE 0 END
-- end
            AS bytes
        FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = :response_id
            AND chunk.last < :before -- optional
            AND chunk.last > coalesce(
                (
                    SELECT digest.last FROM longrun.digests AS digest
                    WHERE digest.response_id = :response_id
                        AND digest.last < :before -- optional
                    ORDER BY digest.last DESC LIMIT 1
                ),
                -1
            )
    ) AS chunk
    ORDER BY chunk.last DESC
    LIMIT (SELECT 2000)
) AS page
WHERE page.bytes_from - page.bytes < :limit
ORDER BY page.last;

-- name: read_stream
-- What the stream of a principal's response begins with: its status, with which number its log ends,
-- and chunks after a cursor as read_page has them; none without a cursor. Nothing: it is not there, or
-- not theirs; a row without a chunk: nothing comes after the cursor. With :settled, of one that ended
-- more than so many seconds ago there is such a row, too, and `ended`: when that was, for a standby to
-- be asked. With :ended that is done: a standby that has this end has all of it.
SELECT response.status, page.first, page.last, page.data, response.reached
-- optional :settled
    , response.ended
-- end
FROM (
    SELECT response.id, response.status, (
        SELECT chunk.last FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = response.id ORDER BY chunk.last DESC LIMIT 1
    ) AS reached
-- optional :settled
        , CASE
            WHEN response.finished_at < now() - make_interval(secs => :settled)
            THEN response.finished_at
        END AS ended
-- end
    FROM longrun.responses AS response
    WHERE response.id = :response_id AND response.principal = :principal AND response.stored
        AND response.finished_at = :ended -- optional
    OFFSET 0 -- one
) AS response
LEFT JOIN LATERAL (
    SELECT chunk.first, chunk.last, chunk.data, chunk.bytes,
        sum(chunk.bytes) OVER (ORDER BY chunk.last) AS bytes_through
    FROM (
        SELECT chunk.first, chunk.last, chunk.data, octet_length(chunk.data)
-- optional :sealed
            + CASE WHEN get_byte(substring(chunk.data FOR 1), 0) = :sealed
                THEN ('x' || encode(substring(chunk.data FROM 3 FOR 4), 'hex'))::bit(32)::integer
                    - octet_length(chunk.data)
                ELSE 0 END
-- end
            AS bytes
        FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = response.id AND chunk.last > :cursor
-- optional :settled
            AND response.ended IS NULL
-- end
    ) AS chunk
    ORDER BY chunk.last
    LIMIT (SELECT 2000)
) AS page ON page.bytes_through - page.bytes < :limit
ORDER BY page.last;

-- name: read_streams
-- read_stream for many streams that begin at the same time, each with its number, `n`. Each has at most
-- :most chunks and about :limit bytes; a chunk that is larger than :largest is left out, with all that
-- comes after it.
SELECT asked.n, response.status, page.first, page.last, page.data, response.reached
-- optional :settled
    , response.ended
-- end
FROM unnest(:ids::text[], :principals::text[], :cursors::bigint[])
    WITH ORDINALITY AS asked (id, principal, cursor, n)
CROSS JOIN LATERAL (
    SELECT response.status, (
        SELECT chunk.last FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = asked.id ORDER BY chunk.last DESC LIMIT 1
    ) AS reached
-- optional :settled
        , CASE
            WHEN response.finished_at < now() - make_interval(secs => :settled)
            THEN response.finished_at
        END AS ended
-- end
    FROM longrun.responses AS response
    WHERE response.id = asked.id AND response.principal = asked.principal AND response.stored
    OFFSET 0 -- one: by its key, and not by those of all
) AS response
LEFT JOIN LATERAL (
    SELECT chunk.first, chunk.last, chunk.data, chunk.bytes,
        sum(chunk.bytes) OVER (ORDER BY chunk.last) AS bytes_through
    FROM (
        SELECT chunk.first, chunk.last, chunk.data, octet_length(chunk.data)
-- optional :sealed
            + CASE WHEN get_byte(substring(chunk.data FOR 1), 0) = :sealed
                THEN ('x' || encode(substring(chunk.data FROM 3 FOR 4), 'hex'))::bit(32)::integer
                    - octet_length(chunk.data)
                ELSE 0 END
-- end
            AS bytes
        FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = asked.id AND chunk.last > asked.cursor
-- optional :settled
            AND response.ended IS NULL
-- end
    ) AS chunk
    ORDER BY chunk.last
    LIMIT (SELECT :most::integer)
) AS page ON page.bytes_through - page.bytes < :limit AND page.bytes <= :largest
WHERE asked.n % 1 = 0 -- keeps its plan, as in append_log
ORDER BY asked.n, page.last;

-- name: read_length
-- How many events the log has.
SELECT last + 1 AS length FROM longrun.event_chunks
WHERE response_id = $1 ORDER BY last DESC LIMIT 1;

-- name: read_end
SELECT first, last, data FROM longrun.event_chunks
WHERE response_id = $1 ORDER BY last DESC LIMIT 1;

-- name: read_news
-- The chunks after a position of each of many responses, :limit bytes of each; `deleted` for one
-- that no longer exists. :sealed as in read_page.
SELECT wanted.response_id, response.id IS NULL AS deleted, news.first, news.last, news.data
FROM (
    -- Always true: the planner then expects one response, as in append_log, and keeps its plan.
    SELECT told.response_id, told.after
    FROM unnest(:response_ids::text[], :positions::bigint[])
        WITH ORDINALITY AS told (response_id, after, n)
    WHERE told.n % 1 = 0
) AS wanted
LEFT JOIN longrun.responses AS response ON response.id = wanted.response_id
LEFT JOIN LATERAL (
    SELECT page.first, page.last, page.data
    FROM (
        SELECT chunk.first, chunk.last, chunk.data, chunk.bytes,
            sum(chunk.bytes) OVER (ORDER BY chunk.last) AS bytes_through
        FROM (
            SELECT chunk.first, chunk.last, chunk.data, octet_length(chunk.data)
-- optional :sealed
                + CASE WHEN get_byte(substring(chunk.data FOR 1), 0) = :sealed
                    THEN ('x' || encode(substring(chunk.data FROM 3 FOR 4), 'hex'))::bit(32)::integer
                        - octet_length(chunk.data)
                    ELSE 0 END
-- end
                AS bytes
            FROM longrun.event_chunks AS chunk
            WHERE chunk.response_id = wanted.response_id AND chunk.last > wanted.after
        ) AS chunk
        ORDER BY chunk.last
        LIMIT (SELECT 2000)
    ) AS page
    WHERE page.bytes_through - page.bytes < :limit
    ORDER BY page.last
) AS news ON true
ORDER BY wanted.response_id, news.last;

-- name: find_lost
-- Which of these responses have no event with this number, or a later one: they were deleted, or a
-- failover lost what had been committed. As in find_chunks, each by its key.
SELECT reached.response_id
FROM unnest($1::text[], $2::bigint[]) AS reached (response_id, last)
WHERE reached.last > coalesce(
    (
        SELECT chunk.last FROM longrun.event_chunks AS chunk
        WHERE chunk.response_id = reached.response_id ORDER BY chunk.last DESC LIMIT 1
    ),
    -1
);

-- name: notification_usage
-- How full the queue is. A full one stays full for NOTIFY, whatever was read, until this is asked.
SELECT pg_notification_queue_usage();

-- name: announce
-- Each text is one message.
SELECT pg_notify(channel, message) FROM unnest($1::text[], $2::text[]) AS told (channel, message);
