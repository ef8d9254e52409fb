-- Changes that are committed already, with their orders as they are now. $1 order_id,
-- $2 expected_version, $3 change_id.
SELECT o.id, o.user_id, o.amount_minor, o.currency, o.status, o.version, o.failure_code,
    o.failure_message, o.created_at, o.updated_at, o.metadata::text, o.external_id,
    c.expected_version, e.at
FROM unnest($1::uuid[], $2::integer[], $3::uuid[]) AS c (order_id, expected_version, change_id)
JOIN order_events e ON e.order_id = c.order_id AND e.version = c.expected_version + 1
    AND e.change_id = c.change_id
JOIN orders o ON o.id = c.order_id
WHERE o.id = ANY ($1) AND e.order_id = ANY ($1)
