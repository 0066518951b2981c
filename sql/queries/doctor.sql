-- What `longrun doctor` asks: of the server, of the replicas, and of what waits.

-- name: examine_server
-- `used`: connections of clients. `oldest`: seconds of the longest transaction that this role may
-- see, replication and our own left out; vacuum cannot get past it.
SELECT
    current_setting('server_version') AS version,
    pg_is_in_recovery() AS standby,
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls,
    extract(epoch FROM clock_timestamp())::double precision AS clock,
    pg_notification_queue_usage() AS notifications,
    current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer AS connections,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('autovacuum') AS autovacuum,
    (
        SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::double precision
        FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    ) AS oldest;

-- name: find_backend
-- The process that executes this, which a pooler keeps to itself.
SELECT pg_backend_pid();

-- name: ring
-- Whether it is heard on another connection that listens to this channel.
SELECT pg_notify($1, $2);

-- name: count_expired
-- What `longrun prune` would delete: finished so many seconds ago.
SELECT count(*) AS due FROM longrun.responses
WHERE finished_at < now() - make_interval(secs => $1);
