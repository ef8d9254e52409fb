-- Makes jobs due again after a delay; their orders do not move.
-- $1 order_id, $2 attempt, $3 delay in microseconds, $4 what went wrong; ids ascend.
UPDATE jobs j
SET due_at = now() + t.delay * interval '1 microsecond', last_error = t.error
FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::text[])
    AS t (order_id, attempt, delay, error)
WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
    AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
RETURNING j.order_id, j.attempt
