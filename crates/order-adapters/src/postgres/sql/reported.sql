-- What was reported for tokens that are not current any more. $1 order_id, $2 attempt. The event
-- is the one that the report caused; a token without one is being retried.
SELECT t.order_id, t.attempt, e.version, e.at, e.user_id, e.status, e.code, e.message
FROM unnest($1::uuid[], $2::integer[]) AS t (order_id, attempt)
LEFT JOIN (
    SELECT h.order_id, h.attempt, h.version, h.at, o.user_id, h.status,
        h.data ->> 'code' AS code, h.data ->> 'message' AS message
    FROM order_events h
    JOIN orders o ON o.id = h.order_id
    WHERE h.order_id = ANY ($1) AND o.id = ANY ($1) AND h.status IN (3, 4)
) AS e ON e.order_id = t.order_id AND e.attempt = t.attempt
LEFT JOIN (
    SELECT order_id, retried FROM jobs WHERE order_id = ANY ($1)
) AS j ON j.order_id = t.order_id AND j.retried = t.attempt
WHERE e.version IS NOT NULL OR j.retried IS NOT NULL
