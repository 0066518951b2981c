-- The first schema. `longrun.` stands for the configured schema (LONGRUN_SCHEMA) everywhere.
--
-- Every key of a response's data begins with the response's id, so that all of it lies
-- together, can be partitioned by it, and is found by one index descent.
-- JSON is kept as text, not jsonb: agents produce \u0000 and lone surrogates, which are legal
-- JSON and which jsonb refuses; and nothing here is searched by its content.

CREATE TABLE longrun.responses (
    id text COLLATE "C" PRIMARY KEY,
    principal text NOT NULL,
    agent text NOT NULL,
    status text NOT NULL CHECK (
        status IN ('queued', 'in_progress', 'completed', 'failed', 'incomplete', 'cancelled')
    ),
    background boolean NOT NULL,
    -- False: the client asked that nothing be kept; invisible, and deleted when it is finished.
    stored boolean NOT NULL,
    -- The n-th run of this response. Every write names the attempt that it belongs to.
    attempt integer NOT NULL CHECK (attempt >= 0),
    -- Attempts that were used up: a handover starts a new attempt and uses up none.
    spent integer NOT NULL CHECK (spent >= 0),
    -- Who executes it now. Null while in progress: handed over, anybody may take it.
    replica_id text COLLATE "C",
    -- Somebody cancelled it: whoever holds it next ends it, and does not run it.
    cancelled boolean NOT NULL DEFAULT false,
    -- The Response object without its output, which is made of the items.
    document text NOT NULL,
    -- All input items of the run, those of previous responses included: a JSON array.
    input text NOT NULL,
    -- What the run needs besides: the request's parameters as they came, a JSON object.
    request text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The end of its time, over all attempts, executed or not.
    deadline_at timestamptz NOT NULL,
    finished_at timestamptz,
    CHECK (replica_id IS NULL OR status = 'in_progress'),
    CHECK ((finished_at IS NOT NULL)
        = (status IN ('completed', 'failed', 'incomplete', 'cancelled')))
) WITH (fillfactor = 80);

CREATE INDEX responses_of_principal ON longrun.responses (principal, id DESC) WHERE stored;
CREATE INDEX responses_queued ON longrun.responses (principal, id) WHERE status = 'queued';
CREATE INDEX responses_in_progress ON longrun.responses (replica_id, id)
    INCLUDE (attempt, principal) WHERE status = 'in_progress';
CREATE INDEX responses_deadline ON longrun.responses (deadline_at)
    WHERE status IN ('queued', 'in_progress');
CREATE INDEX responses_finished ON longrun.responses (finished_at)
    WHERE finished_at IS NOT NULL;

-- The event log: the only truth about a stream. A row is a chunk, not an event.
-- No foreign key on purpose: every append checks and locks its response in its own statement
-- (queries/events.sql, append_log), and a foreign key would check it again for each row.
CREATE TABLE longrun.event_chunks (
    response_id text COLLATE "C" NOT NULL,
    first bigint NOT NULL CHECK (first >= 0),
    last bigint NOT NULL CHECK (last >= first),
    attempt integer NOT NULL,
    -- Events first..last, one JSON object a line, without a newline at the end.
    data bytea NOT NULL,
    PRIMARY KEY (response_id, last)
);

-- Finished output items: what a poll shows, however long the log is.
CREATE TABLE longrun.items (
    response_id text COLLATE "C" NOT NULL,
    output_index integer NOT NULL CHECK (output_index >= 0),
    item text NOT NULL,
    PRIMARY KEY (response_id, output_index)
);

-- Finished model turns and tool calls, kept so that they are never done twice.
CREATE TABLE longrun.steps (
    response_id text COLLATE "C" NOT NULL,
    -- Where in the run: '' for the run itself, else the path of calls that lead to a nested one.
    scope text COLLATE "C" NOT NULL,
    -- `start` says that a tool which must not run twice was begun.
    kind text COLLATE "C" NOT NULL
        CHECK (kind IN ('model', 'tool', 'start', 'handoff', 'session')),
    -- Which of them: the turn for a model step or a handoff, the call id for a tool.
    key text COLLATE "C" NOT NULL,
    attempt integer NOT NULL,
    -- Of what the step was given, to notice that a replay no longer fits.
    fingerprint text NOT NULL,
    result text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (response_id, scope, kind, key)
);

-- One row and one heartbeat a replica, not a run.
CREATE TABLE longrun.replicas (
    id text COLLATE "C" PRIMARY KEY,
    hostname text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL
);

-- One row per event, for people with psql. Servers never read this.
CREATE VIEW longrun.events AS
SELECT
    chunk.response_id,
    chunk.first + line.n - 1 AS sequence_number,
    chunk.attempt,
    substring(line.event FROM '^\{"type":"([^"]*)"') AS type,
    line.event::json AS event
FROM longrun.event_chunks AS chunk
CROSS JOIN LATERAL unnest(
    string_to_array(convert_from(chunk.data, 'UTF8'), E'\n')
) WITH ORDINALITY AS line (event, n);

-- lz4 costs a fraction of pglz's time; a server built without it keeps its default.
DO $$
BEGIN
    ALTER TABLE longrun.event_chunks ALTER COLUMN data SET COMPRESSION lz4;
    ALTER TABLE longrun.responses ALTER COLUMN input SET COMPRESSION lz4;
    ALTER TABLE longrun.items ALTER COLUMN item SET COMPRESSION lz4;
    ALTER TABLE longrun.steps ALTER COLUMN result SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;
