-- Event retention: of what ended some time ago the deltas go, and whole items stay.

-- How far work has come that goes through the responses in the order in which they ended.
CREATE TABLE longrun.reached (
    work text COLLATE "C" PRIMARY KEY,
    finished_at timestamptz NOT NULL
);

-- One row per event, as before, but that the number of an event is the one in it: a log without its
-- deltas is numbered anew (store/abridged.py).
CREATE OR REPLACE VIEW longrun.events AS
SELECT
    chunk.response_id,
    coalesce(
        substring(line.event FROM '^\{"type":"[^"]*","sequence_number":(\d+)')::bigint,
        chunk.first + line.n - 1
    ) AS sequence_number,
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
