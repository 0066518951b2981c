-- Two roles for longrun: `longrun_owner`, which owns the schema and migrates, and `longrun_runtime`,
-- which a replica connects as, and which has no right that a replica does not need.
--
-- 1. Run this as an administrator of the database. It makes the roles and the schema.
-- 2. Give the roles passwords (\password longrun_owner in psql), or whatever else they log in with.
-- 3. As the owner: longrun migrate. Replicas and `longrun serve` connect as the runtime role.
-- 4. As the owner, or an administrator, run this again: now that there are tables, it takes away
--    what the runtime role does not need. Repeat 3 and 4 for each new version.
--
-- `longrun keys`, `longrun show`, `longrun encryption` and `longrun webhooks redeliver` are for the
-- owner. LISTEN and NOTIFY need no rights. All of it is one transaction, and can be repeated at any
-- time, while replicas are running too.

BEGIN;

DO $$
DECLARE
    change text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'longrun_owner') THEN
        CREATE ROLE "longrun_owner" LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'longrun_runtime') THEN
        CREATE ROLE "longrun_runtime" LOGIN;
    END IF;
    -- Where administrators are no superusers, they have to be members of what they make.
    IF NOT pg_has_role('longrun_owner', 'USAGE') THEN
        EXECUTE format('GRANT "longrun_owner" TO %I', current_user);
    END IF;
    FOREACH change IN ARRAY ARRAY['longrun_owner', 'longrun_runtime'] LOOP
        IF NOT has_database_privilege(change, current_database(), 'CONNECT') THEN
            EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), change);
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'longrun') THEN
        CREATE SCHEMA longrun AUTHORIZATION "longrun_owner";
    END IF;
    -- What another role has made so far.
    FOR change IN
        SELECT format('ALTER SCHEMA %I OWNER TO "longrun_owner"', nspname)
        FROM pg_namespace
        WHERE nspname = 'longrun' AND nspowner::regrole::text <> quote_ident('longrun_owner')
        UNION ALL
        SELECT format(
            'ALTER %s %s OWNER TO "longrun_owner"',
            CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass
        )
        FROM pg_class
        WHERE relnamespace = 'longrun'::regnamespace AND relkind IN ('r', 'p', 'v')
            AND relowner::regrole::text <> quote_ident('longrun_owner')
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO "longrun_owner"', oid::regprocedure)
        FROM pg_proc
        WHERE pronamespace = 'longrun'::regnamespace
            AND proowner::regrole::text <> quote_ident('longrun_owner')
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;

-- What later migrations add can be used at once, until this is run again and says it exactly.
ALTER DEFAULT PRIVILEGES FOR ROLE "longrun_owner" IN SCHEMA longrun
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "longrun_runtime";
ALTER DEFAULT PRIVILEGES FOR ROLE "longrun_owner" IN SCHEMA longrun
    GRANT EXECUTE ON FUNCTIONS TO "longrun_runtime";

REVOKE ALL ON ALL TABLES IN SCHEMA longrun FROM "longrun_runtime";
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA longrun FROM "longrun_runtime", PUBLIC;
REVOKE CREATE ON SCHEMA longrun FROM "longrun_runtime";
GRANT USAGE ON SCHEMA longrun TO "longrun_runtime";

-- Whose a response is and what it was asked is never changed, nor is what is in a log. Of a key, the
-- runtime role cannot read the name, and changes only how many runs are left to a chat token.
DO $$
BEGIN
    IF to_regclass('longrun.migrations') IS NULL THEN
        RAISE NOTICE 'there are no tables yet: run longrun migrate as the owner, then this again';
        RETURN;
    END IF;
    GRANT SELECT ON longrun.migrations TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.responses TO "longrun_runtime";
    GRANT UPDATE (
        status, attempt, spent, replica_id, cancelled, document, reason, finished_at, deaths,
        died_on, handovers, ending_at, read_until, context_end, active_at,
        input_refused, unkept, compacted_at, steered
    ) ON longrun.responses TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.event_chunks TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.digests TO "longrun_runtime";
    GRANT SELECT, INSERT ON longrun.reached TO "longrun_runtime";
    GRANT UPDATE (finished_at) ON longrun.reached TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.items TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.steps TO "longrun_runtime";
    GRANT SELECT, INSERT ON longrun.steers TO "longrun_runtime";
    GRANT UPDATE (output_index, turn) ON longrun.steers TO "longrun_runtime";
    GRANT SELECT, INSERT ON longrun.parked TO "longrun_runtime";
    GRANT UPDATE (requests, format, written_by, state) ON longrun.parked TO "longrun_runtime";
    GRANT SELECT, INSERT ON longrun.answers TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.idempotency_keys TO "longrun_runtime";
    GRANT UPDATE (response_id, created_at, awaited) ON longrun.idempotency_keys TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.conversations TO "longrun_runtime";
    GRANT UPDATE (metadata, length, turns, used_at) ON longrun.conversations TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.conversation_items TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.replicas TO "longrun_runtime";
    GRANT UPDATE (lease_until, has_room, draining) ON longrun.replicas TO "longrun_runtime";
    GRANT SELECT, INSERT ON longrun.parcel_keys TO "longrun_runtime";
    GRANT SELECT (
        prefix, hash, principal, scopes, max_runs, max_requests, max_tokens, expires_at, revoked_at,
        agent, runs_left
    ) ON longrun.keys TO "longrun_runtime";
    GRANT INSERT, DELETE ON longrun.keys TO "longrun_runtime";
    GRANT UPDATE (runs_left) ON longrun.keys TO "longrun_runtime";
    GRANT SELECT, INSERT ON longrun.encryption_keys TO "longrun_runtime";
    GRANT UPDATE (used_at) ON longrun.encryption_keys TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.token_secrets TO "longrun_runtime";
    GRANT SELECT, INSERT ON longrun.signing_secrets TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.tokens_spent TO "longrun_runtime";
    GRANT UPDATE (tokens) ON longrun.tokens_spent TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.request_rates TO "longrun_runtime";
    GRANT UPDATE (level, rate, at) ON longrun.request_rates TO "longrun_runtime";
    GRANT SELECT, INSERT, DELETE ON longrun.webhook_endpoints TO "longrun_runtime";
    GRANT UPDATE (
        event_types, document, previous_until, updated_at, renewed_at, delivered_at, disabled_at,
        enabled_at
    ) ON longrun.webhook_endpoints TO "longrun_runtime";
    GRANT SELECT, DELETE ON longrun.webhook_deliveries TO "longrun_runtime";
    GRANT UPDATE (
        attempts, failures, due_at, ended_at, outcome, status_code, problem
    ) ON longrun.webhook_deliveries TO "longrun_runtime";
    GRANT SELECT ON longrun.partitions TO "longrun_runtime";
    GRANT UPDATE (left_at) ON longrun.partitions TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.look_at_partitions() TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.add_partition(text,text) TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.begin_range(text,text) TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.validate_range(text) TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.give_up_range(text) TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.finish_range(text) TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.drop_partition(text,text) TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.renew_statistics(text) TO "longrun_runtime";
    GRANT EXECUTE ON FUNCTION longrun.is_busy(text) TO "longrun_runtime";
END
$$;

COMMIT;
