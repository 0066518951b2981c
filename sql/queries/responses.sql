-- name: create_response
-- The response and the first events of its log, in one commit. Nothing is inserted when it
-- would have to wait and :max_queued wait already; nor, on a conversation that a live response is
-- on (`busy`), unless it :may_wait. Of two requests at once the second waits for the row of the
-- conversation, and is_busy then sees the response of the first. `busy` is null where there is no
-- such conversation. Nor where as many are queued or running as :max_live (`crowded`), of the
-- principal or of the account that acts for it, whose limits hold; requests at the very same moment
-- may each be the last. Nor where either has spent :max_tokens today (`tokens`). When the queue is
-- full, a principal of which nothing waits may still add a first one, until twice as many wait.
-- With the response come the answers that it brings, to requests of :asked_by: where that went on
-- already, or nothing waits (any more), all of it fails by a constraint of `answers`. With a fork come
-- the steps that it begins with.
-- With :key_hashes, of an Idempotency-Key, nothing is inserted where the principal has used that key in
-- the last :key_seconds (`repeated`): of two at once the second waits for the first one's commit. What
-- is refused for another reason leaves no key. The key is claimed behind the conversation, and keys in
-- their order, so that no two creations wait for each other.
WITH
-- optional :key_hashes
known AS MATERIALIZED (
    SELECT FROM longrun.idempotency_keys
    WHERE principal = :principal AND hash = ANY(:key_hashes::bytea[])
        AND created_at > now() - make_interval(secs => :key_seconds)
),
-- end
-- optional :max_tokens
spent AS MATERIALIZED (
    SELECT coalesce(max(whose.tokens), 0)::bigint AS tokens
    FROM (
        SELECT sum(tokens) AS tokens FROM longrun.tokens_spent
        WHERE principal IN (:principal, :account) AND day = (now() AT TIME ZONE 'UTC')::date
        GROUP BY principal
    ) AS whose
),
-- end
-- optional :max_live
live AS MATERIALIZED (
    SELECT :max_live <= count(*) AS crowded
    FROM (
        SELECT FROM longrun.responses
        WHERE status IN ('queued', 'in_progress')
            AND coalesce(account, principal) = coalesce(:account, :principal)
        LIMIT :max_live
    ) AS own
),
-- end
-- optional :conversation_id
conversation AS (
    UPDATE longrun.conversations
    SET used_at = now(), turns = turns + 1
    WHERE id = :conversation_id AND principal = :principal
    RETURNING id, turns, length
), place AS MATERIALIZED (
    SELECT turns, length, longrun.is_busy(id) AS busy FROM conversation
),
-- end
fitting AS MATERIALIZED (
    SELECT
-- optional :conversation_id
        place.turns, place.length
    FROM place
-- end
    WHERE (:status <> 'queued' OR :max_queued > (
        SELECT count(*)
        FROM (SELECT FROM longrun.responses WHERE status = 'queued' LIMIT :max_queued) AS waiting
    ) OR (
        NOT EXISTS (
            SELECT FROM longrun.responses WHERE status = 'queued' AND principal = :principal
        ) AND 2 * :max_queued > (
            SELECT count(*) FROM (
                SELECT FROM longrun.responses WHERE status = 'queued' LIMIT 2 * :max_queued
            ) AS waiting
        )
    ))
-- optional :conversation_id
    AND (:may_wait OR NOT place.busy)
-- end
-- optional :max_live
    AND NOT (SELECT live.crowded FROM live)
-- end
-- optional :max_tokens
    AND :max_tokens::bigint > (SELECT spent.tokens FROM spent)
-- end
-- optional :key_hashes
    AND NOT EXISTS (SELECT FROM known)
-- end
),
-- optional :key_hashes
claimed AS (
    INSERT INTO longrun.idempotency_keys AS used (principal, hash, response_id)
    SELECT :principal, key.hash, :id
    FROM fitting CROSS JOIN unnest(:key_hashes::bytea[]) AS key (hash)
    ORDER BY key.hash
    ON CONFLICT (principal, hash) DO UPDATE
    SET response_id = excluded.response_id, created_at = excluded.created_at, awaited = 1
    WHERE used.created_at <= now() - make_interval(secs => :key_seconds)
    RETURNING hash
),
-- end
created AS (
    INSERT INTO longrun.responses
        (id, principal, agent, status, background, stored, attempt, spent, replica_id,
         document, input, request, previous_id, metadata_hashes, account, deadline_at
-- optional :conversation_id
        , conversation_id, turn, context_end
-- end
-- optional :forked_from
        , forked_from, forked_conversation_id, forked_context_end
-- end
-- optional :key_hashes
        , body_hash
-- end
        )
    SELECT :id, :principal, :agent, :status, :background, :stored, :attempt::integer, :attempt,
        :replica_id, :document, :input, :request, :previous_id, :metadata_hashes::bigint[],
        :account, now() + make_interval(secs => :run_timeout)
-- optional :conversation_id
        , :conversation_id, fitting.turns, CASE WHEN :status <> 'queued' THEN fitting.length END
-- end
-- optional :forked_from
        , :forked_from, :forked_conversation_id, :forked_context_end::bigint
-- end
-- optional :key_hashes
        , :body_hash
-- end
    FROM fitting
-- optional :key_hashes
    WHERE (SELECT count(*) FROM claimed) = cardinality(:key_hashes::bytea[])
-- end
    RETURNING id, attempt
),
-- optional :asked_by
answered AS (
    INSERT INTO longrun.answers (response_id, requests, answered_by)
    SELECT :asked_by, :answered::integer[], created.id FROM created
),
-- end
-- optional :step_scopes
copied AS (
    INSERT INTO longrun.steps (response_id, scope, kind, key, attempt, fingerprint, result)
    SELECT created.id, step.scope, step.kind, step.key, 0, step.fingerprint, step.result
    FROM created CROSS JOIN unnest(
        :step_scopes::text[], :step_kinds::text[], :step_keys::text[], :step_fingerprints::text[],
        :step_results::text[]
    ) AS step (scope, kind, key, fingerprint, result)
),
-- end
durable AS MATERIALIZED (
    -- As in append_log.
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
), logged AS (
    INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
    SELECT created.id, 0, :last, created.attempt, :events FROM durable CROSS JOIN created
    RETURNING response_id
)
SELECT EXISTS (SELECT FROM logged) AS created
-- optional :conversation_id
    , (SELECT place.busy FROM place) AS busy
