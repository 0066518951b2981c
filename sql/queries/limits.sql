-- name: share_rates
-- What each of these subjects did here lately joins what it did elsewhere. Returns how much of
-- that has not worn off, of all replicas together. In one order everywhere, so that two of these
-- never wait for each other. Clocks of transactions that waited may run backwards.
INSERT INTO longrun.request_rates AS known (subject, level, rate, at)
SELECT given.subject, given.count, given.rate, now()
FROM unnest($1::text[], $2::double precision[], $3::double precision[])
    AS given (subject, count, rate)
ORDER BY given.subject COLLATE "C"
ON CONFLICT (subject) DO UPDATE
SET level = excluded.level + greatest(
        0, known.level - known.rate * extract(epoch FROM greatest(excluded.at - known.at, '0'))
    ),
    rate = excluded.rate,
    at = greatest(excluded.at, known.at)
RETURNING subject, level;

-- name: forget_rates
-- What has worn off long ago: whatever the rate, a full bucket is empty after a minute.
DELETE FROM longrun.request_rates WHERE at < now() - interval '10 minutes';

-- name: forget_tokens
-- What was spent on days that are longer ago than so many seconds.
DELETE FROM longrun.tokens_spent
WHERE day < (now() AT TIME ZONE 'UTC' - make_interval(secs => $1))::date - 1;

-- name: tokens_today
-- What was spent today (UTC), by the principal $1 or by the account $2 that acts for it, whichever
-- is more.
SELECT coalesce(max(whose.tokens), 0)::bigint AS tokens
FROM (
    SELECT sum(tokens) AS tokens FROM longrun.tokens_spent
    WHERE (principal = $1 OR principal = $2) AND day = (now() AT TIME ZONE 'UTC')::date
    GROUP BY principal
) AS whose;

-- name: spend_tokens
-- $2 tokens that were spent beside responses, by each of these.
INSERT INTO longrun.tokens_spent (principal, day, session, tokens)
SELECT whose.principal, (now() AT TIME ZONE 'UTC')::date, pg_backend_pid(), $2::bigint
FROM unnest($1::text[]) AS whose (principal)
ORDER BY whose.principal COLLATE "C"
ON CONFLICT (principal, day, session) DO UPDATE
SET tokens = tokens_spent.tokens + excluded.tokens;
