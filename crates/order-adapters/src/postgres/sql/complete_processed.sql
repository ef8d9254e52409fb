-- Ends orders as PROCESSED and deletes their jobs. $1 order_id, $2 attempt, $3 how long it took in
-- microseconds or NULL; $4 the worker; ids ascend.
WITH done AS (
    DELETE FROM jobs j
    USING unnest($1::uuid[], $2::integer[], $3::bigint[]) AS t (order_id, attempt, took)
    WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
        AND j.claim_id IS NOT NULL AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
    RETURNING j.order_id, j.attempt, t.took
),
moved AS (
    -- Nothing is asked of the order: a current token proves that it is PENDING or
    -- PROCESSING, because leaving these takes the job along. A condition that failed here
    -- would delete the job and leave the order behind for ever.
    UPDATE orders o
    SET status = 3, version = o.version + 1, updated_at = greatest(o.updated_at, now())
    FROM done
    WHERE o.id = ANY ($1) AND o.id = done.order_id
    RETURNING o.id, done.attempt, o.version, o.updated_at, o.user_id, done.took
),
history AS (
    INSERT INTO order_events (order_id, version, status, at, attempt, worker, begun_at)
    SELECT id, version, 3, updated_at, attempt, $4::text,
        updated_at - took * interval '1 microsecond'
    FROM moved
)
SELECT id, attempt, version, updated_at, user_id FROM moved