-- end
-- optional :max_live
    , (SELECT live.crowded FROM live) AS crowded
-- end
-- optional :max_tokens
    , (SELECT spent.tokens FROM spent) AS tokens
-- end
-- optional :key_hashes
    , EXISTS (SELECT FROM known) OR (EXISTS (SELECT FROM fitting) AND NOT EXISTS (SELECT FROM created))
        AS repeated
-- end
;

-- name: create_responses
-- create_response for many at once, in one commit: of those that are on no conversation and bring no
-- answers. Created is what is certain to be within its limits though all that come before it in the
-- batch count, too; the others are left for create_response, but for those of a principal that is
-- `crowded`, or has spent its `tokens`, already. One row each, in their order. No two have the same
-- key: :key_hashes are those of all creations that have one, :key_places whose they are.
WITH
asked AS MATERIALIZED (
    SELECT *
    FROM unnest(
        :ids::text[], :principals::text[], :agents::text[], :statuses::text[],
        :backgrounds::boolean[], :stored::boolean[], :attempts::integer[], :replica_ids::text[],
        :documents::text[], :inputs::text[], :requests::text[], :previous_ids::text[],
        :hashes::text[], :accounts::text[], :run_timeouts::float8[], :lasts::bigint[],
        :events::bytea[]
    ) WITH ORDINALITY AS asked (
        id, principal, agent, status, background, stored, attempt, replica_id, document, input,
        request, previous_id, hashes, account, run_timeout, last, events, n
    )
    -- Keeps its plan, as in append_log.
    WHERE asked.n % 1 = 0
),
-- optional :most_tokens
spent AS MATERIALIZED (
    SELECT asked.n, allowed.most, coalesce(
        (
            SELECT max(whose.tokens)
            FROM (
                SELECT sum(tokens)::bigint AS tokens FROM longrun.tokens_spent
                WHERE principal IN (asked.principal, asked.account)
                    AND day = (now() AT TIME ZONE 'UTC')::date
                GROUP BY principal
            ) AS whose
        ), 0
    ) AS tokens
    FROM asked
    CROSS JOIN LATERAL (SELECT (:most_tokens::bigint[])[asked.n] AS most) AS allowed
),
-- end
-- optional :max_lives
allowed AS MATERIALIZED (
    SELECT asked.n, coalesce(asked.account, asked.principal) AS whose,
        (:max_lives::integer[])[asked.n] AS most,
        row_number() OVER (
            PARTITION BY coalesce(asked.account, asked.principal) ORDER BY asked.n
        ) AS place
    FROM asked
), live AS MATERIALIZED (
    SELECT each.whose, (
        SELECT count(*)
        FROM (
            SELECT FROM longrun.responses
            WHERE status IN ('queued', 'in_progress')
                AND coalesce(account, principal) = each.whose
            LIMIT each.most
        ) AS own
    ) AS count
    FROM (SELECT whose, max(most) AS most FROM allowed GROUP BY whose) AS each
),
-- end
-- optional :max_queued
waiting AS MATERIALIZED (
    SELECT count(*) FROM (
        SELECT FROM longrun.responses WHERE status = 'queued' LIMIT :max_queued
    ) AS waiting
), queued AS MATERIALIZED (
    SELECT asked.n, row_number() OVER (ORDER BY asked.n) AS place
    FROM asked WHERE asked.status = 'queued'
),
-- end
-- optional :key_hashes
given AS MATERIALIZED (
    SELECT asked.n, asked.id, asked.principal, key.hash
    FROM unnest(:key_places::bigint[], :key_hashes::bytea[]) AS key (n, hash)
    JOIN asked ON asked.n = key.n
), known AS MATERIALIZED (
    SELECT given.n
    FROM given
    JOIN longrun.idempotency_keys AS used
        ON used.principal = given.principal AND used.hash = given.hash
    WHERE used.created_at > now() - make_interval(secs => :key_seconds)
),
-- end
fitting AS MATERIALIZED (
    SELECT asked.* FROM asked
    WHERE true
-- optional :key_hashes
        AND asked.n NOT IN (SELECT known.n FROM known)
-- end
-- optional :most_tokens
        AND asked.n NOT IN (SELECT spent.n FROM spent WHERE spent.tokens >= spent.most)
-- end
-- optional :max_lives
        AND asked.n NOT IN (
            SELECT allowed.n FROM allowed JOIN live ON live.whose = allowed.whose
            WHERE live.count + allowed.place > allowed.most
        )
-- end
-- optional :max_queued
        AND asked.n NOT IN (
            SELECT queued.n FROM queued CROSS JOIN waiting
            WHERE waiting.count + queued.place > :max_queued
        )
-- end
),
-- optional :key_hashes
claimed AS (
    INSERT INTO longrun.idempotency_keys AS used (principal, hash, response_id)
    SELECT given.principal, given.hash, given.id
    FROM given JOIN fitting ON fitting.n = given.n
    ORDER BY given.principal, given.hash
    ON CONFLICT (principal, hash) DO UPDATE
    SET response_id = excluded.response_id, created_at = excluded.created_at, awaited = 1
    WHERE used.created_at <= now() - make_interval(secs => :key_seconds)
    RETURNING response_id
), beaten AS MATERIALIZED (
    SELECT fitting.n FROM fitting
    WHERE (SELECT count(*) FROM given WHERE given.n = fitting.n)
        > (SELECT count(*) FROM claimed WHERE claimed.response_id = fitting.id)
),
-- end
chosen AS MATERIALIZED (
    SELECT fitting.* FROM fitting
-- optional :key_hashes
    WHERE fitting.n NOT IN (SELECT beaten.n FROM beaten)
-- end
), created AS (
    INSERT INTO longrun.responses
        (id, principal, agent, status, background, stored, attempt, spent, replica_id,
         document, input, request, previous_id, metadata_hashes, account, deadline_at
-- optional :key_hashes
        , body_hash
-- end
        )
    SELECT id, principal, agent, status, background, stored, attempt, attempt, replica_id,
        document, input, request, previous_id, hashes::bigint[], account,
        now() + make_interval(secs => run_timeout)
-- optional :key_hashes
        , (:body_hashes::bytea[])[n]
-- end
    FROM chosen
), durable AS MATERIALIZED (
    -- As in append_log.
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
), logged AS (
    INSERT INTO longrun.event_chunks (response_id, first, last, attempt, data)
    SELECT chosen.id, 0, chosen.last, chosen.attempt, chosen.events
    FROM durable CROSS JOIN chosen
)
SELECT asked.n IN (SELECT chosen.n FROM chosen) AS created
-- optional :max_lives
    , (
        SELECT live.count >= allowed.most FROM allowed JOIN live ON live.whose = allowed.whose
        WHERE allowed.n = asked.n
    ) AS crowded
