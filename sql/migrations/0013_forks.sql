-- Responses that go on from a finished step of another one.

-- Which one that was; and where it was on a conversation, which of its items the fork reads
-- (before `forked_context_end`), since the other may be deleted. No defaults: no row is rewritten.
ALTER TABLE longrun.responses ADD COLUMN forked_from text COLLATE "C";
ALTER TABLE longrun.responses ADD COLUMN forked_conversation_id text COLLATE "C";
ALTER TABLE longrun.responses ADD COLUMN forked_context_end bigint;

-- `input` says that a fork's own input has been put behind what was recorded, and where. Rows of
-- before fit, and are not looked through.
ALTER TABLE longrun.steps DROP CONSTRAINT steps_kind_check;
ALTER TABLE longrun.steps ADD CONSTRAINT steps_kind_check
    CHECK (kind IN ('model', 'tool', 'start', 'handoff', 'session', 'input')) NOT VALID;
