-- The agents that a replica serves, by which it is seen what waits for one that nobody serves. Null: an
-- older version does not say, and may serve any.
ALTER TABLE longrun.replicas ADD COLUMN agents text[];
