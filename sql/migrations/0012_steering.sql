-- Steering: messages that are put into a live run, between two of its steps.

-- How many were. Counted here, in the row that every append of the run looks at: so its end and a
-- message that comes at the same moment cannot miss each other.
ALTER TABLE longrun.responses ADD COLUMN steered integer NOT NULL DEFAULT 0;

-- A foreign key, since an older server that deletes a response does not know this table.
CREATE TABLE longrun.steers (
    response_id text COLLATE "C" NOT NULL REFERENCES longrun.responses ON DELETE CASCADE,
    -- 0, 1, 2, … in the order in which they came.
    number integer NOT NULL CHECK (number >= 0),
    -- The number of the first message of the same request.
    first integer NOT NULL,
    -- A hash of the request's Idempotency-Key, in the row of its first message.
    key text,
    -- The message, an input item as JSON.
    item text NOT NULL,
    -- Before which output index it stands, since the run took it when it was there; null: it was not
    -- taken, and stands behind all output.
    output_index integer,
    -- Before which model turn of the run it was taken; null for a handler, which has steps of its own.
    turn integer,
    given_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (response_id, number)
);

CREATE UNIQUE INDEX steers_key ON longrun.steers (response_id, key) WHERE key IS NOT NULL;

ALTER TABLE longrun.steers ALTER COLUMN item SET STATISTICS 0;
