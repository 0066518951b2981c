-- Compaction: the many small chunks of a finished response become few large ones.

ALTER TABLE longrun.responses
    -- When its log was compacted, or found to be as small as it gets. Null: not looked at yet.
    ADD COLUMN compacted_at timestamptz;

-- What is to be compacted, the longest finished first; none is left here of one that was.
CREATE INDEX responses_uncompacted ON longrun.responses (finished_at)
    WHERE finished_at IS NOT NULL AND compacted_at IS NULL;

-- A compacted log leaves a dead row for each small chunk. By default autovacuum waits until a fifth
-- of the table is dead; looked after early, their room is used by the next appends.
ALTER TABLE longrun.event_chunks SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000
);
