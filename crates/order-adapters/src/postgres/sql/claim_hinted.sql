-- Claims those of the given jobs that are due. $1 order_id, $2 lease in microseconds; ids
-- ascend. As durable as every claim, for the same reason.
WITH claimed AS (
    -- A row that another statement holds is waited for and looked at again: if it was claimed
    -- meanwhile, it is not due. Ids ascend here and everywhere, so no two wait for each other.
    UPDATE jobs j
    SET attempt = j.attempt + 1, due_at = now() + $2::bigint * interval '1 microsecond'
    WHERE j.order_id = ANY ($1) AND j.due_at <= now()
    RETURNING j.order_id, j.attempt, j.attempts_before
)
SELECT o.id, o.user_id, o.amount_minor, o.currency, o.status, o.version, o.failure_code,
    o.failure_message, o.created_at, o.updated_at, o.metadata::text, o.external_id, claimed.attempt,
    claimed.attempts_before
FROM claimed
JOIN orders o ON o.id = claimed.order_id
WHERE o.id = ANY ($1)
