-- Whether a replica is stopping: it takes nothing more, and what comes to it waits for the others. False
-- of one of an earlier version, which refuses what comes then.
ALTER TABLE longrun.replicas ADD COLUMN draining boolean NOT NULL DEFAULT false;
