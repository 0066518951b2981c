-- breaking: older servers would run a response that continues another without what came before.
-- Chains are stored once: a response holds what its own request brought, and whom it continues.
-- Responses of the first schema hold their whole history in `input` and begin a chain of their own.

ALTER TABLE longrun.responses
    -- The response that this one continues; it may be deleted or expire on its own.
    ADD COLUMN previous_id text COLLATE "C",
    -- A hash of each `key=value` of the metadata, to be found by; null where there is none.
    ADD COLUMN metadata_hashes bigint[];

-- The lists of a principal's responses, whole and filtered, newest or oldest first.
CREATE INDEX responses_by_status ON longrun.responses (principal, status, id DESC) WHERE stored;
CREATE INDEX responses_by_agent ON longrun.responses (principal, agent, id DESC) WHERE stored;
CREATE INDEX responses_by_metadata ON longrun.responses USING gin (metadata_hashes)
    WHERE metadata_hashes IS NOT NULL;

-- What is known of a response that takes its replicas along, or never gets on; and of its end.

ALTER TABLE longrun.responses
    -- Replicas that died while they executed it, in a row: none of those attempts recorded a step.
    ADD COLUMN deaths integer NOT NULL DEFAULT 0,
    -- Handovers in a row in which no step was recorded.
    ADD COLUMN handovers integer NOT NULL DEFAULT 0,
    -- Since when its holder is ending it. Others leave it alone meanwhile.
    ADD COLUMN ending_at timestamptz;

-- Until when a finished response is kept at least, because its log is being read somewhere.
ALTER TABLE longrun.responses ADD COLUMN read_until timestamptz;

-- What was not to be stored is looked for each minute, among all that is.
CREATE INDEX responses_unstored ON longrun.responses (finished_at)
    WHERE NOT stored AND finished_at IS NOT NULL;
