-- What Postgres takes a table's size for, when plans are made and kept, is mended by servers where
-- autovacuum has not come to it (sql/README.md).

-- Look at a table of ours that has grown, as ANALYZE does; of one that was found empty, and is, forget
-- that, where Postgres can (18): a plan for it would read all of it, and be kept when it is not empty any
-- more. False: there is no such table, or somebody else is at it.
CREATE FUNCTION longrun.renew_statistics(of_this text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours record;
BEGIN
    SELECT class.oid, class.relname, home.nspname INTO ours
    FROM pg_class AS class JOIN pg_namespace AS home ON home.oid = class.relnamespace
    WHERE class.relname = of_this AND class.relkind = 'r' AND class.relnamespace = (
        SELECT relnamespace FROM pg_class WHERE oid = 'longrun.responses'::regclass
    );
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF pg_relation_size(ours.oid) > 0 THEN
        EXECUTE format('ANALYZE (SKIP_LOCKED) %I.%I', ours.nspname, ours.relname);
    ELSIF current_setting('server_version_num')::integer >= 180000 THEN
        PERFORM set_config('lock_timeout', '100ms', true);
        EXECUTE format('SELECT pg_clear_relation_stats(%L, %L)', ours.nspname, ours.relname);
    END IF;
    RETURN true;
END
$$;

-- The owner's, as those of migration 15 are, and granted alike.
DO $$
DECLARE
    change text;
BEGIN
    FOR change IN
        SELECT format(
            'REVOKE ALL ON FUNCTION %s FROM PUBLIC; ALTER FUNCTION %s OWNER TO %s',
            made.oid::regprocedure, made.oid::regprocedure, owned.relowner::regrole
        )
        FROM pg_class AS owned
        JOIN pg_proc AS made ON made.pronamespace = owned.relnamespace
        WHERE owned.oid = 'longrun.responses'::regclass AND made.proname = 'renew_statistics'
        UNION ALL
        SELECT format('GRANT EXECUTE ON FUNCTION %s TO %s', made.oid::regprocedure, mine.name)
        FROM (
            SELECT DISTINCT
                CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END AS name
            FROM pg_class AS class CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
            WHERE class.oid = 'longrun.event_chunks'::regclass
                AND acl.privilege_type = 'DELETE' AND acl.grantee <> class.relowner
        ) AS mine
        JOIN pg_class AS owned ON owned.oid = 'longrun.responses'::regclass
        JOIN pg_proc AS made ON made.pronamespace = owned.relnamespace
        WHERE made.proname = 'renew_statistics'
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;