-- end
-- optional :most_tokens
    , (SELECT spent.tokens FROM spent WHERE spent.n = asked.n AND spent.most IS NOT NULL) AS tokens
-- end
-- optional :key_hashes
    , asked.n IN (SELECT known.n FROM known UNION SELECT beaten.n FROM beaten) AS repeated
-- end
FROM asked
ORDER BY asked.n;

-- name: find_created
-- Whether a response is there, of whose creation no answer came.
SELECT FROM longrun.responses WHERE id = $1 AND principal = $2;

-- name: get_response
-- :indexed asks for the output indexes of the items too, without which sealed ones are not opened.
-- With :ended it is on a standby, which has it whole if it has this end.
SELECT id, agent, status, background, document,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id
        ORDER BY item.output_index
    ) AS output
-- optional :indexed
    , ARRAY(
        SELECT item.output_index FROM longrun.items AS item
        WHERE item.response_id = response.id AND :indexed
        ORDER BY item.output_index
    ) AS indexes
-- end
FROM longrun.responses AS response
WHERE id = :id AND principal = :principal AND stored
    AND finished_at = :ended -- optional
;

-- name: get_live_response
-- As get_response; but one that ended more than :settled seconds ago comes without its document and
-- its items, which a standby has, too. `ended` says when that was.
SELECT id, agent, status, background, settled.ended,
    CASE WHEN settled.ended IS NULL THEN document END AS document,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id AND settled.ended IS NULL
        ORDER BY item.output_index
    ) AS output
