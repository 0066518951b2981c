-- name: lock_migrations
-- One migrator at a time, in the whole cluster, for this schema.
SELECT pg_advisory_xact_lock(hashtextextended('longrun migrate ' || $1, 0));

-- name: bound_lock_waits
-- In this transaction, a lock is waited for no longer than $1 milliseconds: others queue behind it.
SELECT set_config('lock_timeout', $1::integer::text, true);

-- name: find_schema
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AS exists;

-- name: create_schema
-- Only where there is none: it needs the right to create one even if there is.
CREATE SCHEMA IF NOT EXISTS longrun;

-- name: create_migrations
CREATE TABLE IF NOT EXISTS longrun.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    -- True: code that does not know this migration must not run on it.
    breaking boolean NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: has_migrations
SELECT to_regclass($1) IS NOT NULL;

-- name: list_migrations
SELECT version, name, checksum, breaking FROM longrun.migrations ORDER BY version;

-- name: record_migration
INSERT INTO longrun.migrations (version, name, checksum, breaking) VALUES ($1, $2, $3, $4);

-- name: describe_server
SELECT current_setting('server_version_num')::integer AS version,
    pg_encoding_to_char(encoding) AS encoding
FROM pg_database WHERE datname = current_database();

-- name: missing_rights
-- Which of these rights the role of this connection lacks, by their places.
SELECT needed.n::integer AS n, current_user::text AS role
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[])
    WITH ORDINALITY AS needed (object, privilege, attribute, is_function, n)
WHERE NOT CASE
    WHEN needed.is_function THEN has_function_privilege(needed.object, needed.privilege)
    WHEN needed.attribute IS NULL THEN has_table_privilege(needed.object, needed.privilege)
    ELSE has_column_privilege(needed.object, needed.attribute, needed.privilege)
END
ORDER BY needed.n;
