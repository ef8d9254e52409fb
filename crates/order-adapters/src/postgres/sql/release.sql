-- Gives leases back, and the attempt with them. $1 order_id, $2 attempt; ids ascend.
UPDATE jobs j
SET due_at = now(), attempts_before = j.attempts_before + 1
FROM unnest($1::uuid[], $2::integer[]) AS t (order_id, attempt)
WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
    AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
RETURNING j.order_id