-- optional :indexed
    , ARRAY(
        SELECT item.output_index FROM longrun.items AS item
        WHERE item.response_id = response.id AND settled.ended IS NULL AND :indexed
        ORDER BY item.output_index
    ) AS indexes
-- end
FROM longrun.responses AS response
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN finished_at < now() - make_interval(secs => :settled) THEN finished_at
    END AS ended
) AS settled
WHERE id = :id AND principal = :principal AND stored;

-- name: has_ended
-- Whether a principal's response that ended then is still there.
SELECT FROM longrun.responses WHERE id = $1 AND principal = $2 AND stored AND finished_at = $3;

-- name: get_response_unscoped
SELECT id, agent, status, background, document,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id
        ORDER BY item.output_index
    ) AS output
-- optional :indexed
    , ARRAY(
        SELECT item.output_index FROM longrun.items AS item
        WHERE item.response_id = response.id AND :indexed
        ORDER BY item.output_index
    ) AS indexes
-- end
FROM longrun.responses AS response
WHERE id = :id;

-- name: get_owner_unscoped
SELECT principal FROM longrun.responses WHERE id = $1;

-- name: get_failure
SELECT status, attempt, deaths, reason
FROM longrun.responses
WHERE id = $1 AND principal = $2 AND stored;

-- name: show_response
-- All that an operator may want to know of a response.
SELECT id, principal, agent, status, background, stored, attempt, spent, deaths, handovers,
    replica_id, created_at, finished_at, deadline_at, document, reason, ran_on,
    (SELECT count(*) FROM longrun.items WHERE response_id = response.id) AS items,
    (
        SELECT sum(last - first + 1)::bigint FROM longrun.event_chunks WHERE response_id = response.id
    ) AS events,
    ARRAY(
        SELECT concat_ws(' ', nullif(step.scope, ''), step.kind, step.key)
        FROM longrun.steps AS step
        WHERE step.response_id = response.id AND step.attempt > 0
        ORDER BY step.recorded_at
    ) AS steps
