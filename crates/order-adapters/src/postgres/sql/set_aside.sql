-- Sets claimed jobs aside whose orders cannot be read, and gives their attempt back.
-- $1 order_id, $2 attempt, $3 rest in microseconds; ids ascend.
UPDATE jobs j
SET due_at = now() + $3::bigint * interval '1 microsecond',
    attempts_before = least(j.attempts_before + 1, j.attempt),
    last_error = 'the order cannot be read', claim_id = NULL, is_begun = false
FROM unnest($1::uuid[], $2::integer[]) AS t (order_id, attempt)
WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
    AND j.due_at <> 'infinity'
