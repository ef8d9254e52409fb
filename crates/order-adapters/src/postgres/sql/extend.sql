-- Moves the end of leases. $1 order_id, $2 attempt, $3 lease in microseconds; ids ascend.
-- Returns the tokens that are current, and whether their lease was moved.
WITH current AS (
    SELECT j.order_id, j.attempt
    FROM jobs j
    JOIN unnest($1::uuid[], $2::integer[]) AS t (order_id, attempt)
        ON j.order_id = t.order_id AND j.attempt = t.attempt
    WHERE j.order_id = ANY ($1) AND j.claim_id IS NOT NULL
        AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
),
held AS (
    -- A row that another transaction has locked would hold up all the others. What it held may
    -- have ended since it was read above.
    SELECT j.order_id
    FROM jobs j
    JOIN current ON current.order_id = j.order_id AND current.attempt = j.attempt
    WHERE j.order_id = ANY ($1) AND j.claim_id IS NOT NULL
        AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
    ORDER BY j.order_id
    FOR UPDATE OF j SKIP LOCKED
),
extended AS (
    UPDATE jobs j
    SET due_at = now() + $3::bigint * interval '1 microsecond'
    FROM held
    WHERE j.order_id = ANY ($1) AND j.order_id = held.order_id
    RETURNING j.order_id
)
SELECT current.order_id, current.attempt, extended.order_id IS NOT NULL
FROM current LEFT JOIN extended ON extended.order_id = current.order_id
