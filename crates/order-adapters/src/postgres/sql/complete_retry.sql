-- Makes jobs due again after a delay, and records their attempts; their orders do not move.
-- $1 order_id, $2 attempt, $3 how long it took in microseconds or NULL; $4 the worker; $5 delay in
-- microseconds, $6 what went wrong, $7 whether the attempt counts; $8 how many attempts are kept; ids
-- ascend.
WITH retried AS (
    UPDATE jobs j
    SET due_at = now() + t.delay * interval '1 microsecond', last_error = t.error,
        attempts_before = j.attempts_before + (NOT t.is_counted)::integer,
        retried = j.attempt, claim_id = NULL, is_begun = false
    FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $5::bigint[], $6::text[], $7::boolean[])
        AS t (order_id, attempt, took, delay, error, is_counted)
    WHERE j.order_id = ANY ($1) AND j.order_id = t.order_id AND j.attempt = t.attempt
        AND j.claim_id IS NOT NULL AND j.attempt > j.attempts_before AND j.due_at <> 'infinity'
    RETURNING j.order_id, j.attempt, j.due_at, t.took, t.error
),
recorded AS (
    INSERT INTO order_attempts
        (order_id, attempt, worker, begun_at, ended_at, outcome, error, next_at)
    SELECT order_id, attempt, $4::text, now() - took * interval '1 microsecond', now(), 1, error,
        due_at
    FROM retried
    ON CONFLICT DO NOTHING
),
forgotten AS (
    -- Postponed attempts do not count, so there may be any number of them. With its limit the
    -- subquery cannot become a join. No row here is ever updated, so one stays where its ctid says.
    DELETE FROM order_attempts
    WHERE ctid = ANY (ARRAY(
        SELECT old.ctid
        FROM retried
        CROSS JOIN LATERAL (
            SELECT a.ctid FROM order_attempts a
            WHERE a.order_id = retried.order_id AND a.attempt <= retried.attempt - $8
            ORDER BY a.attempt
            LIMIT 10
        ) AS old
        WHERE retried.attempt > $8
    ))
)
SELECT order_id, attempt FROM retried
