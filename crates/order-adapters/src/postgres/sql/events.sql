-- The history of order $1 after version $2, oldest first, at most $3 entries.
SELECT version, status, at, user_id, code, message
FROM (
    -- Version 1 is the order itself.
    SELECT 1 AS version, 1::smallint AS status, created_at AS at, user_id, NULL AS code,
        NULL AS message
    FROM orders
    WHERE id = $1 AND $2 < 1
    UNION ALL
    SELECT version, status, at, (SELECT user_id FROM orders WHERE id = $1), data ->> 'code',
        data ->> 'message'
    FROM order_events
    WHERE order_id = $1 AND version > $2
) AS history
ORDER BY version
LIMIT $3
