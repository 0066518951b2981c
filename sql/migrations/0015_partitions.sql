-- Partitions: what responses leave lies in ranges of their ids, which sort by time, so that what has
-- expired is dropped. The tables of before become the partitions for all ids that no range takes.

-- The ranges that there are. Only the functions below write here, but for `left_at`.
CREATE TABLE longrun.partitions (
    of_table text COLLATE "C" NOT NULL CHECK (of_table IN ('event_chunks', 'items', 'steps')),
    -- The partition is `name`, and holds ids from `first` to before `until`. Of one table they follow
    -- each other without a gap; what no range takes is in `event_chunks_rest`, and so on.
    first text COLLATE "C" NOT NULL,
    until text COLLATE "C" NOT NULL CHECK (until > first),
    name text COLLATE "C" NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    -- Since when rows of responses that expired wait here until all of it is dropped.
    left_at timestamptz,
    PRIMARY KEY (of_table, first)
);

-- Of what is made by the owner while servers run, nobody else gets rights of its own: servers come to
-- a partition through its table.
CREATE FUNCTION longrun.keep_to_owner(kept regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT acl.grantee
        FROM pg_class AS class
        CROSS JOIN LATERAL (
            SELECT each.grantee FROM aclexplode(class.relacl) AS each
            UNION ALL
            SELECT each.grantee
            FROM pg_attribute AS attribute CROSS JOIN LATERAL aclexplode(attribute.attacl) AS each
            WHERE attribute.attrelid = class.oid
        ) AS acl
        WHERE class.oid = kept AND acl.grantee <> class.relowner
    LOOP
        EXECUTE format(
            'REVOKE ALL ON %s FROM %s', kept,
            CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END
        );
    END LOOP;
END
$$;

-- Statistics of no column that the tables of before have none of, since those would keep what was
-- deleted (sql/README.md).
CREATE FUNCTION longrun.keep_no_samples(of_these regclass, as_in regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attribute record;
BEGIN
    FOR attribute IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = as_in AND attnum > 0 AND NOT attisdropped AND attstattarget = 0
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', of_these, attribute.attname);
    END LOOP;
END
$$;

-- No row is read or written here. Nothing writes to these tables until this is committed, and whoever
-- migrates does not wait long for that (store/migrate.py). Statements that running servers have
-- prepared find the new tables by their names.
LOCK TABLE longrun.event_chunks, longrun.items, longrun.steps IN ACCESS EXCLUSIVE MODE;

-- Put back below: one that is not validated cannot be in a partition of a table that has it.
ALTER TABLE longrun.steps DROP CONSTRAINT steps_kind_check;

DO $$
DECLARE
    home text := (
        SELECT nspname FROM pg_namespace
        JOIN pg_class ON relnamespace = pg_namespace.oid
        WHERE pg_class.oid = 'longrun.responses'::regclass
    );
    of_table text;
    parent text;
    rest text;
    change text;
BEGIN
    FOREACH of_table IN ARRAY ARRAY['event_chunks', 'items', 'steps'] LOOP
        parent := format('%I.%I', home, of_table);
        rest := format('%I.%I', home, of_table || '_rest');
        EXECUTE format('ALTER TABLE %s RENAME TO %I', parent, of_table || '_rest');
        EXECUTE format(
            'ALTER INDEX %I.%I RENAME TO %I', home, of_table || '_pkey', of_table || '_rest_pkey'
        );
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE'
            ' INCLUDING COMPRESSION, PRIMARY KEY (%s)) PARTITION BY RANGE (response_id)',
            parent, rest,
            CASE of_table
                WHEN 'event_chunks' THEN 'response_id, last'
                WHEN 'items' THEN 'response_id, output_index'
                ELSE 'response_id, scope, kind, key'
            END
        );
        PERFORM longrun.keep_no_samples(parent::regclass, rest::regclass);
        -- Whose it is, and who may do what: as before, not what default privileges gave.
        FOR change IN
            SELECT format('ALTER TABLE %s OWNER TO %s', parent, before.relowner::regrole)
            FROM pg_class AS before
            JOIN pg_class AS new ON new.oid = parent::regclass AND new.relowner <> before.relowner
            WHERE before.oid = rest::regclass
        LOOP
            EXECUTE change;
        END LOOP;
        PERFORM longrun.keep_to_owner(parent::regclass);
        FOR change IN
            SELECT format(
                'GRANT %s%s ON %s TO %s%s', acl.privilege_type, acl.of_column, parent,
                CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END,
                CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            )
            FROM (
                SELECT each.*, '' AS of_column, class.relowner
                FROM pg_class AS class CROSS JOIN LATERAL aclexplode(class.relacl) AS each
                WHERE class.oid = rest::regclass
                UNION ALL
                SELECT each.*, format(' (%I)', attribute.attname), class.relowner
                FROM pg_class AS class
                JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid
                CROSS JOIN LATERAL aclexplode(attribute.attacl) AS each
                WHERE class.oid = rest::regclass AND attribute.attnum > 0
            ) AS acl
            WHERE acl.grantee <> acl.relowner
        LOOP
            EXECUTE change;
        END LOOP;
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s DEFAULT', parent, rest);
        PERFORM longrun.keep_to_owner(rest::regclass);
    END LOOP;
END
$$;

ALTER TABLE longrun.steps ADD CONSTRAINT steps_kind_check
    CHECK (kind IN ('model', 'tool', 'start', 'handoff', 'session', 'input')) NOT VALID;

-- As before, of the new table.
CREATE OR REPLACE VIEW longrun.events AS
SELECT
    chunk.response_id,
    coalesce(
        substring(line.event FROM '^\{"type":"[^"]*","sequence_number":(\d+)')::bigint,
        chunk.first + line.n - 1
    ) AS sequence_number,
    chunk.attempt,
    CASE WHEN line.event IS NULL THEN 'encrypted'
        ELSE substring(line.event FROM '^\{"type":"([^"]*)"') END AS type,
    line.event::json AS event
FROM longrun.event_chunks AS chunk
CROSS JOIN LATERAL unnest(
    CASE WHEN get_byte(substring(chunk.data FOR 1), 0) = 1
        THEN array_fill(NULL::text, ARRAY[(chunk.last - chunk.first + 1)::integer])
        ELSE string_to_array(convert_from(chunk.data, 'UTF8'), E'\n') END
) WITH ORDINALITY AS line (event, n);

-- What servers do with partitions, as the owner, since their role can create and drop nothing. Each is
-- right by itself, whoever calls it, and leaves all rows where they can be read and written. Those that
-- keep appends out for a moment wait for nobody while they do: vacuum is kept out first, by a lock that
-- appends do not notice, and what is left to wait for has 100 ms.

CREATE FUNCTION longrun.partition_parts(
    of_table text, OUT home text, OUT parent text, OUT rest text, OUT ranges_until text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF of_table NOT IN ('event_chunks', 'items', 'steps') THEN
        RAISE EXCEPTION '% has no partitions', of_table;
    END IF;
    SELECT nspname INTO STRICT home FROM pg_namespace
    JOIN pg_class ON relnamespace = pg_namespace.oid
    WHERE pg_class.oid = 'longrun.responses'::regclass;
    parent := format('%I.%I', home, of_table);
    rest := format('%I.%I', home, of_table || '_rest');
    ranges_until := (
        SELECT coalesce(max(each.until), '') FROM longrun.partitions AS each
        WHERE each.of_table = partition_parts.of_table
    );
END
$$;

-- The name of the partition that ends at an id, by the time that is in it.
CREATE FUNCTION longrun.partition_name(of_table text, until text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF until !~ '^resp_[0-9a-f]{12}$' THEN
        RAISE EXCEPTION '% is not where a partition can end', until;
    END IF;
    RETURN of_table || '_until_' || to_char(
        to_timestamp(('x' || substr(until, 6))::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC',
        'YYYYMMDD_HH24MISS_MS'
    );
END
$$;

-- A table for a partition, with all that its table has.
CREATE FUNCTION longrun.make_partition(of_table text, name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record := longrun.partition_parts(of_table);
    made text := format('%I.%I', parts.home, name);
BEGIN
    EXECUTE format(
        'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE'
        ' INCLUDING COMPRESSION)%s',
        made, parts.parent,
        CASE of_table
            -- As in migration 6: compaction leaves dead rows, whose room is used by the next appends.
            WHEN 'event_chunks' THEN ' WITH (autovacuum_vacuum_scale_factor = 0.02,'
                ' autovacuum_vacuum_threshold = 5000)'
            ELSE ''
        END
    );
    PERFORM longrun.keep_no_samples(made::regclass, parts.parent::regclass);
    PERFORM longrun.keep_to_owner(made::regclass);
END
$$;

-- For each table: where its ranges end, the first and the last id in the partition for the rest (null:
-- none), and up to where that one is being made a range, with whether it is known to fit.
CREATE FUNCTION longrun.look_at_partitions() RETURNS TABLE (
    of_table text, ranges bigint, ranges_until text, rest_first text, rest_last text,
    rest_until text, fits boolean, seen_at timestamptz
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record;
BEGIN
    seen_at := now();
    FOREACH of_table IN ARRAY ARRAY['event_chunks', 'items', 'steps'] LOOP
        parts := longrun.partition_parts(of_table);
        ranges_until := parts.ranges_until;
        ranges := (
            SELECT count(*) FROM longrun.partitions AS each
            WHERE each.of_table = look_at_partitions.of_table
        );
        EXECUTE format(
            'SELECT (SELECT response_id FROM %s ORDER BY response_id LIMIT 1),'
            ' (SELECT response_id FROM %s ORDER BY response_id DESC LIMIT 1)', parts.rest, parts.rest
        ) INTO rest_first, rest_last;
        SELECT split_part(found.conname, ' ', 4), found.convalidated INTO rest_until, fits
        FROM pg_constraint AS found
        WHERE found.conrelid = parts.rest::regclass AND found.conname LIKE 'range from %';
        RETURN NEXT;
    END LOOP;
END
$$;

-- Make the next range, up to `until`. False: another server has.
CREATE FUNCTION longrun.add_partition(of_table text, until text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    parts record := longrun.partition_parts(of_table);
    made text := longrun.partition_name(of_table, until);
BEGIN
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', parts.parent);
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parts.rest);
    parts := longrun.partition_parts(of_table);
    IF until <= parts.ranges_until THEN
        RETURN false;
    END IF;
    IF (SELECT count(*) >= 500 FROM longrun.partitions) THEN
        RAISE EXCEPTION 'there are too many partitions to make another one';
    END IF;
    PERFORM set_config('lock_timeout', '100ms', true);
    PERFORM longrun.make_partition(of_table, made);
    EXECUTE format(
        'ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
        parts.parent, parts.home, made, parts.ranges_until, until
    );
    INSERT INTO longrun.partitions (of_table, first, until, name)
    VALUES (of_table, parts.ranges_until, until, made);
    RETURN true;
END
$$;

-- Begin to make a range of what is in the partition for the rest: from now on it takes nothing from
-- `until` on, so that must be some way ahead. False: that was begun before, or done.
CREATE FUNCTION longrun.begin_range(of_table text, until text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    parts record := longrun.partition_parts(of_table);
    made text := longrun.partition_name(of_table, until);
BEGIN
    IF ('x' || substr(until, 6))::bit(48)::bigint < extract(epoch FROM now() + interval '1 minute') * 1000
    THEN
        RAISE EXCEPTION '% is not ahead', until;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', parts.parent);
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parts.rest);
    parts := longrun.partition_parts(of_table);
    IF until <= parts.ranges_until OR EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = parts.rest::regclass AND conname LIKE 'range from %'
    ) THEN
        RETURN false;
    END IF;
    PERFORM set_config('lock_timeout', '100ms', true);
    EXECUTE format(
        'ALTER TABLE %s ADD CONSTRAINT %I CHECK (response_id >= %L AND response_id < %L) NOT VALID',
        parts.rest, format('range from %s %s', parts.ranges_until, until), parts.ranges_until, until
    );
    RETURN true;
END
$$;

-- Look whether all that is in the partition for the rest is within the range that was begun. Reads all
-- of it, and nothing waits for that. Fails where something is not.
CREATE FUNCTION longrun.validate_range(of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts record := longrun.partition_parts(of_table);
    begun text;
BEGIN
    SELECT conname INTO begun FROM pg_constraint
    WHERE conrelid = parts.rest::regclass AND conname LIKE 'range from %' AND NOT convalidated;
    IF FOUND THEN
        EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', parts.rest, begun);
    END IF;
END
$$;

-- Make no range of what is in the partition for the rest: it takes everything again.
CREATE FUNCTION longrun.give_up_range(of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    parts record := longrun.partition_parts(of_table);
    begun text;
BEGIN
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parts.rest);
    PERFORM set_config('lock_timeout', '100ms', true);
    FOR begun IN
        SELECT conname FROM pg_constraint
        WHERE conrelid = parts.rest::regclass AND conname LIKE 'range from %'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', parts.rest, begun);
    END LOOP;
END
$$;

-- What was found to fit becomes the next range, without being read, and a new partition is there for the
-- rest. False: nothing was begun, or not found to fit.
CREATE FUNCTION longrun.finish_range(of_table text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    parts record := longrun.partition_parts(of_table);
    begun text;
    until text;
    made text;
    full_name text;
BEGIN
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', parts.parent);
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parts.rest);
    parts := longrun.partition_parts(of_table);
    SELECT conname, split_part(conname, ' ', 4) INTO begun, until FROM pg_constraint
    WHERE conrelid = parts.rest::regclass AND convalidated
        AND conname LIKE format('range from %s %%', parts.ranges_until);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    made := longrun.partition_name(of_table, until);
    full_name := format('%I.%I', parts.home, made);
    PERFORM longrun.make_partition(of_table, of_table || '_next');
    PERFORM set_config('lock_timeout', '100ms', true);
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parts.parent);
    EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parts.parent, parts.rest);
    EXECUTE format('ALTER TABLE %s RENAME TO %I', parts.rest, made);
    EXECUTE format(
        'ALTER INDEX %I.%I RENAME TO %I', parts.home, of_table || '_rest_pkey', made || '_pkey'
    );
    EXECUTE format(
        'ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
        parts.parent, full_name, parts.ranges_until, until
    );
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', full_name, begun);
    EXECUTE format(
        'ALTER TABLE %I.%I RENAME TO %I', parts.home, of_table || '_next', of_table || '_rest'
    );
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s DEFAULT', parts.parent, parts.rest);
    INSERT INTO longrun.partitions (of_table, first, until, name)
    VALUES (of_table, parts.ranges_until, until, made);
    RETURN true;
END
$$;

-- Drop a range that ended an hour ago or more, and of which no response is left. False: one is, or there
-- is no such range. Once nobody writes there any more it is looked at again: an id may be late.
CREATE FUNCTION longrun.drop_partition(of_table text, first text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    parts record := longrun.partition_parts(of_table);
    part record;
BEGIN
    SELECT each.first, each.until, each.name INTO part FROM longrun.partitions AS each
    WHERE each.of_table = drop_partition.of_table AND each.first = drop_partition.first
        AND ('x' || substr(each.until, 6))::bit(48)::bigint
            < extract(epoch FROM now() - interval '1 hour') * 1000
        AND NOT EXISTS (
            SELECT FROM longrun.responses AS response
            WHERE response.id >= each.first AND response.id < each.until
        );
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF to_regclass(format('%I.%I', parts.home, part.name)) IS NOT NULL THEN
        EXECUTE format(
            'LOCK TABLE %I.%I IN SHARE UPDATE EXCLUSIVE MODE', parts.home, part.name
        );
        PERFORM set_config('lock_timeout', '100ms', true);
        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parts.parent);
        IF EXISTS (
            SELECT FROM longrun.responses AS response
            WHERE response.id >= part.first AND response.id < part.until
        ) THEN
            RETURN false;
        END IF;
        EXECUTE format('DROP TABLE %I.%I', parts.home, part.name);
    END IF;
    DELETE FROM longrun.partitions AS each
    WHERE each.of_table = drop_partition.of_table AND each.first = drop_partition.first;
    RETURN true;
END
$$;

-- All of this is the owner's, whoever migrates. Others call what they were granted (grants.sql).
DO $$
DECLARE
    change text;
BEGIN
    FOR change IN
        WITH may_delete AS (
            SELECT DISTINCT
                CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END AS name
            FROM pg_class AS class CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
            WHERE class.oid = 'longrun.event_chunks'::regclass
                AND acl.privilege_type = 'DELETE' AND acl.grantee <> class.relowner
        )
        SELECT format(
            'REVOKE ALL ON FUNCTION %s FROM PUBLIC; ALTER FUNCTION %s OWNER TO %s',
            made.oid::regprocedure, made.oid::regprocedure, owned.relowner::regrole
        )
        FROM pg_class AS owned
        JOIN pg_proc AS made ON made.pronamespace = owned.relnamespace
        WHERE owned.oid = 'longrun.responses'::regclass AND made.proname IN (
            'keep_to_owner', 'keep_no_samples', 'partition_parts', 'partition_name',
            'make_partition', 'look_at_partitions', 'add_partition', 'begin_range',
            'validate_range', 'give_up_range', 'finish_range', 'drop_partition'
        )
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO %s', 'longrun.partitions'::regclass, relowner::regrole)
        FROM pg_class WHERE oid = 'longrun.responses'::regclass
        UNION ALL
        -- Who could delete what expired can also drop it, until grants.sql is run again.
        SELECT format('GRANT EXECUTE ON FUNCTION %s TO %s', made.oid::regprocedure, mine.name)
        FROM may_delete AS mine
        JOIN pg_class AS owned ON owned.oid = 'longrun.responses'::regclass
        JOIN pg_proc AS made ON made.pronamespace = owned.relnamespace
        WHERE made.proname IN (
            'look_at_partitions', 'add_partition', 'begin_range', 'validate_range',
            'give_up_range', 'finish_range', 'drop_partition'
        )
        UNION ALL
        SELECT format('GRANT SELECT, UPDATE ON longrun.partitions TO %s', mine.name)
        FROM may_delete AS mine
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;
