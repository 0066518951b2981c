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
