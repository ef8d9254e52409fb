-- Claims one abandoned job, the longest due first: one that is due although a claim holds it.
-- $1 lease in microseconds, $2 claim_id; $3 when it became due at the earliest, or NULL. As durable
-- as every claim, for the same reason. Returns a row as the other claim does.
WITH front AS (
    -- A part of the due jobs at a time, since there may be a long backlog.
    SELECT order_id, due_at, claim_id FROM jobs
    WHERE due_at <= now()
        AND due_at >= coalesce($3::timestamptz, '-infinity')
    ORDER BY due_at
    LIMIT 1024
),
seen AS (
    SELECT CASE
        WHEN count(claim_id) > 0 THEN min(due_at) FILTER (WHERE claim_id IS NOT NULL)
        WHEN count(*) = 1024 THEN max(due_at)
        -- Others may have extended or lost leases that end from here on.
        ELSE now() - interval '6 s'
    END AS until
    FROM front
),
abandoned AS (
    SELECT order_id, attempt, claim_id, is_begun FROM jobs
    WHERE order_id = ANY (ARRAY(
            SELECT order_id FROM front WHERE claim_id IS NOT NULL ORDER BY due_at LIMIT 32
        ))
        AND due_at <= now() AND claim_id IS NOT NULL
        -- Again, for a plan that follows the order of this index here, too.
        AND due_at >= coalesce($3::timestamptz, '-infinity')
    ORDER BY due_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE jobs j
    SET attempt = j.attempt + 1,
        -- A claim under which nothing began does not count. A program that does not know
        -- claim_id may have redriven the order, and then it does not count already.
        attempts_before =
            least(j.attempts_before + CASE WHEN j.is_begun THEN 0 ELSE 1 END, j.attempt),
        due_at = now() + $1::bigint * interval '1 microsecond',
        claim_id = $2, is_begun = false
    WHERE j.order_id = ANY (ARRAY(SELECT order_id FROM abandoned))
    RETURNING j.order_id, j.attempt, j.attempts_before
),
lost AS (
    INSERT INTO order_attempts (order_id, attempt, worker, ended_at, outcome)
    SELECT order_id, attempt, (
            SELECT p.program || ' ' || p.place FROM processes p
            WHERE p.id = process_of_claim(claim_id)
        ), now(), 2
    FROM abandoned
    WHERE is_begun
    ON CONFLICT DO NOTHING
)
SELECT o.id, o.user_id, o.amount_minor, o.currency, o.status, o.version, o.failure_code,
    o.failure_message, o.created_at, o.updated_at, o.metadata::text, o.external_id, claimed.attempt,
    claimed.attempts_before, o.trace_parent, seen.until
FROM seen
LEFT JOIN (
    claimed JOIN orders o
        ON o.id = claimed.order_id AND o.id = ANY (ARRAY(SELECT order_id FROM abandoned))
) ON true
