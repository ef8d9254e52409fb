-- Everything about order $1. $2 the most events and attempts, $3 how many entries of the outbox are
-- searched. Times in the record are microseconds since 1970.
SELECT o.id, o.user_id, o.amount_minor, o.currency, o.status, o.version, o.failure_code,
    o.failure_message, o.created_at, o.updated_at, o.metadata::text, o.external_id, now(),
    json_build_object(
        'trace_parent', o.trace_parent,
        'request_id', o.request_id,
        'gateway', o.gateway,
        'events', (
            SELECT json_agg(e ORDER BY e.version)
            FROM (
                SELECT version, status, (extract(epoch FROM at) * 1000000)::bigint AS at,
                    data ->> 'code' AS code, data ->> 'message' AS message
                FROM order_events
                WHERE order_id = $1
                ORDER BY version DESC
                LIMIT $2
            ) AS e
        ),
        'attempts', (
            SELECT json_agg(a ORDER BY a.attempt)
            FROM (
                SELECT attempt, worker, (extract(epoch FROM begun_at) * 1000000)::bigint AS begun_at,
                    (extract(epoch FROM ended_at) * 1000000)::bigint AS ended_at, outcome, error,
                    (extract(epoch FROM next_at) * 1000000)::bigint AS next_at
                FROM (
                    (
                        SELECT attempt, worker, begun_at, at AS ended_at, status AS outcome,
                            data ->> 'message' AS error, NULL::timestamptz AS next_at
                        FROM order_events
                        WHERE order_id = $1 AND attempt IS NOT NULL
                        ORDER BY version DESC
                        LIMIT $2
                    )
                    UNION ALL
                    (
                        SELECT attempt, worker, begun_at, ended_at, outcome, error, next_at
                        FROM order_attempts
                        WHERE order_id = $1
                        ORDER BY attempt DESC
                        LIMIT $2
                    )
                ) AS ended
                ORDER BY attempt DESC
                LIMIT $2
            ) AS a
        ),
        'job', (
            SELECT json_build_object(
                'attempt', attempt,
                'attempts_before', attempts_before,
                'due_at', (extract(epoch FROM nullif(due_at, 'infinity')) * 1000000)::bigint,
                'is_held', (claim_id IS NOT NULL)::integer,
                'holder', (SELECT p.id FROM processes p WHERE p.id = process_of_claim(claim_id)),
                'last_error', last_error
            )
            FROM jobs
            WHERE order_id = $1
        ),
        'unpublished', (
            SELECT CASE WHEN count(*) < $3 THEN coalesce(
                json_agg(version ORDER BY version) FILTER (WHERE order_id = $1), '[]'
            ) END
            FROM (SELECT order_id, version FROM event_outbox ORDER BY position LIMIT $3) AS waiting
            -- Without the trigger no events are published.
            HAVING EXISTS (
                SELECT FROM pg_trigger
                WHERE tgrelid = to_regclass('order_events') AND tgname = 'keep_order_events'
            )
        )
    )::text
FROM orders o
WHERE o.id = $1
