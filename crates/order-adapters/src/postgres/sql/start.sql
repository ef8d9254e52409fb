-- Moves the orders of current tokens to PROCESSING. $1 order_id, $2 attempt; ids ascend.
WITH held AS (
    SELECT j.order_id, j.attempt
    FROM jobs j
    JOIN unnest($1::uuid[], $2::integer[]) AS t (order_id, attempt)
        ON j.order_id = t.order_id AND j.attempt = t.attempt
    WHERE j.order_id = ANY ($1) AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
    ORDER BY j.order_id
    -- A cancel waits here, and then finds the order PROCESSING.
    FOR UPDATE OF j
),
moved AS (
    UPDATE orders o
    SET status = 2, version = o.version + 1, updated_at = greatest(o.updated_at, now())
    FROM held
    WHERE o.id = ANY ($1) AND o.id = held.order_id AND o.status = 1
    RETURNING o.id, o.version, o.updated_at, o.user_id
),
history AS (
    INSERT INTO order_events (order_id, version, status, at)
    SELECT id, version, 2, updated_at FROM moved
)
-- A held token without a move is an order that is PROCESSING already.
SELECT held.order_id, held.attempt, moved.version, moved.updated_at, moved.user_id
FROM held LEFT JOIN moved ON moved.id = held.order_id
