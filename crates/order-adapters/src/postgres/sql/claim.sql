-- Claims due jobs that nobody holds, the longest due first. $1 limit, $2 lease and $3 the time
-- they have been due for at least, in microseconds; $4 claim_id.
-- This commits as durably as everything else: the raised attempt is the fencing token, and
-- one that a crash of the database took back would be given out twice.
WITH due AS (
    SELECT order_id, due_at FROM jobs
    WHERE due_at <= now() - $3::bigint * interval '1 microsecond' AND claim_id IS NULL
    ORDER BY due_at
    LIMIT $1
    -- Rows that others hold are theirs: no claim waits, and no two get the same job.
    FOR UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE jobs j
    SET attempt = j.attempt + 1, due_at = now() + $2::bigint * interval '1 microsecond',
        claim_id = $4, is_begun = false
    WHERE j.order_id = ANY (ARRAY(SELECT order_id FROM due))
    RETURNING j.order_id, j.attempt, j.attempts_before
)
SELECT o.id, o.user_id, o.amount_minor, o.currency, o.status, o.version, o.failure_code,
    o.failure_message, o.created_at, o.updated_at, o.metadata::text, o.external_id, claimed.attempt,
    claimed.attempts_before
FROM due
JOIN claimed ON claimed.order_id = due.order_id
JOIN orders o ON o.id = due.order_id
WHERE o.id = ANY (ARRAY(SELECT order_id FROM due))
ORDER BY due.due_at
