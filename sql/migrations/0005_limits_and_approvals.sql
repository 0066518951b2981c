-- Limits, approvals, and encryption at rest.

-- Encryption at rest: the keys that something may be encrypted with, without the keys. A replica
-- that lacks one of them says so.
CREATE TABLE longrun.encryption_keys (
    id text COLLATE "C" PRIMARY KEY,
    -- Derived from the key: tells whether two replicas mean the same key by this id.
    check_value text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When a replica last said that it encrypts with it.
    used_at timestamptz NOT NULL DEFAULT now()
);

-- One row per event, as before; of a chunk that is encrypted it does not say what is in them.
CREATE OR REPLACE VIEW longrun.events AS
SELECT
    chunk.response_id,
    chunk.first + line.n - 1 AS sequence_number,
    chunk.attempt,
    CASE WHEN line.event IS NULL THEN 'encrypted'
        ELSE substring(line.event FROM '^\{"type":"([^"]*)"') END AS type,
    line.event::json AS event
FROM longrun.event_chunks AS chunk
CROSS JOIN LATERAL unnest(
    CASE WHEN get_byte(substring(chunk.data FOR 1), 0) = 1
        THEN array_fill(NULL::text, ARRAY[(chunk.last - chunk.first + 1)::integer])
        ELSE string_to_array(convert_from(chunk.data, 'UTF8'), E'\n') END
) WITH ORDINALITY AS line (event, n);

-- What was said goes with its rows, and stays in no statistics: ANALYZE keeps samples of a column in
-- pg_statistic, whatever is deleted, until it is run again.
ALTER TABLE longrun.responses
    ALTER COLUMN document SET STATISTICS 0,
    ALTER COLUMN input SET STATISTICS 0,
    ALTER COLUMN request SET STATISTICS 0,
    ALTER COLUMN reason SET STATISTICS 0;
ALTER TABLE longrun.event_chunks ALTER COLUMN data SET STATISTICS 0;
ALTER TABLE longrun.items
    ALTER COLUMN item SET STATISTICS 0,
    ALTER COLUMN model SET STATISTICS 0;
ALTER TABLE longrun.steps
    ALTER COLUMN fingerprint SET STATISTICS 0,
    ALTER COLUMN result SET STATISTICS 0;
ALTER TABLE longrun.conversations ALTER COLUMN metadata SET STATISTICS 0;
ALTER TABLE longrun.conversation_items
    ALTER COLUMN item SET STATISTICS 0,
    ALTER COLUMN model SET STATISTICS 0;

-- Those that were kept until now would stay for good. Before Postgres 18 only a superuser can remove
-- them; sql/README.md says how.
DO $$
DECLARE
    kept record;
BEGIN
    FOR kept IN
        SELECT class.oid, namespace.nspname, class.relname, attribute.attname, attribute.attnum
        FROM pg_namespace AS namespace
        JOIN pg_class AS class ON class.relnamespace = namespace.oid
        JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid
        WHERE class.oid IN (
                'longrun.responses'::regclass, 'longrun.event_chunks'::regclass,
                'longrun.items'::regclass, 'longrun.steps'::regclass,
                'longrun.conversations'::regclass, 'longrun.conversation_items'::regclass
            )
            AND attribute.attnum > 0 AND attribute.attstattarget = 0
    LOOP
        IF current_setting('server_version_num')::integer >= 180000 THEN
            EXECUTE format(
                'SELECT pg_clear_attribute_stats(%L, %L, %L, false)',
                kept.nspname, kept.relname, kept.attname
            );
        ELSE
            DELETE FROM pg_statistic WHERE starelid = kept.oid AND staattnum = kept.attnum;
        END IF;
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'earlier statistics of what was said are kept: a superuser can remove them';
END
$$;

-- Limits: how many requests a minute, and how many tokens a day.

ALTER TABLE longrun.keys
    -- How often a run may be asked for with it in a minute.
    ADD COLUMN max_requests integer CHECK (max_requests >= 1),
    -- How many tokens its principal may have spent in a day when it creates another response.
    ADD COLUMN max_tokens bigint CHECK (max_tokens >= 1);

