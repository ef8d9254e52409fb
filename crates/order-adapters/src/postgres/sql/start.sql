-- Marks current tokens before their work begins. $1 order_id, $2 attempt, $3 whether the order
-- moves to PROCESSING, $4 whether the attempt counts from now on; ids ascend.
WITH held AS (
    SELECT j.order_id, j.attempt, t.moves_order, t.counts
    FROM jobs j
    JOIN unnest($1::uuid[], $2::integer[], $3::boolean[], $4::boolean[])
        AS t (order_id, attempt, moves_order, counts)
        ON j.order_id = t.order_id AND j.attempt = t.attempt
    WHERE j.order_id = ANY ($1) AND j.claim_id IS NOT NULL
        AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
    ORDER BY j.order_id
    -- A cancel waits here, and then finds the order PROCESSING.
    FOR UPDATE OF j
),
begun AS (
    UPDATE jobs j
    SET is_begun = true
    FROM held
    WHERE j.order_id = ANY ($1) AND j.order_id = held.order_id AND held.counts AND NOT j.is_begun
),
moved AS (
    UPDATE orders o
    SET status = 2, version = o.version + 1, updated_at = greatest(o.updated_at, now())
    FROM held
    WHERE o.id = ANY ($1) AND o.id = held.order_id AND held.moves_order AND o.status = 1
    RETURNING o.id, o.version, o.updated_at, o.user_id
),
history AS (
    INSERT INTO order_events (order_id, version, status, at)
    SELECT id, version, 2, updated_at FROM moved
)
-- A held token without a move is an order that is PROCESSING already.
SELECT held.order_id, held.attempt, moved.version, moved.updated_at, moved.user_id
FROM held LEFT JOIN moved ON moved.id = held.order_id
