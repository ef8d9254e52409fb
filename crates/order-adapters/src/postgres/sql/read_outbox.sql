-- The entries of the outbox with the lowest positions behind $2, at most $1, with their events;
-- the columns of an event that is gone are NULL. Always returns a row, without an entry if there
-- is none; in the last column, the id below which all transactions had ended before this one read.
SELECT kept.order_id, kept.position, kept.version, event.at, event.user_id, event.status,
    event.code, event.message, event.trace_parent, ended.xmin
FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin) AS ended
LEFT JOIN (
    SELECT * FROM event_outbox WHERE position > $2 ORDER BY position LIMIT $1
) AS kept ON true
-- With its limit the subquery cannot become a join, so it is one or two descents of a primary
-- key for each entry.
LEFT JOIN LATERAL (
    -- Version 1 is the order itself.
    SELECT o.created_at AS at, o.user_id, 1::smallint AS status, NULL AS code, NULL AS message,
        o.trace_parent
    FROM orders o
    WHERE o.id = kept.order_id AND kept.version = 1
    UNION ALL
    SELECT e.at, (SELECT o.user_id FROM orders o WHERE o.id = e.order_id), e.status,
        e.data ->> 'code', e.data ->> 'message',
        (SELECT o.trace_parent FROM orders o WHERE o.id = e.order_id)
    FROM order_events e
    WHERE e.order_id = kept.order_id AND e.version = kept.version
    LIMIT 1
) AS event ON true
ORDER BY kept.position
