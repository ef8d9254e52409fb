-- Stores the report of process $1: $2 program, $3 place, $4 version, $5 started_at, $6 figures. Removes
-- processes that have not reported for an hour. Returns whether the process is paused.
WITH stored AS (
    INSERT INTO processes (id, program, place, version, started_at, seen_at, figures)
    VALUES ($1, $2, $3, $4, $5, now(), $6::text::json)
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, figures = excluded.figures
    RETURNING is_paused
),
removed AS (
    DELETE FROM processes
    WHERE id = ANY (ARRAY(
        SELECT id FROM processes
        WHERE seen_at < now() - interval '1 hour' AND id <> $1
        LIMIT 100
        -- Two processes that are back after an hour must not wait for each other.
        FOR UPDATE SKIP LOCKED
    ))
)
SELECT is_paused OR coalesce((SELECT a.is_paused FROM all_processes a), false) FROM stored
