-- As create.sql, for orders of which some have an idempotency key.
-- $1 id, $2 user_id, $3 amount_minor, $4 currency, $5 metadata or NULL, $6 external_id or NULL,
-- $7 lease in microseconds or NULL, $8 claim_id for those with a lease, $9 trace_parent, $10 request_id
-- and $11 gateway or NULL; $12 owner, $13 operation, $14 key, $15 fingerprint and $16 retention in
-- microseconds of the key or NULL. No two keys are equal.
WITH wanted AS MATERIALIZED (
    -- A subquery and not a join: it is one descent of the primary key for each order, however
    -- large the table.
    SELECT n.*, (
        SELECT k FROM idempotency_keys k
        WHERE k.owner = n.owner AND k.operation = n.operation AND k.key = n.key
    ) AS known
    FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[],
            $7::bigint[], $8::uuid[], $9::text[], $10::text[], $11::text[], $12::text[],
            $13::smallint[], $14::text[], $15::bytea[], $16::bigint[])
        AS n (id, user_id, amount_minor, currency, metadata, external_id, lease, claim_id,
            trace_parent, request_id, gateway, owner, operation, key, fingerprint, retention)
),
fresh AS MATERIALIZED (
    -- Nobody waits for a twin. The lock ends with the transaction, and only exists to tell
    -- that one is under way; what makes a key unique is the primary key. A key holds no
    -- space, so the text says where the owner begins.
    SELECT *, key IS NULL
            OR pg_try_advisory_xact_lock(hashtextextended(key || ' ' || owner, operation))
            AS is_free
    FROM wanted
    WHERE (known).order_id IS NULL
),
created AS (
    INSERT INTO orders (id, user_id, amount_minor, currency, status, version, metadata,
        external_id, trace_parent, request_id, gateway, created_at, updated_at)
    SELECT id, user_id, amount_minor, currency, 1, 1, metadata::jsonb, external_id, trace_parent,
        request_id, gateway, now(), now()
    FROM fresh
    WHERE is_free
    ON CONFLICT DO NOTHING
    RETURNING id, created_at
),
born AS (
    INSERT INTO jobs (order_id, attempt, due_at, claim_id)
    SELECT created.id,
        CASE WHEN fresh.lease IS NULL THEN 0 ELSE 1 END,
        now() + coalesce(fresh.lease, 0) * interval '1 microsecond',
        CASE WHEN fresh.lease IS NOT NULL THEN fresh.claim_id END
    FROM created
    JOIN fresh ON fresh.id = created.id
),
kept AS (
    -- A twin that has ended since this statement began is not in `known`. It violates the
    -- primary key here, which undoes everything, and the statement is repeated.
    INSERT INTO idempotency_keys (owner, operation, key, request_hash, order_id, expires_at)
    SELECT fresh.owner, fresh.operation, fresh.key, fresh.fingerprint, fresh.id,
        now() + fresh.retention * interval '1 microsecond'
    FROM created
    JOIN fresh ON fresh.id = created.id
    WHERE fresh.key IS NOT NULL
)
SELECT wanted.id, created.created_at, (wanted.known).request_hash, (wanted.known).order_id,
    fresh.is_free
FROM wanted
LEFT JOIN fresh ON fresh.id = wanted.id
LEFT JOIN created ON created.id = wanted.id
