-- API keys: who may call, for which principal, and what.

CREATE TABLE longrun.keys (
    -- The public part, by which a key is found and spoken of.
    prefix text COLLATE "C" PRIMARY KEY,
    -- SHA-256 of the whole key. The key itself is shown once and stored nowhere.
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    name text NOT NULL CHECK (name <> ''),
    principal text COLLATE "C" NOT NULL,
    scopes text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'write', 'admin'] AND scopes <> '{}'),
    -- How many responses of its principal may be queued or running when it creates another.
    max_runs integer CHECK (max_runs >= 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    -- Rotated: another key has its name now; it may stay valid for a while.
    replaced boolean NOT NULL DEFAULT false,
    -- A chat token: a key for a page, which may start so many more runs of this agent alone.
    agent text,
    runs_left integer CHECK (runs_left >= 0)
);

-- A name is one key's, until that is revoked.
CREATE UNIQUE INDEX keys_by_name ON longrun.keys (name)
    WHERE revoked_at IS NULL AND NOT replaced AND agent IS NULL;

-- Chat tokens go when they have expired.
CREATE INDEX keys_of_pages ON longrun.keys (expires_at) WHERE agent IS NOT NULL;

-- What stream tokens are signed with: a new one each day, the ones before it still valid for a day.
CREATE TABLE longrun.token_secrets (
    created_at timestamptz PRIMARY KEY DEFAULT now(),
    secret text NOT NULL
);
