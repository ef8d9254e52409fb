-- Claims those of the given jobs that are due and that nobody holds. $1 order_id, $2 lease in
-- microseconds, $3 claim_id. As durable as every claim, for the same reason.
WITH due AS (
    SELECT order_id FROM jobs
    WHERE order_id = ANY ($1) AND due_at <= now() AND claim_id IS NULL
    -- A row that another transaction holds is being claimed, or found by the sweep later.
    FOR UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE jobs j
    SET attempt = j.attempt + 1, due_at = now() + $2::bigint * interval '1 microsecond',
        claim_id = $3, is_begun = false
    WHERE j.order_id = ANY (ARRAY(SELECT order_id FROM due))
    RETURNING j.order_id, j.attempt, j.attempts_before
)
SELECT o.id, o.user_id, o.amount_minor, o.currency, o.status, o.version, o.failure_code,
    o.failure_message, o.created_at, o.updated_at, o.metadata::text, o.external_id, claimed.attempt,
    claimed.attempts_before, o.trace_parent
FROM claimed
JOIN orders o ON o.id = claimed.order_id
WHERE o.id = ANY ($1)
