-- Where orders $1 stand, and why, if they ended without success.
SELECT s.id, s.version, s.status, s.updated_at, s.user_id, s.data ->> 'code', s.data ->> 'message'
FROM (
    SELECT o.id, o.version, o.status, o.updated_at, o.user_id,
        CASE WHEN o.status IN (4, 5) THEN (
            SELECT e.data FROM order_events e WHERE e.order_id = o.id AND e.version = o.version
        ) END AS data
    FROM orders o
    WHERE o.id = ANY ($1)
    -- Keeps the subquery for the cause from running twice.
    OFFSET 0
) AS s
