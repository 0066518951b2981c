-- The keys of parcels: chunks that go along with their announcement (store/parcels.py).

-- LISTEN and NOTIFY need no rights, so what an announcement carries is encrypted with a key of the
-- replica that sends it. Not in `replicas`, which others may be allowed to look at. A foreign key,
-- since an older server that forgets a replica does not know this table.
CREATE TABLE longrun.parcel_keys (
    replica_id text COLLATE "C" PRIMARY KEY REFERENCES longrun.replicas ON DELETE CASCADE,
    -- 32 bytes, or what became of them where stored values are sealed.
    key bytea NOT NULL
);

ALTER TABLE longrun.parcel_keys ALTER COLUMN key SET STATISTICS 0;
