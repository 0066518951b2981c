-- Histories: an item has two faces.

-- What the item's model gave, where it differs from what clients see: a JSON object (see
-- history/faces.py). Null: the client's item, without our id and status.
ALTER TABLE longrun.items ADD COLUMN model text;