-- Whose limits hold for the response, where its principal is another: who acted for that one.
ALTER TABLE longrun.responses ADD COLUMN account text;

-- How many somebody has that are queued or running.
CREATE INDEX responses_live ON longrun.responses ((coalesce(account, principal)))
    WHERE status IN ('queued', 'in_progress');

-- The tokens of responses that ended on a day (UTC), by whom they count for. A session of Postgres
-- adds to rows of its own, so that no end of a response ever waits for another.
CREATE TABLE longrun.tokens_spent (
    principal text COLLATE "C" NOT NULL,
    day date NOT NULL,
    session integer NOT NULL,
    tokens bigint NOT NULL CHECK (tokens >= 0),
    PRIMARY KEY (principal, day, session)
);

CREATE INDEX tokens_spent_by_day ON longrun.tokens_spent (day);

-- What replicas tell each other of the requests of the last minute. Nothing of it is missed after
-- a crash, so it is in no log of Postgres.
CREATE UNLOGGED TABLE longrun.request_rates (
    subject text COLLATE "C" PRIMARY KEY,
    -- Requests that have not worn off; `rate` of them wear off in a second, since `at`.
    level double precision NOT NULL,
    rate double precision NOT NULL CHECK (rate > 0),
    at timestamptz NOT NULL
);

CREATE INDEX request_rates_by_time ON longrun.request_rates (at);

-- When a run that was handed over last recorded a step: those that did most recently are resumed
-- first. Null: it was never handed over, or by an older version.
ALTER TABLE longrun.responses ADD COLUMN active_at timestamptz;

-- The queue: the oldest that wait, whoever's they are, and how many runs of a principal there are.
CREATE INDEX responses_waiting ON longrun.responses (id) INCLUDE (principal, agent)
    WHERE status = 'queued';
CREATE INDEX responses_running ON longrun.responses (principal) WHERE status = 'in_progress';

-- Whether a replica would take more runs, as it said last. Null: an older version does not say.
ALTER TABLE longrun.replicas ADD COLUMN has_room boolean;

-- Approvals: a run that asks whether it may do something ends, and waits as a row.

-- What a later response goes on from. Foreign keys here, since an older server that deletes a
-- response does not know these tables; rows are few.
CREATE TABLE longrun.parked (
    response_id text COLLATE "C" PRIMARY KEY REFERENCES longrun.responses ON DELETE CASCADE,
    -- The output indexes of the `mcp_approval_request` items that wait for an answer.
    requests integer[] NOT NULL CHECK (requests <> '{}'),
    -- Who can read the state: the version of ours in which it is written, and what wrote the rest
    -- of it, as in `openai-agents 0.24.0`.
    format integer NOT NULL,
    written_by text NOT NULL,
    -- A JSON object.
    state text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now()
);

-- What is parked goes on once, by the response that was created with the answers; that one asks
-- again for what it was not told. Else a call could be made twice.
CREATE TABLE longrun.answers (
    response_id text COLLATE "C" PRIMARY KEY REFERENCES longrun.parked ON DELETE CASCADE,
    -- The output indexes of the requests that were answered.
    requests integer[] NOT NULL,
    answered_by text COLLATE "C" NOT NULL,
    answered_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE longrun.parked ALTER COLUMN state SET STATISTICS 0;

-- Chains: an input guardrail refused what the request brought, so nothing of the response is in any
-- later context. False of what an older version ended.
ALTER TABLE longrun.responses ADD COLUMN input_refused boolean NOT NULL DEFAULT false;

-- The output indexes of items of model turns that broke off, which their provider may not have kept:
-- it may not know the ids that it gave them. So later contexts have what they say, and no more.
ALTER TABLE longrun.responses ADD COLUMN unkept integer[];

DO $$
BEGIN
    ALTER TABLE longrun.parked ALTER COLUMN state SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;
