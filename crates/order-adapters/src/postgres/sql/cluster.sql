-- The processes that were seen in the last $1 microseconds, at most $2, those seen last. Always returns
-- a row, without a process if there is none.
SELECT now(), coalesce((SELECT is_paused FROM all_processes), false), p.id, p.program, p.place,
    p.version, p.started_at, p.seen_at, p.is_paused, p.figures::text
FROM (SELECT) AS always
LEFT JOIN (
    SELECT * FROM processes
    WHERE seen_at > now() - $1::bigint * interval '1 microsecond'
    ORDER BY seen_at DESC
    LIMIT $2
) AS p ON true
ORDER BY p.program COLLATE "C", p.place COLLATE "C", p.id
