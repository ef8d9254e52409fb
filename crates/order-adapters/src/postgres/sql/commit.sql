-- Applies decided changes, each a compare-and-set on the version it was decided on.
-- $1 order_id, $2 expected_version, $3 status, $4 effect on the job (1 delete, 2 bury,
-- 3 requeue, else keep), $5 code and $6 message of the cause or NULL; $7 owner, $8 operation,
-- $9 key, $10 fingerprint and $11 retention in microseconds of the idempotency key or NULL;
-- $12 change_id or NULL.
-- Ids ascend, and no two keys are equal.
WITH held AS (
    -- The lock on its job is the mutex of an order. It comes before the order's own, here
    -- and everywhere, so a worker that holds the job finishes first, and then we are stale.
    SELECT j.order_id FROM jobs j
    WHERE j.order_id = ANY ($1)
    ORDER BY j.order_id
    FOR UPDATE
),
moved AS (
    UPDATE orders o
    SET status = c.status,
        version = o.version + 1,
        failure_code = CASE WHEN c.status = 4 THEN c.code END,
        failure_message = CASE WHEN c.status = 4 THEN c.message END,
        -- History does not run backwards, even if the database moves to a slower clock.
        updated_at = greatest(o.updated_at, now())
    FROM unnest($1::uuid[], $2::integer[], $3::smallint[], $4::smallint[], $5::text[], $6::text[],
                $7::text[], $8::smallint[], $9::text[], $10::bytea[], $11::bigint[],
                $12::uuid[])
            AS c (order_id, expected_version, status, job, code, message,
                owner, operation, key, fingerprint, retention, change_id),
        -- Counting takes every lock before the first order moves.
        (SELECT count(*) FROM held) AS all_held
    WHERE o.id = ANY ($1) AND o.id = c.order_id AND o.version = c.expected_version
        -- A subquery and not a join: one descent of the primary key for each key, and none
        -- for a change without one.
        AND (c.key IS NULL OR (
            SELECT k.order_id FROM idempotency_keys k
            WHERE k.owner = c.owner AND k.operation = c.operation AND k.key = c.key
        ) IS NULL)
    RETURNING o.*, c.expected_version, c.job, c.code, c.message,
        c.owner, c.operation, c.key, c.fingerprint, c.retention, c.change_id
),
history AS (
    INSERT INTO order_events (order_id, version, status, at, data, change_id)
    SELECT id, version, status, updated_at,
        CASE WHEN code IS NOT NULL THEN jsonb_build_object('code', code, 'message', message) END,
        change_id
    FROM moved
),
kept AS (
    -- A twin that has ended since this statement began was not seen above. It violates the
    -- primary key here, which undoes everything, and the statement is repeated.
    INSERT INTO idempotency_keys (owner, operation, key, request_hash, order_id, expires_at)
    SELECT owner, operation, key, fingerprint, id, now() + retention * interval '1 microsecond'
    FROM moved
    WHERE key IS NOT NULL
    -- Concurrent statements meet at their keys in the same order.
    ORDER BY owner, operation, key
),
deleted AS (
    DELETE FROM jobs j USING moved
    WHERE j.order_id = ANY ($1) AND j.order_id = moved.id AND moved.job = 1
),
buried AS (
    UPDATE jobs j
    SET due_at = 'infinity', last_error = moved.message, claim_id = NULL, is_begun = false
    FROM moved
    WHERE j.order_id = ANY ($1) AND j.order_id = moved.id AND moved.job = 2
),
requeued AS (
    -- A new round: earlier attempts no longer count, and their tokens are worth nothing.
    INSERT INTO jobs (order_id, due_at)
    SELECT id, now() FROM moved WHERE moved.job = 3
    ON CONFLICT (order_id) DO UPDATE
    SET due_at = excluded.due_at, attempts_before = jobs.attempt, last_error = NULL,
        claim_id = NULL, is_begun = false
)
SELECT id, user_id, amount_minor, currency, status, version, failure_code, failure_message,
    created_at, updated_at, metadata::text, external_id, expected_version
FROM moved
