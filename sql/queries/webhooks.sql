-- Webhooks: endpoints, and what is delivered to them. What is to be delivered is written with the end
-- of a response (note_webhooks, in the migrations).

-- name: create_webhook_endpoint
-- Nothing is created where the principal has $5 already; of requests at the very same moment each
-- may be the last.
INSERT INTO longrun.webhook_endpoints (id, principal, event_types, document)
SELECT $1, $2, $3::text[], $4
WHERE $5 > (
    SELECT count(*)
    FROM (SELECT FROM longrun.webhook_endpoints WHERE principal = $2 LIMIT $5) AS own
)
RETURNING id, event_types, document, created_at, updated_at, disabled_at, false AS overlaps;

-- name: get_webhook_endpoint
SELECT id, event_types, document, created_at, updated_at, disabled_at,
    coalesce(previous_until > now(), false) AS overlaps
FROM longrun.webhook_endpoints
WHERE id = $1 AND principal = $2;

-- name: list_webhook_endpoints
-- The newest first, after the one with the id $2.
SELECT id, event_types, document, created_at, updated_at, disabled_at,
    coalesce(previous_until > now(), false) AS overlaps
FROM longrun.webhook_endpoints
WHERE principal = $1 AND ($2::text IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3;

-- name: lock_webhook_endpoint
SELECT id, event_types, document, created_at, updated_at, disabled_at,
    coalesce(previous_until > now(), false) AS overlaps
FROM longrun.webhook_endpoints
WHERE id = $1 AND principal = $2
FOR UPDATE;

-- name: update_webhook_endpoint
-- Whoever changes it has it tried again.
UPDATE longrun.webhook_endpoints
SET event_types = $3::text[], document = $4, disabled_at = NULL, updated_at = now(),
    enabled_at = now()
WHERE id = $1 AND principal = $2
RETURNING id, event_types, document, created_at, updated_at, disabled_at,
    coalesce(previous_until > now(), false) AS overlaps;

-- name: rotate_webhook_secret
-- The secret before signs as well for $4 seconds.
UPDATE longrun.webhook_endpoints
SET document = $3, previous_until = now() + make_interval(secs => $4), updated_at = now()
WHERE id = $1 AND principal = $2
RETURNING id, event_types, document, created_at, updated_at, disabled_at, false AS overlaps;

-- name: delete_webhook_endpoint
-- What is still to be delivered to it is dropped by whoever claims it.
DELETE FROM longrun.webhook_endpoints WHERE id = $1 AND principal = $2 RETURNING id;

-- name: renew_settings_endpoint
-- A replica's settings have an endpoint, for these events; where $2 is true, it has just started.
INSERT INTO longrun.webhook_endpoints AS known (id, event_types, renewed_at)
VALUES ('settings', $1::text[], now())
ON CONFLICT (id) DO UPDATE SET event_types = excluded.event_types, renewed_at = now(),
    disabled_at = CASE WHEN $2::boolean THEN NULL ELSE known.disabled_at END,
    enabled_at = CASE WHEN $2::boolean THEN now() ELSE known.enabled_at END;

-- name: claim_deliveries
-- What is due, for :lease seconds: who claims it notes what became of it, or it is due again. At
-- most :each of an endpoint, those included that this replica delivers to it just now (:busy, with
-- how many). It looks at :endpoints endpoints at most, those after :after; `looked_at` and `last` say
-- at how many it did, and where it came to. Where an endpoint was deleted or disabled, or the settings
-- have none any more, it is `closed`. The first row comes in any case, without a delivery if nothing
-- is due.
WITH RECURSIVE pending AS (
    (
        SELECT endpoint_id, 1 AS n FROM longrun.webhook_deliveries
        WHERE due_at IS NOT NULL AND endpoint_id > :after
        ORDER BY endpoint_id
        LIMIT 1
    )
    UNION ALL
    SELECT next.endpoint_id, pending.n + 1
    FROM pending
    CROSS JOIN LATERAL (
        SELECT delivery.endpoint_id FROM longrun.webhook_deliveries AS delivery
        WHERE delivery.due_at IS NOT NULL AND delivery.endpoint_id > pending.endpoint_id
        ORDER BY delivery.endpoint_id
        LIMIT 1
    ) AS next
    WHERE pending.n < :endpoints
), due AS MATERIALIZED (
    SELECT waiting.id
    FROM pending
    CROSS JOIN LATERAL (
        SELECT delivery.id FROM longrun.webhook_deliveries AS delivery
        WHERE delivery.endpoint_id = pending.endpoint_id AND delivery.due_at <= now()
        ORDER BY delivery.due_at
        LIMIT greatest(
            0,
            :each::integer - coalesce(
                (:busy_counts::integer[])[array_position(:busy::text[], pending.endpoint_id)], 0
            )
        )
        FOR UPDATE SKIP LOCKED
    ) AS waiting
    LIMIT :limit
), claimed AS (
    UPDATE longrun.webhook_deliveries AS delivery
    SET attempts = delivery.attempts + 1, due_at = now() + make_interval(secs => :lease)
    FROM due
    WHERE delivery.id = due.id
    RETURNING delivery.id, delivery.endpoint_id, delivery.event_id, delivery.type,
        delivery.response_id, delivery.created_at, delivery.attempts, delivery.failures
)
SELECT seen.looked_at, seen.last, claimed.*, endpoint.document, endpoint.enabled_at,
    coalesce(endpoint.previous_until > now(), false) AS overlaps,
    endpoint.id IS NULL OR endpoint.disabled_at IS NOT NULL OR (
        endpoint.id = 'settings' AND endpoint.renewed_at < now() - interval '1 hour'
    ) AS closed
FROM (SELECT count(*) AS looked_at, max(endpoint_id) AS last FROM pending) AS seen
LEFT JOIN claimed ON true
LEFT JOIN longrun.webhook_endpoints AS endpoint ON endpoint.id = claimed.endpoint_id;

-- name: note_delivered
-- What became of attempt $2, unless a later one was begun; $4: how exactly it is noted when something
-- was delivered to the endpoint, in seconds.
WITH noted AS (
    UPDATE longrun.webhook_deliveries
    SET due_at = NULL, ended_at = now(), outcome = 'delivered', status_code = $3, problem = NULL
    WHERE id = $1 AND attempts = $2 AND due_at IS NOT NULL
    RETURNING endpoint_id
)
UPDATE longrun.webhook_endpoints AS endpoint SET delivered_at = now()
FROM noted
WHERE endpoint.id = noted.endpoint_id AND (
    endpoint.delivered_at IS NULL OR endpoint.delivered_at < now() - make_interval(secs => $4)
);

-- name: note_not_delivered
-- The next attempt is due in :pause seconds; but where that would be more than :most seconds after the
-- first, it is given up, and with it an endpoint to which nothing was delivered meanwhile. Where the
-- endpoint is :gone it is given up at once, and the endpoint with it, if that is still as it was when
-- it was asked (:enabled_at).
WITH noted AS (
    UPDATE longrun.webhook_deliveries AS delivery
    SET failures = delivery.failures + 1, status_code = :status_code, problem = :problem,
        due_at = CASE WHEN NOT ending.over THEN now() + make_interval(secs => :pause) END,
        ended_at = CASE WHEN ending.over THEN now() END,
        outcome = CASE WHEN ending.over THEN 'given_up' END
    FROM (
        SELECT id, :gone::boolean
            OR now() + make_interval(secs => :pause) > since + make_interval(secs => :most) AS over
        FROM longrun.webhook_deliveries WHERE id = :id
    ) AS ending
    WHERE delivery.id = ending.id AND delivery.attempts = :attempt AND delivery.due_at IS NOT NULL
    RETURNING delivery.endpoint_id, delivery.since, ending.over
), disabled AS (
    UPDATE longrun.webhook_endpoints AS endpoint SET disabled_at = now()
    FROM noted
    WHERE noted.over AND endpoint.id = noted.endpoint_id AND endpoint.disabled_at IS NULL
        AND CASE
            WHEN :gone THEN endpoint.enabled_at = :enabled_at::timestamptz
            ELSE (endpoint.delivered_at IS NULL OR endpoint.delivered_at < noted.since)
                AND endpoint.enabled_at <= noted.since
        END
    RETURNING endpoint.id
)
SELECT noted.over AS given_up, EXISTS (SELECT FROM disabled) AS disabled FROM noted;

-- name: drop_delivery
-- Its endpoint is gone, or takes nothing.
UPDATE longrun.webhook_deliveries SET due_at = NULL, ended_at = now(), outcome = 'dropped'
WHERE id = $1 AND attempts = $2 AND due_at IS NOT NULL;

-- name: return_deliveries
-- Claimed and not tried: due at once, for anybody.
UPDATE longrun.webhook_deliveries AS delivery SET due_at = now()
FROM unnest($1::text[], $2::integer[]) AS claim (id, attempt)
WHERE delivery.id = claim.id AND delivery.attempts = claim.attempt AND delivery.due_at IS NOT NULL;

-- name: sample_webhooks
-- For the metrics: what is not delivered yet (no more than 10,000 are counted) and for how long the
-- oldest of it is tried, and how many endpoints are disabled.
SELECT pending.count, pending.oldest,
    (SELECT count(*) FROM longrun.webhook_endpoints WHERE disabled_at IS NOT NULL) AS disabled
FROM (
    SELECT count(*),
        coalesce(extract(epoch FROM now() - min(each.since)), 0)::double precision AS oldest
    FROM (
        SELECT since FROM longrun.webhook_deliveries WHERE due_at IS NOT NULL LIMIT 10000
    ) AS each
) AS pending;

-- name: forget_deliveries
-- Some of what was created more than $1 seconds ago and is over, the oldest first; and of what nobody
-- delivers, though it is due for $2 seconds: where the settings have no endpoint any more.
WITH old AS (
    SELECT id FROM longrun.webhook_deliveries
    WHERE created_at < now() - make_interval(secs => $1)
        AND (due_at IS NULL OR due_at < now() - make_interval(secs => $2))
    ORDER BY created_at
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
)
DELETE FROM longrun.webhook_deliveries AS delivery USING old WHERE delivery.id = old.id
RETURNING delivery.id;

-- name: list_deliveries
-- For operators: the newest first. :state is an outcome, or `pending`.
SELECT delivery.id, delivery.endpoint_id, endpoint.principal, delivery.event_id, delivery.type,
    delivery.response_id, delivery.created_at, delivery.since, delivery.attempts,
    delivery.failures, delivery.due_at, delivery.ended_at,
    coalesce(delivery.outcome, 'pending') AS state, delivery.status_code, delivery.problem,
    endpoint.id IS NOT NULL AS has_endpoint, endpoint.disabled_at
FROM longrun.webhook_deliveries AS delivery
LEFT JOIN longrun.webhook_endpoints AS endpoint ON endpoint.id = delivery.endpoint_id
WHERE true
    AND delivery.id = :id -- optional
    AND delivery.endpoint_id = :endpoint_id -- optional
    AND coalesce(delivery.outcome, 'pending') = :state -- optional
    AND delivery.response_id = :response_id -- optional
ORDER BY delivery.created_at DESC, delivery.id
LIMIT :limit;

-- name: show_webhook_endpoint
-- For operators: an endpoint without what its document says.
SELECT endpoint.id, endpoint.principal, endpoint.event_types, endpoint.created_at,
    endpoint.updated_at, endpoint.renewed_at, endpoint.delivered_at, endpoint.disabled_at,
    endpoint.previous_until, (
        SELECT count(*) FROM (
            SELECT FROM longrun.webhook_deliveries
            WHERE endpoint_id = endpoint.id AND due_at IS NOT NULL LIMIT 10000
        ) AS waiting
    ) AS pending
FROM longrun.webhook_endpoints AS endpoint
WHERE $1::text IS NULL OR endpoint.id = $1
ORDER BY endpoint.disabled_at DESC NULLS LAST, endpoint.id DESC
LIMIT $2;

-- name: redeliver
-- Some of what was given up or dropped, or with :id whatever became of it, is due again, as if it had
-- just been created; its endpoint is tried again.
WITH again AS (
    SELECT delivery.id FROM longrun.webhook_deliveries AS delivery
    WHERE EXISTS (
            SELECT FROM longrun.webhook_endpoints AS endpoint WHERE endpoint.id = delivery.endpoint_id
        )
        AND delivery.id = :id -- optional
        AND delivery.endpoint_id = :endpoint_id -- optional
        AND delivery.outcome = ANY(:outcomes::text[]) -- optional
    ORDER BY delivery.created_at
    LIMIT :limit
    FOR UPDATE OF delivery
), redone AS (
    UPDATE longrun.webhook_deliveries AS delivery
    SET due_at = now(), since = now(), failures = 0, ended_at = NULL, outcome = NULL
    FROM again
    WHERE delivery.id = again.id
    RETURNING delivery.id, delivery.endpoint_id
), enabled AS (
    UPDATE longrun.webhook_endpoints AS endpoint SET disabled_at = NULL, enabled_at = now()
    WHERE endpoint.disabled_at IS NOT NULL
        AND endpoint.id IN (SELECT redone.endpoint_id FROM redone)
)
SELECT id FROM redone;
