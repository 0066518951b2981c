-- Webhooks: who wants to hear of the ends of background responses, and what is to be delivered.

CREATE TABLE longrun.webhook_endpoints (
    -- `we_…`; or `settings`: the one of the replicas' own settings, which hears of everybody's.
    id text COLLATE "C" PRIMARY KEY,
    -- Whose responses it hears of. Null: everybody's.
    principal text COLLATE "C",
    event_types text[] NOT NULL,
    -- A JSON object: name, url, secret, and the secret before that one. Null: the settings have it.
    document text,
    -- Until then the secret before signs as well.
    previous_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- When a replica last said that its settings have it.
    renewed_at timestamptz,
    -- When something was last delivered, to within some seconds.
    delivered_at timestamptz,
    -- It answered nothing good for as long as is tried: nothing more is kept for it.
    disabled_at timestamptz,
    -- When it was created, changed or enabled again: what failed before that disables it no more.
    enabled_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((principal IS NULL) = (id = 'settings'))
);

CREATE INDEX webhook_endpoints_of_principal ON longrun.webhook_endpoints (principal, id DESC);
CREATE INDEX webhook_endpoints_disabled ON longrun.webhook_endpoints (disabled_at)
    WHERE disabled_at IS NOT NULL;
ALTER TABLE longrun.webhook_endpoints ALTER COLUMN document SET STATISTICS 0;

-- The outbox: one event for one endpoint. Ids and the names of event types, nothing that was said.
-- No foreign keys: the end of a response must never wait for a change of an endpoint, or fail by it.
CREATE TABLE longrun.webhook_deliveries (
    -- `wh_…`, made of the two below: an end that is written again is not delivered twice for it.
    id text COLLATE "C" PRIMARY KEY,
    endpoint_id text COLLATE "C" NOT NULL,
    -- `evt_…`, the same for all endpoints.
    event_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    response_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Since when it is tried: its creation, or when somebody had it delivered again.
    since timestamptz NOT NULL DEFAULT now(),
    -- How often it was claimed; whoever writes what became of an attempt names it.
    attempts integer NOT NULL DEFAULT 0,
    -- Attempts that failed since then.
    failures integer NOT NULL DEFAULT 0,
    -- When the next attempt may begin, unless that of whoever claimed it is noted before. Null: it
    -- is over.
    due_at timestamptz DEFAULT now(),
    ended_at timestamptz,
    outcome text CHECK (outcome IN ('delivered', 'given_up', 'dropped')),
    -- Of the last attempt: the status of the answer, and what was wrong, in our words.
    status_code integer,
    problem text,
    CHECK ((due_at IS NULL) = (ended_at IS NOT NULL) AND (due_at IS NULL) = (outcome IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX webhook_deliveries_due ON longrun.webhook_deliveries (endpoint_id, due_at)
    WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_by_time ON longrun.webhook_deliveries (created_at);

-- With the end of a background response, however it comes about and whatever version of a replica
-- writes it, comes what is to be delivered of it. As the owner, so that a role which was granted what
-- an older version needs can go on ending responses.
CREATE FUNCTION longrun.note_webhooks() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO longrun.webhook_deliveries (id, endpoint_id, event_id, type, response_id)
    SELECT 'wh_' || left(encode(sha256(convert_to(event.id || endpoint.id, 'UTF8')), 'hex'), 32),
        endpoint.id, event.id, wanted.type, NEW.id
    FROM longrun.webhook_endpoints AS endpoint
    CROSS JOIN LATERAL unnest(endpoint.event_types) AS wanted (type)
    CROSS JOIN LATERAL (
        SELECT 'evt_' || left(
            encode(sha256(convert_to(NEW.id || ' ' || wanted.type, 'UTF8')), 'hex'), 32
        ) AS id
    ) AS event
    WHERE (endpoint.principal = NEW.principal OR endpoint.id = 'settings')
        AND endpoint.disabled_at IS NULL
        AND (endpoint.id <> 'settings' OR endpoint.renewed_at > now() - interval '1 hour')
        AND (
            wanted.type = 'response.' || NEW.status
            OR wanted.type = 'response.action_required' AND EXISTS (
                SELECT FROM longrun.parked WHERE response_id = NEW.id
            )
        )
    ON CONFLICT (id) DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER note_webhooks AFTER UPDATE OF status ON longrun.responses
    FOR EACH ROW
    WHEN (NEW.background AND NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL)
    EXECUTE FUNCTION longrun.note_webhooks();