FROM longrun.responses AS response
WHERE id = $1;

-- name: check_chain
-- Whether the chain that ends with this response is whole: as read_chain, without what was said.
WITH RECURSIVE chain AS (
    SELECT id, previous_id, 0 AS depth FROM longrun.responses
    WHERE id = $1 AND principal = $2 AND stored
    UNION ALL
    SELECT previous.id, previous.previous_id, chain.depth + 1
    FROM chain
    JOIN longrun.responses AS previous ON previous.id = chain.previous_id
    WHERE previous.principal = $2 AND previous.stored
)
SELECT response.status,
    (SELECT chain.previous_id FROM chain ORDER BY chain.depth DESC LIMIT 1) AS missing
FROM longrun.responses AS response
WHERE response.id = $1 AND response.principal = $2 AND response.stored;

-- name: read_chain
-- What a next response continues: what each response of the chain that ends with this one was given
-- and gave, and what was put into it meanwhile, the oldest first. Where the first one continues
-- another that is not among them, that one was deleted or has expired. Of one whose input was refused
-- nothing is continued. `inserts`: where what was given stands among what a fork gave. Alone: this one
-- without those before it, whether or not it is kept: a connection continues what is not kept beyond it.
WITH RECURSIVE chain AS (
    SELECT id, previous_id, 0 AS depth FROM longrun.responses
    WHERE id = :id AND principal = :principal AND (stored OR :alone::boolean)
    UNION ALL
    SELECT previous.id, previous.previous_id, chain.depth + 1
    FROM chain
    JOIN longrun.responses AS previous ON previous.id = chain.previous_id
    WHERE NOT :alone::boolean AND previous.principal = :principal AND previous.stored
)
SELECT chain.id, chain.previous_id, response.status, response.input, response.input_refused,
    coalesce(response.conversation_id, response.forked_conversation_id) AS conversation_id,
    CASE WHEN response.forked_from IS NOT NULL THEN ARRAY(
        SELECT step.result FROM longrun.steps AS step
        WHERE step.response_id = chain.id AND step.scope = '' AND step.kind = 'input'
        ORDER BY length(step.key), step.key
    ) END AS inserts,
    coalesce(output.items, '{}') AS output, coalesce(output.models, '{}') AS models,
    coalesce(output.indexes, '{}') AS indexes,
    coalesce(put_in.items, '{}') AS steers, coalesce(put_in.numbers, '{}') AS steer_numbers,
    coalesce(put_in.indexes, '{}') AS steer_indexes
FROM chain
JOIN longrun.responses AS response ON response.id = chain.id
CROSS JOIN LATERAL (
    SELECT array_agg(steer.item ORDER BY steer.number) AS items,
        array_agg(steer.number ORDER BY steer.number) AS numbers,
        array_agg(steer.output_index ORDER BY steer.number) AS indexes
    FROM longrun.steers AS steer
    WHERE response.steered > 0 AND steer.response_id = chain.id
) AS put_in
CROSS JOIN LATERAL (
    SELECT array_agg(item.item ORDER BY item.output_index) AS items,
        array_agg(
            CASE WHEN item.output_index = ANY(response.unkept) THEN NULL ELSE item.model END
            ORDER BY item.output_index
        ) AS models,
        array_agg(item.output_index ORDER BY item.output_index) AS indexes
    FROM longrun.items AS item
    WHERE item.response_id = chain.id
) AS output
ORDER BY chain.depth DESC;

