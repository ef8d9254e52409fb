-- $1: how many jobs and events are counted. The oldest are found by indexes.
WITH counted AS (
    SELECT due_at, claim_id IS NOT NULL AS is_held FROM jobs LIMIT $1
)
SELECT
    count(*) FILTER (WHERE due_at <= now()),
    count(*) FILTER (WHERE due_at > now() AND due_at < 'infinity' AND NOT is_held),
    count(*) FILTER (WHERE due_at > now() AND due_at < 'infinity' AND is_held),
    count(*) FILTER (WHERE due_at = 'infinity'),
    (SELECT extract(epoch FROM now() - due_at)::float8 FROM jobs
        WHERE due_at <= now() ORDER BY due_at LIMIT 1),
    (SELECT count(*) FROM (SELECT FROM event_outbox LIMIT $1) AS waiting),
    (SELECT extract(epoch FROM now() - coalesce(
            (SELECT at FROM order_events AS e WHERE e.order_id = x.order_id AND e.version = x.version),
            (SELECT created_at FROM orders WHERE id = x.order_id)))::float8
        FROM event_outbox AS x ORDER BY position LIMIT 1)
FROM counted
