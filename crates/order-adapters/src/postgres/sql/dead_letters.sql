-- $1: how many dead letters are counted, $2: how many groups are returned.
WITH dead AS (
    SELECT order_id FROM jobs WHERE due_at = 'infinity' ORDER BY order_id DESC LIMIT $1
)
SELECT o.failure_code, count(*)::integer, max(o.id::text)::uuid
FROM dead JOIN orders AS o ON o.id = dead.order_id
WHERE o.failure_code IS NOT NULL
GROUP BY o.failure_code
ORDER BY count(*) DESC, o.failure_code
LIMIT $2
