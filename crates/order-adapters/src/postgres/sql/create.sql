-- Inserts orders with their jobs, a whole batch in one statement and one commit.
-- $1 id, $2 user_id, $3 amount_minor, $4 currency, $5 metadata or NULL, $6 external_id or NULL,
-- $7 lease in microseconds or NULL, $8 claim_id for those with a lease, $9 trace_parent, $10 request_id
-- and $11 gateway or NULL.
WITH created AS (
    -- An order whose id or external id is taken is left out; the caller looks who has it.
    INSERT INTO orders (id, user_id, amount_minor, currency, status, version, metadata,
        external_id, trace_parent, request_id, gateway, created_at, updated_at)
    SELECT n.id, n.user_id, n.amount_minor, n.currency, 1, 1, n.metadata::jsonb,
        n.external_id, n.trace_parent, n.request_id, n.gateway, now(), now()
    FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[],
            $9::text[], $10::text[], $11::text[])
        AS n (id, user_id, amount_minor, currency, metadata, external_id, trace_parent, request_id,
            gateway)
    ON CONFLICT DO NOTHING
    RETURNING id, created_at
),
born AS (
    -- With a lease the job is born claimed, as attempt 1; without, it is due at once.
    INSERT INTO jobs (order_id, attempt, due_at, claim_id)
    SELECT created.id,
        CASE WHEN n.lease IS NULL THEN 0 ELSE 1 END,
        now() + coalesce(n.lease, 0) * interval '1 microsecond',
        CASE WHEN n.lease IS NOT NULL THEN n.claim_id END
    FROM created
    JOIN unnest($1::uuid[], $7::bigint[], $8::uuid[]) AS n (id, lease, claim_id)
        ON n.id = created.id
)
SELECT id, created_at FROM created
