-- Digests: what stretches of a long live log say, with its deltas merged, for who joins it late.

-- They are made of the log, which goes without them: a stretch that has none is read there. They go
-- when their response has ended, whose items are whole then. A foreign key, since an older server that
-- deletes a response does not know this table.
CREATE TABLE longrun.digests (
    response_id text COLLATE "C" NOT NULL REFERENCES longrun.responses ON DELETE CASCADE,
    first bigint NOT NULL CHECK (first >= 0),
    last bigint NOT NULL CHECK (last >= first),
    -- Events first..last of the log, fewer of them, as in event_chunks.
    data bytea NOT NULL,
    PRIMARY KEY (response_id, last)
);

ALTER TABLE longrun.digests ALTER COLUMN data SET STATISTICS 0;

DO $$
BEGIN
    ALTER TABLE longrun.digests ALTER COLUMN data SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;
