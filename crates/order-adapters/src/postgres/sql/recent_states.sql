-- Where the newest orders of each user stand. $1 users, $2 how many of each.
SELECT newest.id, newest.version, newest.status, newest.updated_at, newest.user_id,
    newest.data ->> 'code', newest.data ->> 'message'
FROM unnest($1::text[]) AS u (user_id)
-- With its limit the subquery cannot become a join, so it is one short range of the index on
-- (user_id, id) for each user. As bounds and not as an equation, user_id is part of the order,
-- which the primary key does not have.
CROSS JOIN LATERAL (
    SELECT o.id, o.version, o.status, o.updated_at, o.user_id,
        CASE WHEN o.status IN (4, 5) THEN (
            SELECT e.data FROM order_events e WHERE e.order_id = o.id AND e.version = o.version
        ) END AS data
    FROM orders o
    WHERE o.user_id BETWEEN u.user_id AND u.user_id
    ORDER BY o.user_id DESC, o.id DESC
    LIMIT $2
) AS newest