-- name: find_last_spoken
-- Of these responses of a principal's, in this order, the first in which a model has spoken: what
-- it asked for, and what its last turn was asked.
SELECT response.id, response.agent, step.key, step.fingerprint
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (id, place)
JOIN longrun.responses AS response ON response.id = wanted.id AND response.principal = $2
CROSS JOIN LATERAL (
    SELECT step.key, step.fingerprint FROM longrun.steps AS step
    WHERE step.response_id = wanted.id AND step.scope = '' AND step.kind = 'model'
    ORDER BY length(step.key) DESC, step.key DESC
    LIMIT 1
) AS step
ORDER BY wanted.place
LIMIT 1;

-- name: find_items
-- A principal's items at these indexes of these responses, and messages that were put into them; of an
-- index among those of input items, all of that response's input, unless a guardrail refused it.
SELECT wanted.response_id, wanted.output_index, item.item,
    CASE WHEN item.output_index = ANY(response.unkept) THEN NULL ELSE item.model END AS model,
    NULL AS input
FROM unnest($1::text[], $2::integer[]) AS wanted (response_id, output_index)
JOIN longrun.responses AS response ON response.id = wanted.response_id
    AND response.principal = $3 AND response.stored
JOIN longrun.items AS item ON item.response_id = wanted.response_id
    AND item.output_index = wanted.output_index
UNION ALL
SELECT response.id, NULL, NULL, NULL, response.input
FROM longrun.responses AS response
WHERE response.principal = $3 AND response.stored AND NOT response.input_refused AND response.id IN (
    SELECT wanted.response_id
    FROM unnest($1::text[], $2::integer[]) AS wanted (response_id, output_index)
    WHERE wanted.output_index >= 8388608 -- as ids.py numbers them
        AND wanted.output_index < 12582912
)
UNION ALL
SELECT wanted.response_id, wanted.output_index, steer.item, NULL, NULL
FROM unnest($1::text[], $2::integer[]) AS wanted (response_id, output_index)
JOIN longrun.responses AS response ON response.id = wanted.response_id
    AND response.principal = $3 AND response.stored AND NOT response.input_refused
JOIN longrun.steers AS steer ON steer.response_id = wanted.response_id
    AND steer.number = wanted.output_index - 12582912
WHERE wanted.output_index >= 12582912;

-- name: measure_items
-- Of those that find_items would find, how many bytes are read for each.
SELECT wanted.response_id, wanted.output_index,
    octet_length(item.item) + coalesce(octet_length(item.model), 0) AS bytes
FROM unnest($1::text[], $2::integer[]) AS wanted (response_id, output_index)
JOIN longrun.responses AS response ON response.id = wanted.response_id
    AND response.principal = $3 AND response.stored
JOIN longrun.items AS item ON item.response_id = wanted.response_id
    AND item.output_index = wanted.output_index
UNION ALL
SELECT wanted.response_id, wanted.output_index, octet_length(response.input)
FROM unnest($1::text[], $2::integer[]) AS wanted (response_id, output_index)
JOIN longrun.responses AS response ON response.id = wanted.response_id
    AND response.principal = $3 AND response.stored AND NOT response.input_refused
WHERE wanted.output_index >= 8388608 AND wanted.output_index < 12582912
UNION ALL
SELECT wanted.response_id, wanted.output_index, octet_length(steer.item)
FROM unnest($1::text[], $2::integer[]) AS wanted (response_id, output_index)
JOIN longrun.responses AS response ON response.id = wanted.response_id
    AND response.principal = $3 AND response.stored AND NOT response.input_refused
JOIN longrun.steers AS steer ON steer.response_id = wanted.response_id
    AND steer.number = wanted.output_index - 12582912
WHERE wanted.output_index >= 12582912;

