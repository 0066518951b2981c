-- When events were committed, and who executed which attempt. Both are filled in by Postgres itself,
-- so that a replica of the last version, which does not know of them, leaves no gap.

-- Of chunks that were written before: null. Two steps, so that no row is rewritten.
ALTER TABLE longrun.event_chunks ADD COLUMN committed_at timestamptz;
ALTER TABLE longrun.event_chunks ALTER COLUMN committed_at SET DEFAULT now();

-- The attempts that are over, each as `attempt replica seconds how`: until when, since the epoch, and
-- how it ended (died, left, or the status of the response). Without what a newer one had begun.
ALTER TABLE longrun.responses ADD COLUMN ran_on text[] COLLATE "C";

-- Costs nothing where no replica lets go of a response, and no row of its own where one does.
CREATE FUNCTION longrun.note_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.ran_on := coalesce(OLD.ran_on, '{}') || concat_ws(
        ' ', OLD.attempt, OLD.replica_id, round(extract(epoch FROM now())::numeric, 3),
        CASE WHEN NEW.finished_at IS NOT NULL THEN NEW.status
            WHEN NEW.deaths > OLD.deaths THEN 'died' ELSE 'left' END
    );
    RETURN NEW;
END
$$;

CREATE TRIGGER note_attempt BEFORE UPDATE OF replica_id ON longrun.responses
    FOR EACH ROW
    WHEN (
        OLD.replica_id IS NOT NULL
        AND (NEW.replica_id IS DISTINCT FROM OLD.replica_id OR NEW.attempt <> OLD.attempt)
    )
    EXECUTE FUNCTION longrun.note_attempt();
