-- breaking: older servers would run a response on a conversation without what was said in it, and
-- would add nothing to it; and they do not know steps that refer to items.

-- Histories: an item has two faces.

-- What the item's model gave, where it differs from what clients see: a JSON object (see
-- history/faces.py). Null: the client's item, without our id and status.
ALTER TABLE longrun.items ADD COLUMN model text;

-- Conversations: what was said in them outlives the responses that said it.

CREATE TABLE longrun.conversations (
    id text COLLATE "C" PRIMARY KEY,
    principal text NOT NULL,
    -- A JSON object.
    metadata text NOT NULL,
    -- Positions that were given to items, and turns that were given to responses.
    length bigint NOT NULL DEFAULT 0,
    turns bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX conversations_unused ON longrun.conversations (used_at);

CREATE TABLE longrun.conversation_items (
    conversation_id text COLLATE "C" NOT NULL
        REFERENCES longrun.conversations ON DELETE CASCADE,
    position bigint NOT NULL CHECK (position >= 0),
    id text COLLATE "C" NOT NULL,
    -- The response that it was said to or by; null where a client added it. It may have expired.
    response_id text COLLATE "C",
    -- As in `items`: as clients see it, and what its model gave where that differs.
    item text NOT NULL,
    model text,
    PRIMARY KEY (conversation_id, position)
);

CREATE UNIQUE INDEX conversation_items_by_id ON longrun.conversation_items (conversation_id, id);
CREATE INDEX conversation_items_of_response ON longrun.conversation_items (response_id)
    WHERE response_id IS NOT NULL;

ALTER TABLE longrun.responses
    ADD COLUMN conversation_id text COLLATE "C",
    -- Which response on its conversation it is, in the order of their creation.
    ADD COLUMN turn bigint,
    -- Where, among the positions of its conversation, that ends which it reads. Null until it runs.
    ADD COLUMN context_end bigint;

-- The responses that a conversation is locked by: none is left of one that has ended.
CREATE INDEX responses_on_conversation ON longrun.responses (conversation_id, turn)
    WHERE conversation_id IS NOT NULL AND status IN ('queued', 'in_progress');

-- Whether a response on a conversation is live. Volatile, so that it sees what was committed until
-- it is called: a statement that has waited for the conversation's row calls it after that.
CREATE FUNCTION longrun.is_busy(conversation text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM longrun.responses
        WHERE conversation_id = conversation AND status IN ('queued', 'in_progress')
    );
END
$$;

DO $$
BEGIN
    ALTER TABLE longrun.conversation_items ALTER COLUMN item SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- Suspects: which replicas died while they executed a response, those that `deaths` counts. When a
-- run dies alone, it answers for its deaths, and the others that were under way in them do not.
ALTER TABLE longrun.responses ADD COLUMN died_on text[] COLLATE "C";

-- Why a response failed, for its operator: a JSON object (see execution/failures.py), of some 20 kB
-- at most. Clients are told what `document` says.
ALTER TABLE longrun.responses ADD COLUMN reason text;