-- name: outline_input
-- How many items a principal's response was given, and those among them that may be references, by
-- their places, if they have no more than $3 bytes. Of an encrypted input all of it. Nothing is looked
-- up in an item: that decodes all of its strings, and some that JSON may have are refused.
SELECT CASE WHEN response.input LIKE 'sealed:%' THEN response.input END AS sealed,
    given.count, given.places, given.candidates
FROM longrun.responses AS response
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS count,
        array_agg(each.place::integer - 1 ORDER BY each.place)
            FILTER (WHERE octet_length(each.item) <= $3 AND each.item LIKE '%"item_reference"%') AS places,
        array_agg(each.item ORDER BY each.place)
            FILTER (WHERE octet_length(each.item) <= $3 AND each.item LIKE '%"item_reference"%') AS candidates
    FROM (
        SELECT element.item::text AS item, element.place
        FROM json_array_elements(
            CASE WHEN response.input LIKE 'sealed:%' THEN '[]' ELSE response.input END::json
        ) WITH ORDINALITY AS element (item, place)
    ) AS each
) AS given
WHERE response.id = $1 AND response.principal = $2 AND response.stored;

-- name: read_input_items
-- Items of a response's input that is not encrypted, at these places and in this order, while they have
-- no more than $3 bytes together; the first in any case.
SELECT found.item, found.bytes
FROM (
    SELECT each.item, wanted.number, octet_length(each.item) AS bytes,
        sum(octet_length(each.item)) OVER (ORDER BY wanted.number) AS total
    FROM unnest($2::integer[]) WITH ORDINALITY AS wanted (place, number)
    JOIN (
        SELECT element.item::text AS item, element.place - 1 AS place
        FROM longrun.responses AS response,
            json_array_elements(response.input::json) WITH ORDINALITY AS element (item, place)
        WHERE response.id = $1
    ) AS each ON each.place = wanted.place
) AS found
WHERE found.number = 1 OR found.total <= $3
ORDER BY found.number;

-- name: list_newest
-- Which a page of a principal's responses has, the newest first, and how many bytes each of them has:
-- its document and its items, which are not read for that. Optional lines are left out where their
-- value is not given, so that each combination has a plan of its own. Where the hashes depend on
-- the key of the row, :sought_hashes are those of each key, and :any_hashes what the index looks for.
SELECT listed.id, listed.document + coalesce((
    SELECT sum(octet_length(item.item)) FROM longrun.items AS item
    WHERE item.response_id = listed.id
), 0) AS bytes
FROM (
    SELECT id, octet_length(document) AS document FROM longrun.responses
    WHERE principal = :principal AND stored
        AND id < :after -- optional
        AND status = :status -- optional
        AND agent = :agent -- optional
        AND metadata_hashes @> :metadata_hashes::bigint[] -- optional
-- optional :sought_hashes
        AND metadata_hashes && :any_hashes::bigint[]
        AND EXISTS (
            SELECT FROM unnest(:sought_hashes::text[]) AS sought (hashes)
            WHERE metadata_hashes @> sought.hashes::bigint[]
        )
-- end
    ORDER BY id DESC
    LIMIT :limit
) AS listed
ORDER BY listed.id DESC;

-- name: list_oldest
-- A page of a principal's responses, the oldest first; see list_newest.
SELECT listed.id, listed.document + coalesce((
    SELECT sum(octet_length(item.item)) FROM longrun.items AS item
    WHERE item.response_id = listed.id
), 0) AS bytes
FROM (
    SELECT id, octet_length(document) AS document FROM longrun.responses
    WHERE principal = :principal AND stored
        AND id > :after -- optional
        AND status = :status -- optional
        AND agent = :agent -- optional
        AND metadata_hashes @> :metadata_hashes::bigint[] -- optional
-- optional :sought_hashes
        AND metadata_hashes && :any_hashes::bigint[]
        AND EXISTS (
            SELECT FROM unnest(:sought_hashes::text[]) AS sought (hashes)
            WHERE metadata_hashes @> sought.hashes::bigint[]
        )
-- end
    ORDER BY id
    LIMIT :limit
) AS listed
ORDER BY listed.id;

