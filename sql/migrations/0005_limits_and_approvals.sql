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
