-- Moves the end of leases. $1 order_id, $2 attempt, $3 lease in microseconds; ids ascend.
-- Returns the tokens that are current.
UPDATE jobs j
SET due_at = now() + $3::bigint * interval '1 microsecond'
FROM unnest($1::uuid[], $2::integer[]) AS t (order_id, attempt)
WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
    AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
RETURNING j.order_id, j.attempt
