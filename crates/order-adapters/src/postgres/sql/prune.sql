-- Removes expired keys and tickets, up to $1 of each, the longest expired first. Rows that
-- another process is removing are left to it. No row here is ever updated, so one that is
-- locked stays where its ctid says.
WITH keys AS (
    DELETE FROM idempotency_keys
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_keys
        WHERE expires_at <= now()
        ORDER BY expires_at
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
),
tickets AS (
    DELETE FROM stream_tickets
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM stream_tickets
        WHERE expires_at <= now()
        ORDER BY expires_at
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT (SELECT count(*) FROM keys) + (SELECT count(*) FROM tickets)
