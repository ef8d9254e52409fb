-- Gives leases back, and the attempt with them. $1 order_id, $2 attempt; ids ascend.
WITH held AS (
    -- A row that another transaction has locked would hold up all the others.
    SELECT j.order_id
    FROM jobs j
    JOIN unnest($1::uuid[], $2::integer[]) AS t (order_id, attempt)
        ON j.order_id = t.order_id AND j.attempt = t.attempt
    WHERE j.order_id = ANY ($1) AND j.claim_id IS NOT NULL
        AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
    ORDER BY j.order_id
    FOR UPDATE OF j SKIP LOCKED
)
UPDATE jobs j
SET due_at = now(), attempts_before = j.attempts_before + 1, claim_id = NULL, is_begun = false
FROM held
WHERE j.order_id = ANY ($1) AND j.order_id = held.order_id
RETURNING j.order_id