-- name: get_responses
-- These responses, in this order, as long as they are there and theirs.
SELECT response.id, agent, status, background, document,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id
        ORDER BY item.output_index
    ) AS output
-- optional :indexed
    , ARRAY(
        SELECT item.output_index FROM longrun.items AS item
        WHERE item.response_id = response.id AND :indexed
        ORDER BY item.output_index
    ) AS indexes
-- end
FROM unnest(:ids::text[]) WITH ORDINALITY AS wanted (id, place)
JOIN longrun.responses AS response ON response.id = wanted.id
WHERE principal = :principal AND stored
ORDER BY wanted.place;

-- name: list_newest_unscoped
-- As list_newest, whoever's they are: for admins.
SELECT listed.id, listed.document + coalesce((
    SELECT sum(octet_length(item.item)) FROM longrun.items AS item
    WHERE item.response_id = listed.id
), 0) AS bytes
FROM (
    SELECT id, octet_length(document) AS document FROM longrun.responses
    WHERE stored
        AND id < :after -- optional
        AND status = :status -- optional
        AND agent = :agent -- optional
        AND metadata_hashes @> :metadata_hashes::bigint[] -- optional
-- optional :sought_hashes
        AND metadata_hashes && :any_hashes::bigint[]
        AND EXISTS (
            SELECT FROM unnest(:sought_hashes::text[]) AS sought (hashes)
            WHERE metadata_hashes @> sought.hashes::bigint[]
        )
-- end
    ORDER BY id DESC
    LIMIT :limit
) AS listed
ORDER BY listed.id DESC;

-- name: list_oldest_unscoped
-- As list_oldest, whoever's they are: for admins.
SELECT listed.id, listed.document + coalesce((
    SELECT sum(octet_length(item.item)) FROM longrun.items AS item
    WHERE item.response_id = listed.id
), 0) AS bytes
FROM (
    SELECT id, octet_length(document) AS document FROM longrun.responses
    WHERE stored
        AND id > :after -- optional
        AND status = :status -- optional
        AND agent = :agent -- optional
        AND metadata_hashes @> :metadata_hashes::bigint[] -- optional
-- optional :sought_hashes
        AND metadata_hashes && :any_hashes::bigint[]
        AND EXISTS (
            SELECT FROM unnest(:sought_hashes::text[]) AS sought (hashes)
            WHERE metadata_hashes @> sought.hashes::bigint[]
        )
-- end
    ORDER BY id
    LIMIT :limit
) AS listed
ORDER BY listed.id;

-- name: get_responses_unscoped
-- As get_responses, whoever's they are, and whose: for admins.
SELECT response.id, principal, agent, status, background, document,
    ARRAY(
        SELECT item.item FROM longrun.items AS item
        WHERE item.response_id = response.id
        ORDER BY item.output_index
    ) AS output
-- optional :indexed
    , ARRAY(
        SELECT item.output_index FROM longrun.items AS item
        WHERE item.response_id = response.id AND :indexed
        ORDER BY item.output_index
    ) AS indexes
-- end
FROM unnest(:ids::text[]) WITH ORDINALITY AS wanted (id, place)
JOIN longrun.responses AS response ON response.id = wanted.id
WHERE stored
ORDER BY wanted.place;

-- name: lock_response_unscoped
SELECT status FROM longrun.responses WHERE id = $1 FOR UPDATE;

-- name: lock_response_of
SELECT status FROM longrun.responses WHERE id = $1 AND principal = $2 AND stored FOR UPDATE;

-- name: unsay_response
-- What was said to and by a response goes out of its conversation.
DELETE FROM longrun.conversation_items WHERE response_id = $1;

-- name: delete_response
-- After lock_response_of or lock_response_unscoped in the same transaction, so that no append
-- can come in between.
WITH chunks AS (
    DELETE FROM longrun.event_chunks WHERE response_id = $1
), items AS (
    DELETE FROM longrun.items WHERE response_id = $1
), steps AS (
    DELETE FROM longrun.steps WHERE response_id = $1
)
DELETE FROM longrun.responses WHERE id = $1;
