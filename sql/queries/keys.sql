-- name: create_key
-- Returns nothing where the name is taken.
INSERT INTO longrun.keys
    (prefix, hash, name, principal, scopes, max_runs, max_requests, max_tokens, expires_at, agent,
        runs_left)
VALUES (
    :prefix, :hash, :name, :principal, :scopes, :max_runs, :max_requests,
    :max_tokens, now() + make_interval(secs => :expires_in::double precision), :agent, :runs_left
)
ON CONFLICT DO NOTHING
RETURNING prefix;

-- name: find_key
-- A key that is valid, by its public part; `expires_in` in seconds, by Postgres's clock.
SELECT prefix, hash, principal, scopes, agent, max_runs, max_requests, max_tokens,
    extract(epoch FROM expires_at - now())::double precision AS expires_in
FROM longrun.keys
WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: any_key
-- Whether a key was ever created: from then on, callers need one, even if all are revoked.
SELECT EXISTS (SELECT FROM longrun.keys WHERE agent IS NULL);

-- name: list_keys
SELECT prefix, name, principal, scopes, max_runs, max_requests, max_tokens, created_at, expires_at,
    revoked_at,
    CASE
        WHEN revoked_at IS NOT NULL THEN 'revoked'
        WHEN expires_at <= now() THEN 'expired'
        WHEN replaced THEN 'replaced'
        ELSE 'valid'
    END AS state
FROM longrun.keys
WHERE agent IS NULL
ORDER BY created_at, prefix;

-- name: revoke_keys
-- By name (those that it was rotated from as well) or by prefix.
UPDATE longrun.keys SET revoked_at = now()
WHERE (name = $1 OR prefix = $1) AND revoked_at IS NULL
RETURNING prefix;

-- name: replace_key
-- The key of a name gives its place to another, and stays valid for $2 more seconds at most.
UPDATE longrun.keys
SET replaced = true,
    expires_at = least(expires_at, now() + make_interval(secs => $2::double precision))
WHERE name = $1 AND revoked_at IS NULL AND NOT replaced
RETURNING principal, scopes, max_runs, max_requests, max_tokens;

-- name: use_run
-- A chat token is about to start a run. Returns nothing where it may start no more.
UPDATE longrun.keys SET runs_left = runs_left - 1
WHERE prefix = $1 AND runs_left > 0
RETURNING runs_left;

-- name: give_run_back
UPDATE longrun.keys SET runs_left = runs_left + 1 WHERE prefix = $1 AND runs_left IS NOT NULL;

-- name: forget_chat_tokens
DELETE FROM longrun.keys WHERE agent IS NOT NULL AND expires_at < now() - interval '1 day';

-- name: token_secrets
-- What stream tokens are signed with, the newest last. $1 becomes the newest where there is none
-- of the last day. Two replicas may each add one at once; both are valid.
WITH old AS (
    SELECT created_at, secret FROM longrun.token_secrets
    WHERE created_at > now() - interval '2 days'
), new AS (
    INSERT INTO longrun.token_secrets (secret)
    SELECT $1 WHERE NOT EXISTS (SELECT FROM old WHERE created_at > now() - interval '1 day')
    ON CONFLICT DO NOTHING
    RETURNING created_at, secret
), gone AS (
    DELETE FROM longrun.token_secrets WHERE created_at < now() - interval '3 days'
)
SELECT secret FROM (SELECT * FROM old UNION ALL SELECT * FROM new) AS valid ORDER BY created_at;

-- name: signing_secret
-- What is signed for the purpose $1 is signed with this, by all replicas. $2 becomes it where there
-- is none yet; no row, where another replica adds one at this very moment.
WITH made AS (
    INSERT INTO longrun.signing_secrets (purpose, secret)
    SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM longrun.signing_secrets WHERE purpose = $1)
    ON CONFLICT DO NOTHING
    RETURNING secret
)
SELECT secret FROM longrun.signing_secrets WHERE purpose = $1
UNION ALL SELECT secret FROM made;

-- name: tell_keys_changed
SELECT pg_notify($1, $2);
