-- What is signed for longer than a few days: one secret for each purpose, for all replicas. What was
-- signed with one that is deleted is refused from then on.
CREATE TABLE longrun.signing_secrets (
    purpose text COLLATE "C" PRIMARY KEY,
    secret text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
