-- Ends orders as FAILED and buries their jobs for a redrive.
-- $1 order_id, $2 attempt, $3 how long it took in microseconds or NULL; $4 the worker; $5 code,
-- $6 message; ids ascend.
WITH buried AS (
    UPDATE jobs j
    SET due_at = 'infinity', last_error = t.message, claim_id = NULL, is_begun = false
    FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $5::text[], $6::text[])
        AS t (order_id, attempt, took, code, message)
    WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
        AND j.claim_id IS NOT NULL AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
    RETURNING j.order_id, j.attempt, t.took, t.code, t.message
),
moved AS (
    -- As for PROCESSED, the token is the only condition.
    UPDATE orders o
    SET status = 4, version = o.version + 1, updated_at = greatest(o.updated_at, now()),
        failure_code = buried.code, failure_message = buried.message
    FROM buried
    WHERE o.id = ANY ($1) AND o.id = buried.order_id
    RETURNING o.id, buried.attempt, o.version, o.updated_at, o.user_id, o.failure_code,
        o.failure_message, buried.took
),
history AS (
    INSERT INTO order_events (order_id, version, status, at, data, attempt, worker, begun_at)
    SELECT id, version, 4, updated_at,
        jsonb_build_object('code', failure_code, 'message', failure_message), attempt, $4::text,
        updated_at - took * interval '1 microsecond'
    FROM moved
)
SELECT id, attempt, version, updated_at, user_id, failure_code, failure_message FROM moved
