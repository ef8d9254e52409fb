-- Makes jobs due again after a delay; their orders do not move.
-- $1 order_id, $2 attempt, $3 delay in microseconds, $4 what went wrong, $5 whether the attempt
-- counts; ids ascend.
UPDATE jobs j
SET due_at = now() + t.delay * interval '1 microsecond', last_error = t.error,
    attempts_before = j.attempts_before + (NOT t.is_counted)::integer,
    retried = j.attempt, claim_id = NULL, is_begun = false
FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::text[], $5::boolean[])
    AS t (order_id, attempt, delay, error, is_counted)
WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
    AND j.claim_id IS NOT NULL AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
RETURNING j.order_id, j.attempt
