-- Claims free jobs that are due, the longest due first. $1 limit, $2 lease and $3 the time they
-- have been due for at least, in microseconds; $4 claim_id; $5 when they became due at the
-- earliest, or NULL. Always returns a row, without an order if there is none; in the last column,
-- nothing was left behind that became due before.
-- This commits as durably as everything else: the raised attempt is the fencing token, and
-- one that a crash of the database took back would be given out twice.
WITH due AS (
    SELECT order_id, due_at FROM jobs
    WHERE due_at <= now() - $3::bigint * interval '1 microsecond' AND claim_id IS NULL
        AND due_at >= coalesce($5::timestamptz, '-infinity')
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
    claimed.attempts_before, o.trace_parent, seen.until
FROM (
    SELECT CASE
        WHEN count(*) = $1 THEN max(due_at)
        -- A job is due from the beginning of the statement that commits it, and that takes no
        -- more than 5 s.
        ELSE now() - $3::bigint * interval '1 microsecond' - interval '6 s'
    END AS until
    FROM due
) AS seen
LEFT JOIN (
    due
    JOIN claimed ON claimed.order_id = due.order_id
    JOIN orders o ON o.id = due.order_id AND o.id = ANY (ARRAY(SELECT order_id FROM due))
) ON true
ORDER BY due.due_at
