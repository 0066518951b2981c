-- Idempotency keys: which response a principal created with which one.

-- A key leads to its response for a day, or however long the settings say, also when that is gone by
-- then: what was created with it is not created again.
CREATE TABLE longrun.idempotency_keys (
    principal text COLLATE "C" NOT NULL,
    -- Of the key and its principal: never the key itself, which a client may have made of anything.
    -- With encryption keys one row for each of these, so that replicas whose rings differ by one meet.
    hash bytea NOT NULL,
    response_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- How many connections wait for the response, of a foreground request. Where a replica is lost it
    -- stays too high: then the run goes on to its end.
    awaited integer NOT NULL DEFAULT 1,
    PRIMARY KEY (principal, hash)
);

CREATE INDEX idempotency_keys_by_time ON longrun.idempotency_keys (created_at);

-- What tells the same request from another one with its key, 32 bytes for each encryption key. It goes
-- with the response. Null: there was no key.
ALTER TABLE longrun.responses ADD COLUMN body_hash bytea;
ALTER TABLE longrun.responses ALTER COLUMN body_hash SET STATISTICS 0;
